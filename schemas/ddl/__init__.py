"""Schema changes as values: what the log says of them, and what a replica does to follow. Pure."""
