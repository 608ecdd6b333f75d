"""Random schema changes and rows in sessions that cross, under kills: `tests/scenario/schema-fuzz`."""
