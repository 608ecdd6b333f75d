"""Rows in bulk: exported snapshots, COPY of tables and parts, and the state of a copy that runs."""
