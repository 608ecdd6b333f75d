"""`keepstream.deferred_ddl` on the replica: SQL of the source that the replica was made without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.session import Session, wrapped
from schemas.ddl.renaming import AS_QUALIFIER, AS_RELATION, with_names
from schemas.identifiers import qualified

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


JOINS_LATER: Final = "partition"
"""Kind of the entry of a table that left a whole: the replica has none of that name until it joins."""
IGNORED: Final = "ignored"
"""Kind of the entry of what a policy leaves out, or what is said of that."""
ROLE_MAY_NOT: Final = "our role may not set session_replication_role, so it would act on rows being applied"


def because_not_replicated(referenced: str) -> str:
    """Why a foreign key to this table is left out."""
    return f"it refers to {referenced}, whose rows are not replicated"


def because_policy(kind: str) -> str:
    """Why a change that the policy for its kind ignores is left out."""
    return f"the policy for {kind} leaves it out"


def because_awaiting(referenced: str) -> str:
    """Why a foreign key to this table is not made yet."""
    return f"it refers to {referenced}, whose rows are still to be copied"


@dataclass(frozen=True, slots=True)
class Deferred:
    """A statement that the replica was made without. `kind`: `foreign key`, `key`, `trigger`, `rule`,
    `row security` or `default`, IGNORED, or JOINS_LATER, which has nothing to run."""

    kind: str
    object: str
    reason: str
    statement: str


def is_there(conn: Session) -> bool:
    """Whether anything was ever kept."""
    found = conn.execute("select to_regclass('keepstream.deferred_ddl') is not null").fetchone()
    return found == (True,)


def find(conn: Session, name: str, statement: str) -> list[int]:
    """Ids of the entries with this very statement; none where there is no table for them."""
    if not is_there(conn):
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


def take_back(conn: Session, name: str, kind: str, obj: str, *, reason: str | None = None) -> None:
    """The entries of one object: it is gone on the source, or something else is kept of it. `reason`: only
    those that have this one."""
    if is_there(conn):
        query = "delete from keepstream.deferred_ddl where (name, kind, object) = (%s, %s, %s)"
        conn.execute(f"{query} and reason = coalesce(%s, reason)", [name, kind, obj, reason])


def call(conn: Session, name: str, kind: str, old: str, new: str) -> None:
    """The entries of one object, whose statements stay as they are: their order is the source's."""
    query = "update keepstream.deferred_ddl set object = %s where (name, kind, object) = (%s, %s, %s)"
    conn.execute(query, [new, name, kind, old])


def forget_table(conn: Session, name: str, table: tuple[str, ...]) -> None:
    """It is gone, and with it all that is kept of it."""
    if is_there(conn):
        query = "delete from keepstream.deferred_ddl where name = %s and starts_with(object || '.', %s)"
        conn.execute(query, [name, f"{qualified(*table)}."])


def has(conn: Session, name: str, kind: str, obj: str) -> bool:
    """Whether an entry of this kind is kept of the object."""
    if not is_there(conn):
        return False
    query = "select exists (select from keepstream.deferred_ddl where (name, kind, object) = (%s, %s, %s))"
    return conn.execute(query, [name, kind, obj]).fetchone() == (True,)


def has_of_table(conn: Session, name: str, table: tuple[str, ...]) -> bool:
    """Whether the replica was made without something of this table."""
    if not is_there(conn):
        return False
    query = "select exists (select from keepstream.deferred_ddl where name = %s and starts_with(object, %s))"
    return conn.execute(query, [name, f"{qualified(*table)}."]).fetchone() == (True,)


def rename(conn: Session, name: str, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    """A table, or a whole schema (one part), is called otherwise on the source, too: so it is in what is
    kept of it."""
    if not is_there(conn):
        return
    names = dict(zip(written(conn, old), written(conn, new), strict=True))
    place = AS_QUALIFIER if len(old) == 1 else AS_RELATION
    kept = conn.execute(
        "select id, object, statement from keepstream.deferred_ddl where name = %s", [name]
    ).fetchall()
    for number, obj, statement in kept:
        renamed = _renamed(obj, qualified(*old), qualified(*new)), with_names(statement, names, place)
        if renamed != (obj, statement):
            conn.execute(
                "update keepstream.deferred_ddl set object = %s, statement = %s where id = %s",
                [*renamed, number],
            )


def written(conn: Session, parts: tuple[str, ...]) -> tuple[str, str]:
    """A name as PostgreSQL quotes it in definitions, and as we do."""
    row = conn.execute(
        "select string_agg(quote_ident(part), '.' order by n)"
        " from unnest(%s::text[]) with ordinality as u(part, n)",
        [list(parts)],
    ).fetchone()
    assert row is not None
    return row[0], sql.Identifier(*parts).as_string()


def _renamed(obj: str, old: str, new: str) -> str:
    return new + obj.removeprefix(old) if obj == old or obj.startswith(f"{old}.") else obj


def forget(conn: Session, name: str) -> None:
    """All of them: the copy begins anew."""
    conn.execute("delete from keepstream.deferred_ddl where name = %s", [name])
