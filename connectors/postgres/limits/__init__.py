"""What a publication sends of a table: its column list, and its row filter (PostgreSQL 15 on)."""
