"""Rows that PostgreSQL sent in binary form, because their text would be longer than it can send."""
