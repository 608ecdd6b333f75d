"""Partitions: which rows they take, and whose rows those are."""
