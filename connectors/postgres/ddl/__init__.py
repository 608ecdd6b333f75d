"""DDL that travels in the log: what the source's event triggers write of it."""
