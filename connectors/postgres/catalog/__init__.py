"""What catalogs say of tables, their columns, types, keys and publication."""
