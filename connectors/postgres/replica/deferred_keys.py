"""Foreign keys in `keepstream.deferred_ddl`, until they are made: those that refer to a table, and what the
source makes of them meanwhile.

    add constraint …                       the key
    validate, alter, comment on constraint what became of it, made behind it
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from connectors.postgres.replica.deferred import is_there, written
from connectors.postgres.session import Session
from schemas.ddl.renaming import AS_RELATION, with_names
from schemas.ddl.renaming_keys import Renaming, of_table, with_column, with_constraint
from schemas.identifiers import qualified


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry, by its id."""

    id: int
    object: str
    statement: str

    @property
    def makes_key(self) -> bool:
        return _REFERENCES in self.statement and not _IS_COMMENT.match(self.statement)


def keys_to(conn: Session, name: str, table: tuple[str, str]) -> list[Kept]:
    """The foreign keys among them that refer to this table of the replica, to one that it is a partition of,
    or to a partition of it, in their order."""
    if not is_there(conn):
        return []
    names = {form: _TARGET for of in conn.execute(_SHARING_ROWS, table) for form in written(conn, of)}
    refers = f"{_REFERENCES}{_TARGET}"
    return [
        kept
        for kept in _keys(conn, name)
        if kept.makes_key and refers in with_names(kept.statement, names, AS_RELATION)
    ]


def changes_of_keys_to(conn: Session, name: str, table: tuple[str, str]) -> list[Kept]:
    """What became of foreign keys (VALIDATE, a comment) of those tables that have one, made, to this table,
    to one that it is a partition of, or to a partition of it, in their order."""
    if not is_there(conn):
        return []
    owners = tuple(f"{qualified(*row)}." for row in conn.execute(_REFERRING, table))
    return [kept for kept in _keys(conn, name) if not kept.makes_key and kept.object.startswith(owners)]


def rename_key(conn: Session, name: str, table: tuple[str, ...], old: str, new: str) -> bool:
    """The foreign key of this table is called otherwise on the source, too. Returns whether anything is kept
    of it."""
    if not is_there(conn):
        return False
    renaming = Renaming(frozenset(written(conn, (old,))), written(conn, (new,))[1])
    found = [kept for kept in _keys(conn, name) if kept.object == qualified(*table, old)]
    for kept in found:
        _change(conn, kept, qualified(*table, new), with_constraint(kept.statement, renaming))
    return bool(found)


def rename_column(conn: Session, name: str, table: tuple[str, ...], old: str, new: str) -> None:
    """The column of this table is called otherwise on the source, too: so it is in keys of the table and in
    keys to it."""
    if not is_there(conn):
        return
    renaming = Renaming(frozenset(written(conn, (old,))), written(conn, (new,))[0])
    names = frozenset(written(conn, table))
    for kept in _keys(conn, name):
        is_own = kept.object.startswith(f"{qualified(*table)}.")
        statement = with_column(kept.statement, renaming, own=is_own, referenced=names)
        if kept.makes_key and statement != kept.statement:
            _change(conn, kept, kept.object, statement)


def hand_down(conn: Session, name: str, whole: tuple[str, str], table: tuple[str, str]) -> None:
    """A partition that becomes a table of its own keeps the keys of the whole, which waits for them."""
    if not is_there(conn):
        return
    prefix, to = f"{qualified(*whole)}.", written(conn, table)[1]
    for kept in _keys(conn, name):
        if kept.makes_key and kept.object.startswith(prefix):
            obj = f"{qualified(*table)}.{kept.object.removeprefix(prefix)}"
            conn.execute(
                "insert into keepstream.deferred_ddl (name, kind, object, reason, statement)"
                " select name, kind, %s, reason, %s from keepstream.deferred_ddl where id = %s",
                [obj, of_table(kept.statement, to), kept.id],
            )


def _change(conn: Session, kept: Kept, obj: str, statement: str) -> None:
    query = "update keepstream.deferred_ddl set object = %s, statement = %s where id = %s"
    conn.execute(query, [obj, statement, kept.id])


def _keys(conn: Session, name: str) -> list[Kept]:
    query = "select id, object, statement from keepstream.deferred_ddl"
    rows = conn.execute(f"{query} where name = %s and kind = 'foreign key' order by id", [name]).fetchall()
    return [Kept(*row) for row in rows]


_IS_COMMENT: Final = re.compile("comment on ", re.IGNORECASE)
_REFERENCES: Final = " REFERENCES "
_TARGET: Final = "\N{NULL}"
_SHARING_ROWS: Final = """
    select n.nspname, c.relname
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace,
           to_regclass(format('%%I.%%I', %s::text, %s::text)) named (oid)
     where c.oid = named.oid or c.oid in (select pg_catalog.pg_partition_ancestors(named.oid))
        or c.oid in (select relid from pg_catalog.pg_partition_tree(named.oid))
"""
_REFERRING: Final = """
    select n.nspname, r.relname
      from pg_catalog.pg_constraint k
      join pg_catalog.pg_class r on r.oid = k.conrelid
      join pg_catalog.pg_namespace n on n.oid = r.relnamespace,
           to_regclass(format('%%I.%%I', %s::text, %s::text)) named (oid)
     where k.contype = 'f'
       and (k.confrelid = named.oid or k.confrelid in (select pg_catalog.pg_partition_ancestors(named.oid))
            or k.confrelid in (select relid from pg_catalog.pg_partition_tree(named.oid)))
"""
