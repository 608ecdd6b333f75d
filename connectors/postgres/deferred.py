"""`keepstream.deferred_ddl` on the replica: SQL of the source that the replica was made without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from psycopg import sql

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


ROLE_MAY_NOT: Final = "our role may not set session_replication_role, so it would act on rows being applied"


def because_not_replicated(referenced: str) -> str:
    """Why a foreign key to this table is left out."""
    return f"it refers to {referenced}, whose rows are not replicated"


@dataclass(frozen=True, slots=True)
class Deferred:
    """A statement that the replica was made without. `kind`: `foreign key`, `key`, `trigger`, `rule`,
    `row security` or `default`, or `ignored` of one that a policy leaves out."""

    kind: str
    object: str
    reason: str
    statement: str


def find(conn: Session, name: str, statement: str) -> list[int]:
    """Ids of the entries with this very statement; none where there is no table for them."""
    there = conn.execute("select to_regclass('keepstream.deferred_ddl') is not null").fetchone()
    if there != (True,):
        return []
    query = "select id from keepstream.deferred_ddl where name = %s and statement = %s"
    return [number for (number,) in conn.execute(query, [name, statement])]


def remove(conn: Session, ids: Sequence[int]) -> None:
    """What they say was made."""
    conn.execute("delete from keepstream.deferred_ddl where id = any(%s)", [list(ids)])


def explain(conn: Session, ids: Sequence[int], reason: str) -> None:
    """Why they could not be made when it was tried again."""
    conn.execute("update keepstream.deferred_ddl set reason = %s where id = any(%s)", [reason, list(ids)])


def defer(conn: Session, name: str, deferred: Sequence[Deferred]) -> None:
    """Keep the statements that the replica of pipeline `name` is made without."""
    values = [(name, d.kind, d.object, d.reason, d.statement) for d in deferred]
    with wrapped("writing keepstream.deferred_ddl"), conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(
            """insert into keepstream.deferred_ddl (name, kind, object, reason, statement)
               values (%s, %s, %s, %s, %s)""",
            values,
        )


def keep(conn: Session, name: str, one: Deferred) -> None:
    """`defer` outside of a copy: a replica that was prepared has no table for it yet."""
    for statement in INSTALL:
        conn.execute(statement)
    defer(conn, name, [one])


def take_back(conn: Session, name: str, kind: str, obj: str) -> None:
    """The entries of one object: it is gone on the source, or something else is kept of it."""
    there = conn.execute("select to_regclass('keepstream.deferred_ddl') is not null").fetchone()
    if there == (True,):
        query = "delete from keepstream.deferred_ddl where (name, kind, object) = (%s, %s, %s)"
        conn.execute(query, [name, kind, obj])


def rename(conn: Session, name: str, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    """A table, or a whole schema (one part), is called otherwise on the source, too: so it is in what is
    kept of it."""
    there = conn.execute("select to_regclass('keepstream.deferred_ddl') is not null").fetchone()
    if there != (True,):
        return
    forms = tuple(zip(_written(conn, old), _written(conn, new), strict=True))
    kept = conn.execute(
        "select id, object, statement from keepstream.deferred_ddl where name = %s", [name]
    ).fetchall()
    for number, obj, statement in kept:
        renamed = _renamed_object(obj, ".".join(old), ".".join(new)), _renamed(statement, forms, len(old))
        if renamed != (obj, statement):
            conn.execute(
                "update keepstream.deferred_ddl set object = %s, statement = %s where id = %s",
                [*renamed, number],
            )


def _written(conn: Session, parts: tuple[str, ...]) -> tuple[str, str]:
    """As we quote it, and as PostgreSQL does in definitions."""
    row = conn.execute(
        "select string_agg(quote_ident(part), '.' order by n)"
        " from unnest(%s::text[]) with ordinality as u(part, n)",
        [list(parts)],
    ).fetchone()
    assert row is not None
    return sql.Identifier(*parts).as_string(), row[0]


def _renamed_object(obj: str, old: str, new: str) -> str:
    return new + obj.removeprefix(old) if obj == old or obj.startswith(f"{old}.") else obj


_KEPT: Final = r"'(?:[^']|'')*'(?!::regclass)|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"


def _renamed(statement: str, forms: tuple[tuple[str, str], ...], parts: int) -> str:
    """Texts and bodies of functions stay, as on the source. A schema's name is one only before a dot."""
    behind = r"(?=\.)" if parts == 1 else r"(?![\w$\"])"
    for was, now in forms:
        pattern = rf"{_KEPT}|(?P<name>(?<![\w$.\"]){re.escape(was)}{behind})"
        statement = re.sub(pattern, partial(_put, now), statement, flags=re.DOTALL)
    return statement


def _put(now: str, found: re.Match[str]) -> str:
    return now if found["name"] else found[0]


def forget(conn: Session, name: str) -> None:
    """All of them: the copy begins anew."""
    conn.execute("delete from keepstream.deferred_ddl where name = %s", [name])
