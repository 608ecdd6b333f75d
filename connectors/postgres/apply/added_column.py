"""ADD COLUMN on a replica, as the source did it: existing rows get the value that they have there."""

from __future__ import annotations

import logging
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.apply.catalog import TargetTable
from connectors.postgres.apply.statements import relation
from connectors.postgres.replica import deferred
from connectors.postgres.replica.deferred import Deferred
from connectors.postgres.session import Session
from schemas.change import AddedColumn
from schemas.errors import OperatorNeeded

logger = logging.getLogger("keepstream.apply")

CANNOT_MAKE: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedObject,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
)
"""A default may name what the replica lacks or our role may not use: rows do not need it."""


def add_column(conn: Session, pipeline: str, table: sql.Identifier, column: AddedColumn) -> None:
    """Add it, in the session's open transaction. A default that the replica cannot make is left out and kept
    in keepstream.deferred_ddl: what the source writes has the values already."""
    label = sql.Identifier(column.name)
    # NULL is said, too: where the replica's domain has a default, that would fill them.
    made = sql.SQL("alter table {} add column {} {} default {}").format(
        table, label, sql.SQL(column.type_name), sql.Literal(column.missing)
    )
    if column.not_null and column.missing is not None:
        made = sql.SQL("{} not null").format(made)
    conn.execute(made)
    if column.default is None or not _set_default(conn, pipeline, table, column.name, column.default):
        conn.execute(sql.SQL("alter table {} alter column {} drop default").format(table, label))


# format() writes a value as PostgreSQL sends it, also of types without equality. num_nulls(): IS NULL also
# holds for a composite value whose fields are all NULL.
_OTHERS: Final = """
    select exists (
        select from {table}
         where case when {missing}::text is null then num_nulls({column}) = 0
                    else num_nulls({column}) = 1 or format('%s', {column}) <> {missing} end)
"""


def require_values(conn: Session, target: TargetTable, column: AddedColumn) -> None:
    """A column that the replica has already, because somebody made it or a parent has it, must hold what the
    source's rows hold: all are looked at. Raises OperatorNeeded (`column-differs`)."""
    table, shown = relation(target), sql.Identifier(target.schema, target.name).as_string(conn)
    label, missing = sql.Identifier(column.name), sql.Literal(column.missing)
    others = conn.execute(sql.SQL(_OTHERS).format(table=table, column=label, missing=missing)).fetchone()
    if others == (False,):
        return
    mend = sql.SQL("update {} set {} = {};").format(table, label, missing).as_string(conn)
    raise OperatorNeeded(
        f"the replica's {shown} has a column {label.as_string(conn)} already, and rows that hold something"
        f" else in it than {missing.as_string(conn)}, which rows of the source have from before it was added",
        code="column-differs",
        hint=f"Run on the replica: {mend} Then start again.",
    )


def _set_default(conn: Session, pipeline: str, table: sql.Identifier, column: str, default: str) -> bool:
    statement = sql.SQL("alter table {} alter column {} set default {}").format(
        table, sql.Identifier(column), sql.SQL(default)
    )
    try:
        with conn.transaction():
            conn.execute(statement)
    except CANNOT_MAKE as error:
        reason = error.diag.message_primary or type(error).__name__
        shown = f"{table.as_string()}.{sql.Identifier(column).as_string()}"
        deferred.keep(conn, pipeline, Deferred("default", shown, reason, f"{statement.as_string(conn)};"))
        logger.warning("default of an added column left out", extra={"column": shown, "reason": reason})
        return False
    return True
