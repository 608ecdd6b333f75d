"""PostgreSQL: the replication stream, the catalog, snapshots, and writing to a replica."""
