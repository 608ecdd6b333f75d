"""How one table joins: one source transaction adds it to the publication, and emits its definition and
rows as logical messages (`schemas.join`), so that they stand in the log exactly where its changes begin.

An application's writes to the table wait as little as can be. It is dumped without a lock of ours. Then it is
locked against DDL alone, and proven to be as it was dumped. Before the transaction commits, an
ANCHOR announces its xid: a capture that is killed in between finds the publication changed by a
transaction that it can prove to be ours (P11). Writers are kept out at the very end: while few rows are
sent, or while many, sent before, are proven to be still the same.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from psycopg import sql

from connectors.failpoints import failpoint
from connectors.postgres import publication as publications
from connectors.postgres.catalog import Table, find_table
from connectors.postgres.pgtools import find_pgtools
from connectors.postgres.relation import published_tables
from connectors.postgres.session import Session, connect
from connectors.postgres.shape import read_shapes
from connectors.postgres.tableddl import TableDdl, definition_version, dump_table
from connectors.postgres.tablerows import copied_columns, copied_rows, row_versions
from pipeline.capture.announcements import join_token
from pipeline.capture.options import CaptureOptions
from pipeline.capture.packer import FramePacker
from pipeline.capture.shapes import shape_entry
from pipeline.capture.startup import OpenCapture
from schemas.errors import BEGIN_ANEW, RetryLater
from schemas.join import JOIN_PREFIX, JOIN_ROWS_PREFIX, Join
from schemas.table import TableSchema

ROWS_CHUNK_BYTES = 256 * 1024
JOIN_LIMIT_BYTES = 64 * 1024 * 1024
"""A table with more rows than this is not sent through the source's WAL by itself."""
ROWS_UNDER_LOCK_BYTES = 4 * 1024 * 1024
"""Rows of a table that is no larger are sent while its writers wait, so that it joins however busy it is."""
WRITERS_WAIT_S = 0.4
"""How long an application's writes may wait for us, beside the commit itself."""
LOCK_WAIT_MS = 150
"""For as long as we wait for running writers to end, new ones wait behind us."""
DDL_LOCK_WAIT_MS = 1500
"""Only DDL and VACUUM wait behind us then. Longer than deadlock_timeout: an autovacuum gives way."""
ANNOUNCE_LIMIT_S = 3.0
"""How long DDL on the table may wait for the log's sake."""

_STRANGERS = """
    select count(*)
      from pg_constraint k
      join pg_class c on c.oid = k.conrelid
      join pg_namespace n on n.oid = c.relnamespace
     where k.contype = 'f' and n.nspname = %s and c.relname = %s
       and not exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                        where p.pubname = %s and r.prrelid = k.confrelid)
"""
_PARENT = """
    select pn.nspname, p.relname
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
      join pg_namespace n on n.oid = c.relnamespace
      join pg_class p on p.oid = i.inhparent
      join pg_namespace pn on pn.oid = p.relnamespace
     where c.relispartition and n.nspname = %s and c.relname = %s
"""


def join_table(
    capture: OpenCapture, options: CaptureOptions, packer: FramePacker, table: Table
) -> TableSchema | str:
    """The version in which it joined, or why it cannot.

    Raises RetryLater, with a code of its own for what may be otherwise the next time: `table-altered`,
    `table-written`, `log-slow`, `lock-timeout`, `query-canceled`.
    """
    purpose = f"{options.name}:join"
    defined = definition_version(capture.sql, table.oid)
    dumped = _dump(capture.sql, options, table)
    with (
        connect(options.source, purpose=purpose, autocommit=False) as session,
        connect(options.source, purpose=purpose, autocommit=False) as reader,
    ):
        joining = _Joining(capture, options, packer, table, session, reader)
        return joining.lock_definition(defined) or joining.join(dumped)


