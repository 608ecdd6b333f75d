"""Sequences: where they stand on the source, and setting a replica's (P23)."""
