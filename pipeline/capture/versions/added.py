"""Columns that were added to a table to which nobody writes.

DDL leaves no trace in the stream until the table's next row. So a look at the catalog finds such tables, and
one transaction of ours locks each against DDL, reads its version and emits a message: where that stands in
the stream the table has exactly this version, and capture announces its columns there. A message of
that prefix whose transaction is not known to be ours says nothing: the next look sends another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from psycopg import sql

from connectors.postgres.replication.relation import published_tables
from connectors.postgres.session import Session, connect, wrapped
from pipeline.capture.entries.schemachange import added_columns
from pipeline.capture.entries.shapes import KnownShape, KnownType, without_files
from schemas.entries import Entries
from schemas.errors import KeepstreamError, RefusedData, RetryLater
from schemas.table import TableSchema

logger = logging.getLogger("keepstream.capture")

ADDED_PREFIX: Final = "keepstream.added"
_LOCK_TIMEOUT: Final = "1s"
_LATER = frozenset({"lock-timeout", "transaction-conflict"})


class AddedColumns:
    """One capture's look-out. All is called in the thread that decodes, so that a message is never met
    before its transaction is known."""

    def __init__(self, source: str, publication: str, *, purpose: str) -> None:
        self._source = source
        self._publication = publication
        self._purpose = purpose
        self._told: set[bytes] = set()
        self._sent: dict[int, tuple[int, TableSchema]] = {}
        self._nothing_at: frozenset[KnownShape | KnownType] = frozenset()

    def look(self, session: Session, known: Iterable[TableSchema], entries: Entries) -> None:
        """Emit a message for each published table that has more columns than its newest known version.

        `entries`: the publication's, as just compared. The catalog is not read again while they say what they
        said when nothing was found.
        """
        columns = without_files(entries)
        if columns == self._nothing_at:
            return
        newest = {table.qualified_name: table for table in known}
        under_way = {table.id for _, table in self._sent.values()}
        grown = [
            table
            for table in published_tables(session, self._publication)
            if (before := newest.get(table.qualified_name)) is not None and _has_more(before, table)
        ]
        self._nothing_at = frozenset() if grown else columns
        for table in grown:
            if table.id not in under_way:
                self._try_send(table)

    def met(self, xid: int) -> tuple[int, TableSchema] | None:
        """A message stands in the stream in transaction `xid`: the table's OID and version there, if it
        is ours."""
        return self._sent.pop(xid, None)

    def _try_send(self, table: TableSchema) -> None:
        try:
            with (
                connect(self._source, purpose=self._purpose, autocommit=False) as session,
                wrapped(f"describing table {table.qualified_name} in the stream"),
            ):
                self._send(session, table)
        except KeepstreamError as error:
            if isinstance(error, RetryLater) and error.code not in _LATER:
                raise
            if table.id not in self._told:
                self._told.add(table.id)
                logger.warning(
                    "added columns not announced yet",
                    extra={"table": table.qualified_name, "code": error.code},
                )

    def _send(self, session: Session, table: TableSchema) -> None:
        name = sql.Identifier(table.schema, table.name)
        session.execute(sql.SQL("set local lock_timeout = {}").format(_LOCK_TIMEOUT))
        session.execute(sql.SQL("lock table only {} in access share mode").format(name))
        (now,) = self._version(session, table) or (None,)
        row = session.execute(
            "select pg_current_xact_id()::text::bigint, %s::regclass::oid::bigint", [name.as_string(session)]
        ).fetchone()
        if now is None or row is None:
            return  # it left the publication: that is judged elsewhere
        xid, oid = row
        session.execute("select pg_logical_emit_message(true, %s::text, ''::text)", [ADDED_PREFIX])
        self._sent[xid & 0xFFFFFFFF] = oid, now
        session.commit()

    def _version(self, session: Session, table: TableSchema) -> tuple[TableSchema, ...]:
        name = table.qualified_name
        return tuple(t for t in published_tables(session, self._publication) if t.qualified_name == name)


def _has_more(before: TableSchema, now: TableSchema) -> bool:
    """Whatever else changed is judged by the table's shape (`check_published`)."""
    try:
        return bool(added_columns(before, now))
    except RefusedData:
        return False
