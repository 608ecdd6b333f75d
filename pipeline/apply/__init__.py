"""Apply: the log's transactions become the replica's, exactly once, in order (P13–P16)."""
