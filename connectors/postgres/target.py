"""The tables that stand in a replica, and what our role may do to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from connectors.postgres.session import Session, wrapped


@dataclass(frozen=True, slots=True)
class PreparedTable:
    """A table of the replica. `writable`: we may do to it all that the stream does. `firing`: triggers
    and foreign keys that act on our writes unless session_replication_role keeps them quiet."""

    schema: str
    name: str
    writable: bool
    firing: tuple[str, ...]


_PREPARED: Final = """
    select n.nspname, c.relname,
           has_schema_privilege(n.oid, 'usage')
               and has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
               and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete')
               and has_table_privilege(c.oid, 'truncate'),
           array(select case when t.tgconstraint = 0 then 'trigger ' || quote_ident(t.tgname)
                             else 'foreign key ' || quote_ident(o.conname) end
                   from pg_trigger t left join pg_constraint o on o.oid = t.tgconstraint
                  where t.tgrelid = c.oid and t.tgenabled in ('O', 'A')
                    and coalesce(o.contype, 'f') = 'f'
                  group by 1 order by 1)
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relpersistence = 'p'
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
     order by 1, 2
"""


def read_prepared_tables(session: Session) -> tuple[PreparedTable, ...]:
    """Every table that stands in the replica now."""
    with wrapped("looking at the replica's tables"):
        rows = session.execute(_PREPARED).fetchall()
    return tuple(PreparedTable(*row) for row in rows)
