"""The partitions below tables, at any depth, as SQL to stand in a query."""

from __future__ import annotations

from typing import Final, LiteralString

from psycopg import sql

_TREE: Final = """(
    with recursive tree (oid) as (
        {tables}
        union
        select i.inhrelid
          from tree t
          join pg_catalog.pg_class up on up.oid = t.oid and up.relkind = 'p'
          join pg_catalog.pg_inherits i on i.inhparent = t.oid)
    select oid from tree)"""


def with_partitions(tables: LiteralString) -> sql.Composed:
    """A subquery of one column `oid`: these tables and all partitions below them. `tables`: SQL that selects
    OIDs, in which it may name tables of the query around it.

    As the query's snapshot shows them: `pg_partition_tree` would show those of now, and lock them all.
    """
    return sql.SQL(_TREE).format(tables=sql.SQL(tables))