def _dump(session: Session, options: CaptureOptions, table: Table) -> TableDdl:
    tools = find_pgtools(session.info.server_version // 10000, configured=options.pg_bin)
    return dump_table(tools, options.source, schema=table.schema, table=table.name, stop=threading.Event())


class _Joining:
    """The transaction (`session`), and a second one that reads the rows in one snapshot."""

    def __init__(
        self,
        capture: OpenCapture,
        options: CaptureOptions,
        packer: FramePacker,
        table: Table,
        session: Session,
        reader: Session,
    ) -> None:
        self._capture = capture
        self._publication = options.publication
        self._packer = packer
        self._oid = table.oid
        self._name = (table.schema, table.name)
        self._session = session
        self._reader = reader

    def lock_definition(self, defined: str) -> str | None:
        """Keep DDL out and check the table again, as it is now; why it cannot join, or None."""
        self._lock("share update exclusive", DDL_LOCK_WAIT_MS)
        now = find_table(self._session, self._oid)
        if now is None or (now.schema, now.name) != self._name:
            return "it was renamed or dropped meanwhile"
        if now.identity_problem is not None:
            return now.identity_problem
        if definition_version(self._session, self._oid) != defined:
            raise RetryLater("the table was altered while it was dumped", code="table-altered")
        return self._too_large(self._size_bytes())

    def join(self, dumped: TableDdl) -> TableSchema | str:
        version = self._publish()
        columns = copied_columns(self._session, self._name)
        self._emit(JOIN_PREFIX, self._definition(dumped, columns).to_json())
        self._reader.execute("set transaction isolation level repeatable read, read only")
        rows_sent = None
        if self._size_bytes() > ROWS_UNDER_LOCK_BYTES:
            self._send_rows(columns, None)
            rows_sent = row_versions(self._reader, self._name)
            failpoint("capture.join_rows_sent")
        self._lock("share row exclusive", LOCK_WAIT_MS)
        deadline = time.monotonic() + WRITERS_WAIT_S
        self._session.execute(f"set local statement_timeout = '{WRITERS_WAIT_S}s'")
        if rows_sent is None:
            too_large = self._too_large(self._size_bytes())
            if too_large is not None:
                return too_large
            self._send_rows(columns, deadline)
        elif row_versions(self._session, self._name) != rows_sent:
            raise RetryLater("rows were written while they were sent", code="table-written")
        self._reader.rollback()
        self._session.commit()
        failpoint("capture.after_join_committed")
        return version

    def _lock(self, mode: str, wait_ms: int) -> None:
        relation = sql.Identifier(*self._name)
        self._session.execute(f"set local lock_timeout = {wait_ms}")
        self._session.execute(sql.SQL(f"lock table only {{}} in {mode} mode").format(relation))

    def _size_bytes(self) -> int:
        return int(self._one("select pg_table_size(%s::oid)", [self._oid])[0])

    def _too_large(self, size_bytes: int) -> str | None:
        if size_bytes <= JOIN_LIMIT_BYTES:
            return None
        return (
            f"it already holds {size_bytes >> 20} MiB, more than the {JOIN_LIMIT_BYTES >> 20} MiB that can"
            f" join by itself: to copy it, {BEGIN_ANEW}"
        )

    def _publish(self) -> TableSchema:
        """Add it to the publication and announce that, durably. Nobody else sees it before the commit."""
        (xid,) = self._one("select pg_current_xact_id()::text::bigint", [])
        publications.add_tables(self._session, self._publication, [self._name])
        (version,) = (
            found
            for found in published_tables(self._session, self._publication)
            if (found.schema, found.name) == self._name
        )
        shapes = read_shapes(self._session, self._publication, oid=self._oid)
        failpoint("capture.before_join_announced")
        self._announce((join_token(xid & 0xFFFFFFFF), *map(shape_entry, shapes)), version)
        failpoint("capture.after_join_announced")
        return version

    def _announce(self, entries: tuple[str, ...], version: TableSchema) -> None:
        """P11: the ANCHOR that names our transaction is durable before that commits. It holds the
        table's version, too: a capture that continues must notice what is added to it later (P6)."""
        chain = self._capture.chain
        chain.publication_is(chain.publication + entries)
        chain.anchor((*self._packer.live_tables, version))
        deadline = time.monotonic() + ANNOUNCE_LIMIT_S
        while not chain.all_durable:
            if time.monotonic() > deadline:
                raise RetryLater("the log is too slow", code="log-slow")
            chain.settle(0.1)

    def _definition(self, dumped: TableDdl, columns: tuple[str, ...]) -> Join:
        schema, name = self._name
        ddl = tuple(script for script in (dumped.before, dumped.after) if script)
        keys = (dumped.foreign_keys,) if dumped.foreign_keys and self._keys_resolve() else ()
        parent = self._session.execute(_PARENT, self._name).fetchone() or ()
        attach = (dumped.attach,) if parent and dumped.attach else ()
        return Join(schema, name, columns, ddl, keys, parent, attach)

    def _keys_resolve(self) -> bool:
        """Whether replicas have the rows of every table that this one's foreign keys name."""
        return bool(self._one(_STRANGERS, [*self._name, self._publication])[0] == 0)

    def _send_rows(self, columns: tuple[str, ...], deadline: float | None) -> None:
        """Emit the rows, as the reader's snapshot shows them, which begins here."""
        for chunk in copied_rows(self._reader, self._name, columns, chunk_bytes=ROWS_CHUNK_BYTES):
            self._emit(JOIN_ROWS_PREFIX, chunk)
            if deadline is not None and time.monotonic() > deadline:
                raise RetryLater("sending rows took too long", code="query-canceled")

    def _emit(self, prefix: str, content: bytes) -> None:
        emit = "select pg_logical_emit_message(true, %s::text, %s::bytea)"
        self._session.execute(emit, [prefix, content])

    def _one(self, query: str, values: list[Any]) -> tuple[Any, ...]:
        row = self._session.execute(query, values).fetchone()
        assert row is not None
        return row
