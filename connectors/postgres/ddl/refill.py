"""Rows of a table that DDL rewrote on the source, as they came in the log, into the emptied table."""

from __future__ import annotations

from collections.abc import Collection

from psycopg import sql

from connectors.postgres.copy.copytext import encode_rows
from connectors.postgres.session import Session
from schemas.ddl.message import TableRows
from schemas.ddl.record import parse_record
from schemas.errors import RefusedData
from schemas.identifiers import qualified


def refill(conn: Session, rows: TableRows, absent: Collection[str], *, into: tuple[str, str]) -> None:
    """In the session's open transaction. `absent`: columns that the replica goes without. `into`: the table.

    Raises psycopg.Error, RefusedData (`ddl-malformed`).
    """
    kept = [i for i, column in enumerate(rows.columns) if column not in absent]
    table = sql.Identifier(*into)
    if not kept:
        insert = sql.SQL("insert into {} select from generate_series(1, %s)").format(table)
        conn.execute(insert, [len(rows.records)])
        return
    text = encode_rows([[values[i] for i in kept] for values in _values(rows)])
    columns = sql.SQL(", ").join(sql.Identifier(rows.columns[i]) for i in kept)
    with (
        conn.cursor() as cursor,
        cursor.copy(sql.SQL("copy {} ({}) from stdin").format(table, columns)) as copy,
    ):
        copy.write(text)


def _values(rows: TableRows) -> list[list[bytes | None]]:
    try:
        return [
            [None if text is None else text.encode() for text in parse_record(record, len(rows.columns))]
            for record in rows.records
        ]
    except ValueError as error:
        raise RefusedData(
            f"rows of {qualified(rows.schema, rows.table)}: {error}",
            code="ddl-malformed",
            hint="The log is damaged or a newer Keepstream wrote it: run the version that captures.",
        ) from error
