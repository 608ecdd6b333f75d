"""Foreign keys to a table whose key gets another type and whose rows come anew: PostgreSQL would make them
again while it has no row yet. They are dropped before and made behind the rows, in the same transaction.

Those to a table whose rows come with a later copy wait for that: while they are there, it could only be
emptied row by row."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from psycopg import sql

from connectors.postgres.session import Session
from schemas.identifiers import qualified

_KEYS: Final = """
    select n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid),
           obj_description(k.oid, 'pg_constraint'), rn.nspname, r.relname
      from pg_constraint k
      join pg_class c on c.oid = k.conrelid
      join pg_namespace n on n.oid = c.relnamespace
      join pg_class r on r.oid = k.confrelid
      join pg_namespace rn on rn.oid = r.relnamespace
     where k.contype = 'f' and k.conparentid = 0
       and k.confrelid in (select to_regclass(format('%%I.%%I', s, t))
                             from unnest(%s::text[], %s::text[]) as named(s, t))
     order by k.oid
"""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One that `make` makes as it was. referenced: schema and name of the table that it refers to."""

    schema: str
    table: str
    name: str
    definition: str
    comment: str | None
    referenced: tuple[str, str]

    @property
    def shown(self) -> str:
        return qualified(self.schema, self.table, self.name)

    def drop(self) -> sql.Composed:
        return self._alter(sql.SQL("drop constraint {}").format(sql.Identifier(self.name)))

    def make(self) -> sql.Composed:
        name, definition = sql.Identifier(self.name), sql.SQL(self.definition)  # as PostgreSQL wrote it
        return self._alter(sql.SQL("add constraint {} {}").format(name, definition))

    def describe(self) -> sql.Composed:
        about = sql.Identifier(self.name), sql.Identifier(self.schema, self.table), sql.Literal(self.comment)
        return sql.SQL("comment on constraint {} on {} is {}").format(*about)

    def _alter(self, change: sql.Composed) -> sql.Composed:
        return sql.SQL("alter table {} ").format(sql.Identifier(self.schema, self.table)) + change


@dataclass(slots=True)
class SetAside:
    """Of one target transaction. `awaited`: tables whose rows are still to come."""

    awaited: int = 0
    keys: list[ForeignKey] = field(default_factory=list)

    def take(self, conn: Session, tables: Collection[tuple[str, str]]) -> None:
        """Drop the keys that refer to these tables."""
        named = sorted(tables)
        found = conn.execute(_KEYS, [[s for s, _ in named], [t for _, t in named]]).fetchall()
        for schema, table, name, definition, comment, *referenced in found:
            key = ForeignKey(schema, table, name, definition, comment, (referenced[0], referenced[1]))
            conn.execute(key.drop())
            self.keys.append(key)

    def ready(self) -> list[ForeignKey]:
        """Those to be made now: all, once every table has the rows that come in messages."""
        if self.awaited > 0:
            return []
        found, self.keys = self.keys, []
        return found
