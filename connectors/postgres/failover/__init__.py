"""A source that may fail over to a standby: its hosts, which of them is the primary, and its standbys."""
