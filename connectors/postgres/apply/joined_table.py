"""A joining table on a replica: made as the source has it, or found there, prepared by somebody.

`take_in` is what apply does with it. `rehearse` does the same and takes it back: so capture learns, before
the table is in the log, that a replica could not follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.apply.catalog import TargetTable, load_table
from connectors.postgres.apply.statements import empty_sql, relation
from connectors.postgres.catalog.columns import TableColumns
from connectors.postgres.replica import deferred
from connectors.postgres.replica.firing import silencing
from connectors.postgres.replica.fitting import require_fit, require_quiet
from connectors.postgres.replica.row_security import lift_forced
from connectors.postgres.replica.target import read_unlogged
from connectors.postgres.session import Session
from schemas.errors import OperatorNeeded
from schemas.join import Join
from schemas.table import ReplicaIdentity, TableSchema

_KIND: Final = """
    select c.relkind::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = %s and c.relname = %s
"""
_MAKE_ROOM: Final = (
    "Mend on the replica what its message says, or make the table there as it is on the source, without rows;"
    " then start again."
)


@dataclass(frozen=True, slots=True)
class Place:
    """Whose table it becomes: pipeline and replica by name. `replica_role`: our sessions there may set
    session_replication_role."""

    pipeline: str
    replica: str
    replica_role: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """is_prepared: it was there. is_attached: it is a partition, as on the source."""

    is_prepared: bool
    is_attached: bool


def take_in(
    conn: Session,
    join: Join,
    version: TableSchema | None,
    *,
    at: Place,
    source: TableColumns | None = None,
) -> Taken:
    """In the session's open transaction. `version`: what the log's rows have; None: not known. `source`: what
    the source's catalog says of its columns, where that could be asked.

    Raises psycopg.Error, OperatorNeeded (`join-not-empty`, `join-refused`, `replica-schema`,
    `replica-triggers`, `replica-row-security`).
    """
    is_prepared = kind_of(conn, join.schema, join.table) is not None
    is_attached = False
    if is_prepared:
        _require_prepared(conn, join, version, at, source)
        _make_logged(conn, join)
    else:
        _run(conn, join.ddl)
        is_attached = bool(join.parent) and kind_of(conn, *join.parent) == "p"
        if is_attached:
            _run(conn, join.attach)
        _silence(conn, _target(conn, join, at), at)
    require_quiet(_target(conn, join, at), replica=at.replica, replica_role=at.replica_role)
    return Taken(is_prepared, is_attached)


def rehearse(conn: Session, join: Join, version: TableSchema, *, at: Place, source: TableColumns) -> None:
    """Raises what `take_in` does; nothing of it stays. The session must be in autocommit."""
    with conn.transaction(force_rollback=True):
        take_in(conn, join, version, at=at, source=source)


def join_refused(error: psycopg.Error, doing: str) -> OperatorNeeded:
    """The replica's server refused to make the table."""
    seen = error.diag.message_primary or type(error).__name__
    return OperatorNeeded(f"{doing}: {seen}", code="join-refused", hint=_MAKE_ROOM)


def _silence(conn: Session, target: TargetTable, at: Place) -> None:
    """Of a table that we made: what would act on our writes keeps still, and policies do not bind us."""
    _run(conn, silencing(target.firing))
    for each in lift_forced(conn, [target.policed] if target.policed else []):
        deferred.keep(conn, at.pipeline, each)


def _require_prepared(
    conn: Session, join: Join, version: TableSchema | None, at: Place, source: TableColumns | None
) -> None:
    target = _target(conn, join, at)
    name = sql.Identifier(join.schema, join.table)
    if conn.execute(sql.SQL("select from {} limit 1").format(relation(target))).fetchone() is not None:
        raise OperatorNeeded(
            f"{name.as_string()} has rows in {at.replica} already",
            code="join-not-empty",
            hint=f"Look at them, empty the table on the replica ({empty_sql(target)}) and start again.",
        )
    if version is None:
        return
    require_fit(version, target, replica=at.replica, source=source)
    key = [sql.Identifier(version.columns[i].name) for i in version.key_indexes]
    if key and not target.key and version.replica_identity is not ReplicaIdentity.FULL:
        statement = sql.SQL("alter table {} add primary key ({});").format(name, sql.SQL(", ").join(key))
        raise OperatorNeeded(
            f"{name.as_string()} of {at.replica} has no key",
            code="replica-schema",
            hint=f"Give it the source's and start again: {statement.as_string()}",
        )


def _make_logged(conn: Session, join: Join) -> None:
    """A crash would empty an unlogged table or partition, and the replica's position would stay. The first
    copy makes one of a table that is unlogged on the source, and that joins once it is not."""
    for name in read_unlogged(conn).get((join.schema, join.table), ()):
        conn.execute(f"alter table only {name} set logged".encode())


def _target(conn: Session, join: Join, at: Place) -> TargetTable:
    return load_table(conn, join.schema, join.table, replica_role=at.replica_role)


def _run(conn: Session, statements: Sequence[str]) -> None:
    for statement in statements:
        conn.execute(statement.encode())


def kind_of(conn: Session, schema: str, name: str) -> str | None:
    """pg_class.relkind; None if the replica has nothing of that name."""
    found = conn.execute(_KIND, [schema, name]).fetchone()
    return None if found is None else str(found[0])
