"""Which rows partitions take: their bounds, and those of the partitions that they belong to themselves."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.session import Session, wrapped

# Bounds name no columns; without the table, pg_get_expr() does not wait for whoever has that locked.
_BOUNDS: Final = """
    select n.nspname, c.relname,
           string_agg(pg_get_partkeydef(i.inhparent) || ' ' || pg_get_expr(a.relpartbound, 0), ' of '
                      order by up.place)
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     cross join lateral pg_partition_ancestors(c.oid) with ordinality up (oid, place)
      join pg_class a on a.oid = up.oid and a.relispartition
      join pg_inherits i on i.inhrelid = a.oid
     where c.oid = any (%s::oid[]) and c.relispartition
     group by n.nspname, c.relname
"""
# A key of another integer type prints its numbers between quotes.
_NUMBER: Final = re.compile(r"'(-?\d+)'")


def read_bounds(session: Session, tables: Collection[int]) -> dict[TableName, str]:
    """Of those of the tables (OIDs) that are partitions: keys and bounds from the partition up, as PostgreSQL
    prints them."""
    with wrapped("reading the bounds of partitions"):
        rows = session.execute(_BOUNDS, [sorted(tables)]).fetchall()
    return {(schema, name): plain_bound(bounds) for schema, name, bounds in rows}


def plain_bound(bound: str) -> str:
    """As PostgreSQL prints it, whatever integer type the key has."""
    return _NUMBER.sub(r"\1", bound)
