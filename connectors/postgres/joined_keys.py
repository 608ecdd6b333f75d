"""Foreign keys of a table that joined: made on the replica, or kept in `keepstream.deferred_ddl`."""

from __future__ import annotations

import logging
from dataclasses import replace

import psycopg

from connectors.postgres import deferred
from connectors.postgres.deferred import ROLE_MAY_NOT, Deferred, because_not_replicated
from connectors.postgres.session import Session
from schemas.join import JoinKey, JoinKeys

logger = logging.getLogger("keepstream.apply")


def without_inherited(keys: JoinKeys) -> JoinKeys:
    """Of a table that is a partition here, too."""
    return replace(
        keys,
        own=tuple(key for key in keys.own if not key.inherited),
        left_out=tuple(key for key in keys.left_out if not key.inherited),
    )


def make_keys(conn: Session, pipeline: str, keys: JoinKeys, *, replica_role: bool) -> None:
    """In the session's open transaction, after the rows. `replica_role`: foreign keys keep still for what is
    applied; else none is made. One that cannot be made, or whose tables are locked for longer than the
    session waits, is kept in keepstream.deferred_ddl and stops nothing."""
    for key in keys.left_out:
        _keep(conn, pipeline, key, because_not_replicated(key.referenced))
    for key in keys.own:
        reason = _make(conn, key) if replica_role else ROLE_MAY_NOT
        if reason is not None:
            _keep(conn, pipeline, key, reason)
    for key in keys.awaited if replica_role else ():
        _make_awaited(conn, pipeline, key)


def _make(conn: Session, key: JoinKey) -> str | None:
    """None, or why it could not be made."""
    try:
        with conn.transaction():
            conn.execute(key.statement.encode())
    except (
        psycopg.ProgrammingError,
        psycopg.IntegrityError,
        psycopg.NotSupportedError,
        psycopg.errors.LockNotAvailable,
    ) as error:
        return error.diag.message_primary or type(error).__name__
    return None


def _make_awaited(conn: Session, pipeline: str, key: JoinKey) -> None:
    """One that this replica was made without, because the table that it names was not there."""
    found = deferred.find(conn, pipeline, key.statement)
    if not found:
        return
    reason = _make(conn, key)
    if reason is None:
        deferred.remove(conn, found)
        logger.info("foreign key made", extra={"key": key.name})
    else:
        deferred.explain(conn, found, reason)
        logger.warning("foreign key left out", extra={"key": key.name, "reason": reason})


def _keep(conn: Session, pipeline: str, key: JoinKey, reason: str) -> None:
    deferred.keep(conn, pipeline, Deferred("foreign key", key.name, reason, key.statement))
    logger.warning("foreign key left out", extra={"key": key.name, "reason": reason})
