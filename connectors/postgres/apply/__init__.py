"""Changes into a replica: one by one or as sets, and what stands between them (DDL, joining tables)."""
