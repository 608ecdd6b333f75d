"""How one table joins: one source transaction adds it to the publication, and emits its definition and
rows as logical messages (`schemas.join`), so that they stand in the log exactly where its changes begin.

An application's writes to the table wait as little as can be (decision 009). Whatever takes time is done
without a lock of ours, and proven at the end to be still true:

    read     definition and dependencies in one snapshot, and pg_dump in the same; each replica makes the
             table for a moment and takes it back: what one could not follow does not join (`definitions`)
    preview  the version that would be published, in a savepoint that is rolled back, locks and all
    announce an ANCHOR names our transaction: a capture that is killed in between finds the publication
             changed by a transaction that it can prove to be ours (P11)
    send     a large table's rows, as a reader's snapshot shows them
    lock     writers and DDL are kept out: the definition is as it was dumped, and the rows are as they
             were sent. A small table's rows are sent now, so that it joins however busy it is
    keys     its foreign keys follow its rows: a replica makes what it can, and keeps the others for later
    commit

A table with more rows than may be written through the WAL joins without them (decision 017): of the steps
above it has neither the sending of rows nor their proof, and holds the lock for the commit alone.

Only one session of ours ever holds a lock while we wait for another one: PostgreSQL sees no deadlock
between sessions that wait for each other through us.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from enum import Enum
from typing import Any, LiteralString

from psycopg import sql

from connectors.failpoints import failpoint
from connectors.postgres.catalog import publication as publications
from connectors.postgres.catalog.foreignkeys import read_keys_of
from connectors.postgres.catalog.shape import read_shape
from connectors.postgres.catalog.tableddl import definition_version
from connectors.postgres.catalog.tablerows import copied_rows, emit_rows, row_versions
from connectors.postgres.catalog.tables import Table, TableKind, find_table
from connectors.postgres.limits.harmless import require_harmless
from connectors.postgres.limits.limit import Limit
from connectors.postgres.partitions.below import with_partitions
from connectors.postgres.partitions.tree import Member, read_members
from connectors.postgres.replication.relation import published_tables
from connectors.postgres.server import current_xid
from connectors.postgres.session import Session
from pipeline.capture.entries.announcements import JOINS
from pipeline.capture.entries.limitednames import require_none_below
from pipeline.capture.entries.partitions import MEMBERS, KnownMember
from pipeline.capture.entries.shapes import SHAPES, KnownShape, first_shape
from pipeline.capture.entries.told import TOLD, Told
from pipeline.capture.joins.definitions import Definition, NotNow
from pipeline.capture.joins.ownsession import begin
from pipeline.capture.opened import OpenCapture
from pipeline.capture.options import CaptureOptions
from pipeline.capture.writing.packer import FramePacker
from schemas.errors import RetryLater
from schemas.join import JOIN_EMPTY_PREFIX, JOIN_KEYS_PREFIX, JOIN_PREFIX, JOIN_ROWS_PREFIX, Join, JoinKeys
from schemas.table import TableSchema

ROWS_CHUNK_BYTES = 256 * 1024
JOIN_LIMIT_BYTES = 64 * 1024 * 1024
"""Of a table with more rows than this none are sent through the source's WAL."""
ROWS_LIMIT_BYTES = 4 * JOIN_LIMIT_BYTES
"""The same for the rows as text: in the table their values may be compressed."""
PAGES = 8
"""Of a table whose rows are sent at once, so many go into one message."""
WAITERS_EVERY_S = 0.1
ROWS_UNDER_LOCK_BYTES = 4 * 1024 * 1024
"""Rows of a table that is no larger are sent while its writers wait."""
LOCKED_MS = 350
"""How long all of our statements together may take while writers wait, the commit not counted. With the wait
for the lock it is half a second."""
LOCKED_IDLE_MS = 1_000
"""The server ends a transaction of ours sooner if it falls silent with a lock."""


class Rows(Enum):
    """How a table's rows get to replicas: sent while its writers wait, sent before that, or copied later."""

    LOCKED = "locked"
    BEFORE = "before"
    LATER = "later"


_WAITERS = """
    select count(*)
      from pg_locks l join pg_database d on d.oid = l.database
     where d.datname = current_database() and l.relation = %s::oid and not l.granted
"""


def join_table(
    capture: OpenCapture,
    options: CaptureOptions,
    packer: FramePacker,
    table: Table,
    definition: Definition,
    *,
    rows: Rows,
) -> TableSchema:
    """The version in which it joined.

    Raises NotNow, RefusedData (`limit-differs`), OperatorNeeded (`limit-unfit`), and RetryLater with a code
    of its own for what may be otherwise the next time: `table-altered`, `table-written`, `rows-too-large`,
    `log-slow`, `lock-timeout`, `query-canceled`.
    """
    join, defined = definition.join, definition.version
    with closing(begin(options)) as session:
        joining = _Joining(capture, options, packer, table, session)
        version = joining.announce(defined)
        if rows is Rows.LATER:
            joining.join_empty(join, defined)
        elif rows is Rows.BEFORE:
            joining.join_large(join, defined)
        else:
            joining.join_small(join, defined)
        return version


