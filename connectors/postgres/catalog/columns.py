"""What a table's columns hold, and which of them its server computes: what the log does not tell.

The log has no values of generated columns, stored or virtual: each replica computes its own, if it does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from connectors.postgres.catalog.held_types import HeldColumns, read_held_columns
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.session import Session, wrapped


@dataclass(frozen=True, slots=True)
class Generated:
    """Both are SQL, as PostgreSQL prints it where search_path is empty. `expression`: None while somebody
    alters the table."""

    type_name: str
    expression: str | None

    def __str__(self) -> str:
        return f"{self.type_name} {self.expression}"


@dataclass(frozen=True, slots=True)
class TableColumns:
    """By name. `held` has all of them."""

    held: HeldColumns
    generated: Mapping[str, Generated]

    def only(self, names: Collection[str]) -> TableColumns:
        """The same of some columns."""
        held = {name: column for name, column in self.held.items() if name in names}
        return TableColumns(held, {name: self.generated[name] for name in self.generated if name in names})


# pg_get_expr() waits for whoever has the table locked, or stands in the queue for that.
_GENERATED: Final = """
    select n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
           case when not exists (select from pg_locks l
                                  where l.relation = c.oid and l.mode = 'AccessExclusiveLock'
                                    and l.database = (select oid from pg_database
                                                       where datname = current_database()))
                then pg_get_expr(d.adbin, d.adrelid) end
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and a.attgenerated <> ''
      join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
     where c.oid = any (%s::oid[])
"""


def read_table_columns(session: Session, tables: Collection[int]) -> dict[TableName, TableColumns]:
    """Of tables by OID, as the session's snapshot shows them. One without columns is left out."""
    with wrapped("reading generated columns"):
        rows = session.execute(_GENERATED, [sorted(tables)]).fetchall()
    generated: dict[TableName, dict[str, Generated]] = {}
    for schema, table, column, type_name, expression in rows:
        generated.setdefault((schema, table), {})[column] = Generated(type_name, expression)
    held = read_held_columns(session, tables)
    return {name: TableColumns(columns, generated.get(name, {})) for name, columns in held.items()}
