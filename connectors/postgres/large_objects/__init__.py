"""Large objects: reading and writing them. They are MVCC, and not in the stream."""
