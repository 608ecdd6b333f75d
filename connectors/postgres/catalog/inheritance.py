"""Tables that inherit from others: a statement that names a parent without ONLY reaches their rows, too."""

from __future__ import annotations

from typing import Final

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.session import Session, wrapped

_CHILDREN: Final = """
    select pn.nspname, p.relname, cn.nspname, c.relname
      from pg_inherits i
      join pg_class p on p.oid = i.inhparent
      join pg_namespace pn on pn.oid = p.relnamespace
      join pg_class c on c.oid = i.inhrelid
      join pg_namespace cn on cn.oid = c.relnamespace
     where p.relkind = 'r' and c.relpersistence <> 't'
     order by 1, 2, 3, 4
"""


def read_children(session: Session) -> tuple[tuple[TableName, TableName], ...]:
    """Each parent with each of its children. Partitions are none: a partitioned table has no other rows."""
    with wrapped("looking for tables that inherit"):
        rows = session.execute(_CHILDREN).fetchall()
    return tuple(((parent_schema, parent), (schema, child)) for parent_schema, parent, schema, child in rows)
