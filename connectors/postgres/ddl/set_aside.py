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
    with named as (
        select to_regclass(format('%%I.%%I', s, t)) as oid, large
          from unnest(%s::text[], %s::text[], %s::boolean[]) as given(s, t, large)
    ), rows_of as (
        select k.oid as key, array_agg(array[n.nspname, c.relname]::text[] order by c.oid) as tables
          from pg_constraint k
         cross join lateral (
               select k.confrelid union select pg_partition_ancestors(k.confrelid)
               union select relid from pg_partition_tree(k.confrelid)) tree (oid)
          join pg_class c on c.oid = tree.oid
          join pg_namespace n on n.oid = c.relnamespace
         where k.contype = 'f' and k.conparentid = 0
         group by k.oid
        having bool_or(exists (select from named
                                where named.oid = k.confrelid or (named.large and named.oid = c.oid)))
    )
    select n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid),
           obj_description(k.oid, 'pg_constraint'), rn.nspname, r.relname, rows_of.tables
      from rows_of
      join pg_constraint k on k.oid = rows_of.key
      join pg_class c on c.oid = k.conrelid
      join pg_namespace n on n.oid = c.relnamespace
      join pg_class r on r.oid = k.confrelid
      join pg_namespace rn on rn.oid = r.relnamespace
     order by k.oid
"""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One that `make` makes as it was. referenced: schema and name of the table that it refers to; rows_of:
    of all tables whose rows may be those that it refers to: that one, what it is a partition of, and its
    partitions."""

    schema: str
    table: str
    name: str
    definition: str
    comment: str | None
    referenced: tuple[str, str]
    rows_of: tuple[tuple[str, str], ...]

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

    def take(
        self, conn: Session, *, retyped: Collection[tuple[str, str]], large: Collection[tuple[str, str]]
    ) -> None:
        """Drop the keys that refer to these tables; to large ones, also by what they are a partition of, or
        by a partition."""
        given = [(*table, table in large) for table in sorted({*retyped, *large})]
        columns = [list(column) for column in zip(*given, strict=True)] or [[], [], []]
        for schema, table, name, definition, comment, *referenced, tables in conn.execute(
            _KEYS, columns
        ).fetchall():
            rows_of = tuple((s, t) for s, t in tables)
            key = ForeignKey(
                schema, table, name, definition, comment, (referenced[0], referenced[1]), rows_of
            )
            conn.execute(key.drop())
            self.keys.append(key)

    def forget(self, table: tuple[str, str], name: str) -> None:
        """The key is gone on the source."""
        self.keys = [key for key in self.keys if (key.schema, key.table, key.name) != (*table, name)]

    def ready(self) -> list[ForeignKey]:
        """Those to be made now: all, once every table has the rows that come in messages."""
        if self.awaited > 0:
            return []
        found, self.keys = self.keys, []
        return found
