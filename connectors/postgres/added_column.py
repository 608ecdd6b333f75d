"""ADD COLUMN on a replica, as the source did it: existing rows get the value that they have there."""

from __future__ import annotations

import logging
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres import deferred
from connectors.postgres.deferred import Deferred
from connectors.postgres.session import Session
from schemas.change import AddedColumn

logger = logging.getLogger("keepstream.apply")

# What a default may name that the replica lacks or our role may not use: rows do not need it.
_CANNOT_MAKE: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedObject,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
)


def add_column(conn: Session, pipeline: str, table: sql.Identifier, column: AddedColumn) -> None:
    """Add it, in the session's open transaction. A default that the replica cannot make is left out and kept
    in keepstream.deferred_ddl: what the source writes has the values already."""
    label = sql.Identifier(column.name)
    made = sql.SQL("alter table {} add column {} {}").format(table, label, sql.SQL(column.type_name))
    if column.missing is not None:
        made = sql.SQL("{} default {}").format(made, sql.Literal(column.missing))
    if column.not_null:
        made = sql.SQL("{} not null").format(made)
    conn.execute(made)
    if column.default is None or not _set_default(conn, pipeline, table, column.name, column.default):
        conn.execute(sql.SQL("alter table {} alter column {} drop default").format(table, label))


def _set_default(conn: Session, pipeline: str, table: sql.Identifier, column: str, default: str) -> bool:
    statement = sql.SQL("alter table {} alter column {} set default {}").format(
        table, sql.Identifier(column), sql.SQL(default)
    )
    try:
        with conn.transaction():
            conn.execute(statement)
    except _CANNOT_MAKE as error:
        reason = error.diag.message_primary or type(error).__name__
        shown = f"{table.as_string()}.{sql.Identifier(column).as_string()}"
        deferred.keep(conn, pipeline, Deferred("default", shown, reason, f"{statement.as_string(conn)};"))
        logger.warning("default of an added column left out", extra={"column": shown, "reason": reason})
        return False
    return True
