"""Mending one table of a replica that stands at a known LSN: each table in one transaction of the replica."""
