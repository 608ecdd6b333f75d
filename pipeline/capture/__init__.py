"""Capture: from the source's replication slot into the change log, each transaction once (P3–P11)."""
