"""The tables that stand in a replica, and what our role may do to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.replica.firing import Firing, read_firing
from connectors.postgres.replica.row_security import Policed, read_policed
from connectors.postgres.session import Session, wrapped


@dataclass(frozen=True, slots=True)
class PreparedTable:
    """A table of the replica. `writable`: we may do to it all that the stream does. `firing`: what
    acts on our writes. `policed`: that policies would refuse them. `unlogged`: what a crash would empty,
    it or partitions of it, as SQL."""

    oid: int
    schema: str
    name: str
    owner: str
    writable: bool
    firing: tuple[Firing, ...]
    policed: Policed | None
    unlogged: tuple[str, ...]


_PREPARED: Final = """
    select c.oid::bigint, n.nspname, c.relname, pg_get_userbyid(c.relowner),
           has_schema_privilege(n.oid, 'usage')
               and has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
               and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete')
               and has_table_privilege(c.oid, 'truncate')
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relpersistence <> 't'
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
     order by 2, 3
"""

_UNLOGGED: Final = """
    select n.nspname, c.relname, format('%I.%I', un.nspname, u.relname)
      from pg_class u
      join pg_namespace un on un.oid = u.relnamespace
     cross join lateral (select u.oid union select relid from pg_partition_ancestors(u.oid)) held (oid)
      join pg_class c on c.oid = held.oid
      join pg_namespace n on n.oid = c.relnamespace
     where u.relkind = 'r' and u.relpersistence = 'u'
     order by 1, 2, 3
"""


def read_unlogged(session: Session) -> dict[TableName, tuple[str, ...]]:
    """By table, what of it a crash would empty: itself or partitions, as SQL."""
    unlogged: dict[TableName, list[str]] = {}
    for schema, name, each in session.execute(_UNLOGGED):
        unlogged.setdefault((schema, name), []).append(each)
    return {table: tuple(names) for table, names in unlogged.items()}


def read_prepared_tables(session: Session, *, replica_role: bool) -> tuple[PreparedTable, ...]:
    """Every table that stands in the replica now. `replica_role`: we may set session_replication_role."""
    firing: dict[tuple[str, str], list[Firing]] = {}
    for each in read_firing(session, replica_role=replica_role):
        firing.setdefault((each.schema, each.table), []).append(each)
    policed = {(each.schema, each.table): each for each in read_policed(session)}
    with wrapped("looking at the replica's tables"):
        rows = session.execute(_PREPARED).fetchall()
        unlogged = read_unlogged(session)
    return tuple(
        PreparedTable(
            oid,
            schema,
            name,
            owner,
            writable,
            tuple(firing.get((schema, name), ())),
            policed.get((schema, name)),
            unlogged.get((schema, name), ()),
        )
        for oid, schema, name, owner, writable in rows
    )
