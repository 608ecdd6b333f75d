"""Foreign keys of a table that joined: made on the replica, or kept in `keepstream.deferred_ddl`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

import psycopg

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.copystream import Tick, run_query
from connectors.postgres.replica import deferred, deferred_keys
from connectors.postgres.replica.deferred import (
    ROLE_MAY_NOT,
    Deferred,
    because_awaiting,
    because_not_replicated,
)
from connectors.postgres.session import Session
from schemas.identifiers import qualified
from schemas.join import JoinKey, JoinKeys

logger = logging.getLogger("keepstream.apply")

_CANNOT_MAKE: Final = (
    psycopg.ProgrammingError,
    psycopg.IntegrityError,
    psycopg.NotSupportedError,
    psycopg.errors.LockNotAvailable,
)


def without_inherited(keys: JoinKeys) -> JoinKeys:
    """Of a table that is a partition here, too."""
    return replace(
        keys,
        own=tuple(key for key in keys.own if not key.inherited),
        left_out=tuple(key for key in keys.left_out if not key.inherited),
    )


def make_keys(
    conn: Session,
    pipeline: str,
    keys: JoinKeys,
    *,
    replica_role: bool,
    of: TableName,
    awaiting: Collection[TableName],
) -> None:
    """In the session's open transaction, after the rows of table `of`. `replica_role`: foreign keys keep
    still for what is applied; else none is made. One that cannot be made, or whose tables are locked for
    longer than the session waits, is kept in keepstream.deferred_ddl and stops nothing. `awaiting`: tables
    whose rows are not there; a key to one of them is made when they are."""
    unready = {qualified(*table) for table in awaiting}
    others = unready - {qualified(*of)}
    for key in keys.left_out:
        _keep(conn, pipeline, key, because_not_replicated(key.referenced))
    for key in keys.own:
        reason = _make_to(conn, key, others) if replica_role else ROLE_MAY_NOT
        if reason is not None:
            _keep(conn, pipeline, key, reason)
    for key in keys.awaited if replica_role else ():
        _make_awaited(conn, pipeline, key, unready)


def make_keys_to(conn: Session, pipeline: str, table: TableName, tick: Tick) -> None:
    """In the session's open transaction, once a table has its rows: those kept in keepstream.deferred_ddl
    that refer to it, and then what became of them. One that cannot be made, or whose tables are locked for
    longer than the session waits, stays there."""

    def run(statement: str) -> None:
        run_query(conn, statement, tick)

    for key in deferred_keys.keys_to(conn, pipeline, table):
        _settle(conn, [key.id], key.object, _make(conn, key.statement, run))
    for change in deferred_keys.changes_of_keys_to(conn, pipeline, table):
        _settle(conn, [change.id], change.object, _make(conn, change.statement, run))


def _make_to(conn: Session, key: JoinKey, unready: Collection[str]) -> str | None:
    """None, or why it could not be made, or is not to be yet."""
    if key.referenced in unready:
        return because_awaiting(key.referenced)
    return _make(conn, key.statement, lambda statement: conn.execute(statement.encode()))


def _make(conn: Session, statement: str, run: Callable[[str], object]) -> str | None:
    """None, or why it could not be made. `run`: in the session."""
    try:
        with conn.transaction():
            run(statement)
    except _CANNOT_MAKE as error:
        return error.diag.message_primary or type(error).__name__
    return None


def _make_awaited(conn: Session, pipeline: str, key: JoinKey, unready: Collection[str]) -> None:
    """One that this replica was made without, because the table that it names was not there."""
    found = deferred.find(conn, pipeline, key.statement)
    if found:
        _settle(conn, found, key.name, _make_to(conn, key, unready))


def _settle(conn: Session, kept: Sequence[int], name: str, reason: str | None) -> None:
    """What was kept of a key: it was made, or could not be made for this reason."""
    if reason is None:
        deferred.remove(conn, kept)
        logger.info("foreign key made", extra={"key": name})
    else:
        deferred.explain(conn, kept, reason)
        logger.warning("foreign key left out", extra={"key": name, "reason": reason})


def _keep(conn: Session, pipeline: str, key: JoinKey, reason: str) -> None:
    deferred.keep(conn, pipeline, Deferred("foreign key", key.name, reason, key.statement))
    logger.warning("foreign key left out", extra={"key": key.name, "reason": reason})
