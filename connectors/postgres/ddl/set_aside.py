"""Foreign keys to a table whose key gets another type and whose rows come anew: PostgreSQL would make them
again while it has no row yet. They are dropped before and made behind the rows, in the same transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from psycopg import sql

from connectors.postgres.session import Session
from schemas.identifiers import qualified

_KEYS: Final = """
    select n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid),
           obj_description(k.oid, 'pg_constraint')
      from pg_constraint k
      join pg_class c on c.oid = k.conrelid
      join pg_namespace n on n.oid = c.relnamespace
     where k.contype = 'f' and k.conparentid = 0
       and k.confrelid in (select to_regclass(format('%%I.%%I', s, t))
                             from unnest(%s::text[], %s::text[]) as named(s, t))
     order by k.oid
"""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One that `make` makes as it was."""

    schema: str
    table: str
    name: str
    definition: str
    comment: str | None

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

    def take(self, conn: Session, tables: Iterable[tuple[str, ...]]) -> None:
        """Drop the keys that refer to these tables."""
        named = sorted(set(tables))
        for row in conn.execute(_KEYS, [[s for s, _ in named], [t for _, t in named]]).fetchall():
            key = ForeignKey(*row)
            conn.execute(key.drop())
            self.keys.append(key)

    def filled(self) -> list[ForeignKey]:
        """A table has its rows: those keys that can be made now."""
        self.awaited -= 1
        if self.awaited > 0:
            return []
        found, self.keys = self.keys, []
        return found
