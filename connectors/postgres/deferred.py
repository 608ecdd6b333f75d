"""`keepstream.deferred_ddl` on the replica: SQL of the source that the replica was made without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from connectors.postgres.session import Session, wrapped

INSTALL: Final = (
    """create table if not exists keepstream.deferred_ddl (
        id bigint generated always as identity primary key,
        name text not null,
        kind text not null,
        object text not null,
        reason text not null,
        statement text not null
    )""",
    "comment on table keepstream.deferred_ddl is "
    "'What the source has and this replica was made without; run it, in order, when it becomes a primary.'",
)


@dataclass(frozen=True, slots=True)
class Deferred:
    """A statement that the replica was made without. `kind`: `foreign key`, `trigger` or `default`."""

    kind: str
    object: str
    reason: str
    statement: str


def install(conn: Session) -> None:
    """Make the table where it is missing: a replica that was prepared has none."""
    for statement in INSTALL:
        conn.execute(statement)


def find(conn: Session, name: str, statement: str) -> list[int]:
    """Ids of the entries with this very statement; none where there is no table for them."""
    there = conn.execute("select to_regclass('keepstream.deferred_ddl') is not null").fetchone()
    if there != (True,):
        return []
    query = "select id from keepstream.deferred_ddl where name = %s and statement = %s"
    return [number for (number,) in conn.execute(query, [name, statement])]


def drop(conn: Session, ids: Sequence[int]) -> None:
    """What they say was made."""
    conn.execute("delete from keepstream.deferred_ddl where id = any(%s)", [list(ids)])


def defer(conn: Session, name: str, deferred: Sequence[Deferred]) -> None:
    """Keep the statements that the replica of pipeline `name` is made without."""
    values = [(name, d.kind, d.object, d.reason, d.statement) for d in deferred]
    with wrapped("writing keepstream.deferred_ddl"), conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(
            """insert into keepstream.deferred_ddl (name, kind, object, reason, statement)
               values (%s, %s, %s, %s, %s)""",
            values,
        )


def forget(conn: Session, name: str) -> None:
    """All of them: the copy begins anew."""
    conn.execute("delete from keepstream.deferred_ddl where name = %s", [name])
