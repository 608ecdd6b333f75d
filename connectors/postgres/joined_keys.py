"""Foreign keys of a table that joined: made on the replica, or kept in `keepstream.deferred_ddl`."""

from __future__ import annotations

import logging

import psycopg

from connectors.postgres import deferred
from connectors.postgres.deferred import Deferred
from connectors.postgres.session import Session
from schemas.join import JoinKey, JoinKeys

logger = logging.getLogger("keepstream.apply")

ROLE_MAY_NOT = "our role may not set session_replication_role, so it would act on rows being applied"


def not_replicated(referenced: str) -> str:
    """Why a key to a table is left out."""
    return f"it refers to {referenced}, whose rows are not replicated"


def make_keys(conn: Session, pipeline: str, keys: JoinKeys, *, replica_role: bool) -> None:
    """In the session's open transaction, after the rows. `replica_role`: foreign keys keep still for what is
    applied; else none is made. One that the replica cannot make stops nothing."""
    later = [_deferred(key, not_replicated(key.referenced)) for key in keys.left_out]
    for key in keys.own:
        reason = _make(conn, key) if replica_role else ROLE_MAY_NOT
        if reason is not None:
            later.append(_deferred(key, reason))
    if replica_role:
        for key in keys.awaited:
            _make_awaited(conn, pipeline, key)
    if later:
        deferred.install(conn)
        deferred.defer(conn, pipeline, later)
        names = ", ".join(each.object for each in later)
        logger.warning("foreign keys left out", extra={"keys": names, "reason": later[0].reason})


def _make(conn: Session, key: JoinKey) -> str | None:
    """None, or why it could not be made."""
    try:
        with conn.transaction():
            conn.execute(key.statement.encode())
    except (psycopg.ProgrammingError, psycopg.IntegrityError, psycopg.NotSupportedError) as error:
        return error.diag.message_primary or type(error).__name__
    return None


def _make_awaited(conn: Session, pipeline: str, key: JoinKey) -> None:
    """One that this replica was made without, because the table that it names was not there."""
    found = deferred.find(conn, pipeline, key.statement)
    if found and _make(conn, key) is None:
        deferred.drop(conn, found)
        logger.info("foreign key made", extra={"key": key.name})


def _deferred(key: JoinKey, reason: str) -> Deferred:
    return Deferred("foreign key", key.name, reason, key.statement)