def rows_of(session: Session, table: Table, *, as_large: bool = False, without_rows: bool = False) -> Rows:
    """By its size now. `as_large`: an attempt has shown that its rows are more than that tells;
    `without_rows`: that it cannot join with them."""
    size_bytes = _size_bytes(session, table.oid)
    if without_rows or size_bytes > JOIN_LIMIT_BYTES:
        return Rows.LATER
    return Rows.BEFORE if as_large or size_bytes > ROWS_UNDER_LOCK_BYTES else Rows.LOCKED


def require_joinable(session: Session, table: Table, *, publication: str) -> None:
    """Raises NotNow where that can be told without any effort."""
    now = find_table(session, table.oid, publication=publication)
    if now is None or (now.schema, now.name) != (table.schema, table.name):
        raise NotNow("it was renamed or dropped meanwhile")
    if now.identity_problem is not None:
        raise NotNow(now.identity_problem)


class _Joining:
    """The transaction, in `session`. Only its commit makes anything of it count."""

    def __init__(
        self,
        capture: OpenCapture,
        options: CaptureOptions,
        packer: FramePacker,
        table: Table,
        session: Session,
    ) -> None:
        self._capture = capture
        self._options = options
        self._packer = packer
        self._oid = table.oid
        self._name = (table.schema, table.name)
        self._is_whole = table.kind is TableKind.PARTITIONED
        limit = options.tables.limit_of(*self._name)
        self._limit, self._limits = limit or Limit(), {self._name: limit} if limit is not None else {}
        self._session = session
        self._members: tuple[Member, ...] = ()

    def announce(self, defined: str) -> TableSchema:
        """P11: an ANCHOR that names our transaction is durable before that commits. It holds the table's
        version, too: a capture that continues must notice what is added to it later (P6)."""
        xid = current_xid(self._session)
        version, shape, told = self._preview(defined)
        members = [member for member in self._members if member.root == self._oid]
        failpoint("capture.before_join_announced")
        chain = self._capture.chain
        known = chain.publication
        earlier = [oid for oid, each in known.of(MEMBERS).items() if each.root == self._oid]
        known = known.drop(MEMBERS, *earlier).put(MEMBERS, *map(KnownMember.of, members))
        known = known.put(SHAPES, shape).put(TOLD, told, *self._partitions_told(members))
        chain.publication_is(known.put(JOINS, str(xid & 0xFFFFFFFF)))
        chain.anchor((*self._packer.live_tables, version))
        chain.require_durable()
        failpoint("capture.after_join_announced")
        return version

    def join_small(self, join: Join, defined: str) -> None:
        """Send the rows while writers wait."""
        self._emit(JOIN_PREFIX, join.to_json())
        keys = self._read_keys()
        deadline = self._lock(defined)
        if _size_bytes(self._session, self._oid) > ROWS_UNDER_LOCK_BYTES:
            raise RetryLater("the table has grown meanwhile", code="table-written")
        self._require_time(deadline)
        emit_rows(
            self._session,
            self._name,
            join.columns,
            JOIN_ROWS_PREFIX,
            pages=PAGES,
            is_whole=self._is_whole,
            where=self._limit.where,
        )
        self._require_time(deadline)
        self._send_keys(keys)
        self._commit(deadline)

    def join_large(self, join: Join, defined: str) -> None:
        """Send the rows while writers go on, and join if they did not write meanwhile."""
        self._emit(JOIN_PREFIX, join.to_json())
        with closing(begin(self._options, isolation="repeatable read, read only")) as reader:
            reader.execute(_lock_statement(self._name, "access share", is_whole=self._is_whole))
            self._send_rows(reader, join.columns)
            sent = row_versions(reader, self._name, is_whole=self._is_whole)
        self._send_keys(self._read_keys())
        failpoint("capture.join_rows_sent")
        deadline = self._lock(defined)
        self._require_time(deadline)
        if row_versions(self._session, self._name, is_whole=self._is_whole) != sent:
            raise RetryLater("rows were written while they were sent", code="table-written")
        self._commit(deadline)

    def join_empty(self, join: Join, defined: str) -> None:
        """Send no rows. Writers are kept out for the commit all the same: each transaction behind it has all
        its changes of the table in the stream, so that a copy at any later place has the others."""
        self._emit(JOIN_EMPTY_PREFIX, join.to_json())
        self._send_keys(self._read_keys())
        deadline = self._lock(defined)
        self._commit(deadline)

    def _send_rows(self, reader: Session, columns: tuple[str, ...]) -> None:
        """Stops as soon as somebody waits for the table's lock: writers would have to queue behind him."""
        sent_bytes, looked_at = 0, time.monotonic()
        chunks = copied_rows(
            reader,
            self._name,
            columns,
            chunk_bytes=ROWS_CHUNK_BYTES,
            is_whole=self._is_whole,
            where=self._limit.where,
        )
        for chunk in chunks:
            sent_bytes += len(chunk)
            if sent_bytes > ROWS_LIMIT_BYTES:
                raise RetryLater("the rows are too large", code="rows-too-large")
            self._emit(JOIN_ROWS_PREFIX, chunk)
            if time.monotonic() - looked_at > WAITERS_EVERY_S:
                looked_at = time.monotonic()
                if _one(self._session, _WAITERS, [self._oid])[0]:
                    raise RetryLater("somebody waits for the table's lock", code="lock-timeout")

    def _preview(self, defined: str) -> tuple[TableSchema, KnownShape, Told]:
        """The table's version and the entries about it, as the publication would have them."""
        self._session.execute("savepoint preview")
        self._publish()
        self._require_as(defined)
        require_harmless(self._session, self._options.publication, self._limits)
        published = published_tables(self._session, self._options.publication)
        found = [each for each in published if (each.schema, each.name) == self._name]
        shape = read_shape(self._session, self._oid, self._options.publication)
        self._members = read_members(self._session, self._options.publication)
        parts = {each.oid: each.name for each in self._members if each.root == self._oid != each.oid}
        require_none_below(self._capture.chain.publication, parts, self._options.tables)
        self._session.execute("rollback to savepoint preview")
        self._session.execute("release savepoint preview")
        if not found or shape is None:
            raise NotNow("it has no columns")
        told = replace(Told.of_shape(shape, *self._name), joining=True)
        return found[0], first_shape(shape), told

    def _partitions_told(self, members: Sequence[Member]) -> list[Told]:
        """What schema messages behind this place are compared with."""
        publication = self._options.publication
        shapes = {member.oid: read_shape(self._session, member.oid, publication) for member in members}
        return [
            Told.of_shape(shape, member.schema, member.table)
            for member in members
            if member.oid != member.root and (shape := shapes[member.oid]) is not None
        ]

    def _read_keys(self) -> JoinKeys:
        return read_keys_of(self._session, self._oid, self._options.publication)

    def _send_keys(self, keys: JoinKeys) -> None:
        """After the rows, which they are proven with on the replica."""
        if keys:
            self._emit(JOIN_KEYS_PREFIX, keys.to_json())

    def _lock(self, defined: str) -> float:
        """Keep writers and DDL out; the definition is as it was. Returns when they have waited long enough.

        Nothing is locked before: whoever has written and goes on to DDL would wait for us, and we for him.
        """
        self._session.execute(_lock_statement(self._name, "share row exclusive", is_whole=self._is_whole))
        deadline = time.monotonic() + LOCKED_MS / 1000
        self._session.execute(
            f"set local statement_timeout = {LOCKED_MS};"
            f" set local idle_in_transaction_session_timeout = {LOCKED_IDLE_MS}"
        )
        self._require_as(defined)
        return deadline

    def _require_time(self, deadline: float) -> None:
        """The next statement may take what is left of it."""
        left_ms = int((deadline - time.monotonic()) * 1000)
        if left_ms <= 0:
            raise RetryLater("the table's writers waited long enough", code="query-canceled")
        self._session.execute(f"set local statement_timeout = {left_ms}")

    def _require_as(self, defined: str) -> None:
        if definition_version(self._session, self._oid) != defined:
            raise RetryLater("the table was altered while it was dumped", code="table-altered")

    def _commit(self, deadline: float) -> None:
        self._require_time(deadline)
        self._publish()
        self._require_time(deadline)
        self._session.commit()
        failpoint("capture.after_join_committed")

    def _publish(self) -> None:
        publications.add_tables(self._session, self._options.publication, [self._name], self._limits)

    def _emit(self, prefix: str, content: bytes) -> None:
        emit = "select pg_logical_emit_message(true, %s::text, %s::bytea)"
        self._session.execute(emit, [prefix, content])


def _size_bytes(session: Session, oid: int) -> int:
    """With its partitions."""
    query = sql.SQL("select coalesce(sum(pg_table_size(oid)), 0) from {} tree")
    return int(_one(session, query.format(with_partitions("select %s::oid")), [oid])[0])


def _lock_statement(name: tuple[str, str], mode: str, *, is_whole: bool) -> sql.Composed:
    only = "" if is_whole else "only "
    return sql.SQL(f"lock table {only}{{}} in {mode} mode").format(sql.Identifier(*name))


def _one(session: Session, query: LiteralString | sql.Composed, values: list[Any]) -> tuple[Any, ...]:
    row = session.execute(query, values).fetchone()
    assert row is not None
    return row
