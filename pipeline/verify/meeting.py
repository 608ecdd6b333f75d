"""Bringing source and replica to one LSN, each behind a snapshot of its own (P21).

    hold the replica at G, the source's insert LSN
    take a snapshot of the source: S > G
    let the replica go on to S, exactly
    take a snapshot of the replica, and let it go on

The hold expires by itself if this process dies, and is prolonged while a step takes long.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from connectors.failpoints import failpoint
from connectors.postgres.hold import hold, move_hold, release
from connectors.postgres.progress import HoldKind, ReplicaState, require
from connectors.postgres.session import Session, connect, wrapped
from connectors.postgres.snapshot import (
    Blocker,
    ExportedSnapshot,
    begin_in_snapshot,
    export_snapshot,
    wait_until_visible,
)
from connectors.postgres.snapshot_tables import Observer, SnapshotTable, lock_table, published_tables
from schemas.errors import OperatorNeeded, RetryLater, Unhealthy
from schemas.lsn import Lsn, format_lsn, parse_lsn

HOLD_S = 30.0
PROLONG_S = 10.0
POLL_S = 0.02
MESSAGE_PREFIX = "keepstream.verify"


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What to compare. `timeout_s` bounds the time until both sides stand at one LSN."""

    name: str
    replica: str
    source_conninfo: str
    replica_conninfo: str
    publication: str
    workers: int = 2
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Meeting:
    """Both sides at one LSN. Sessions import the snapshots by `source` and `replica_snapshot`."""

    lsn: Lsn
    source: ExportedSnapshot
    replica_snapshot: str
    tables: tuple[SnapshotTable, ...]
    held_s: float


Say = Callable[[str], None]
"""Told what is being waited for."""


@contextlib.contextmanager
def meet(options: VerifyOptions, stop: threading.Event, say: Say) -> Iterator[Meeting]:
    """Both sides stay readable at one LSN as long as the context.

    Raises Unhealthy (`verify-timeout`), OperatorNeeded (`replica-held`, `replica-copying`), RetryLater
    (`table-changed` among others: try again).
    """
    with contextlib.ExitStack() as stack:
        purpose = f"{options.name}:verify"
        replica = stack.enter_context(connect(options.replica_conninfo, purpose=purpose))
        source = stack.enter_context(connect(options.source_conninfo, purpose=purpose))
        steps = _Steps(options, stop, say, source=source, replica=replica)
        steps.require_streaming()
        started = time.monotonic()
        stack.enter_context(steps.held())
        snapshot = stack.enter_context(
            export_snapshot(
                options.source_conninfo,
                purpose=purpose,
                observer=source,
                limit_s=options.timeout_s,
                on_wait=steps.on_wait,
            )
        )
        reader = stack.enter_context(connect(options.source_conninfo, purpose=purpose, autocommit=True))
        tables = steps.lock_source(reader, snapshot)
        steps.let_go_on_to(snapshot.lsn)
        keeper = stack.enter_context(connect(options.replica_conninfo, purpose=purpose))
        replica_snapshot = steps.snapshot_replica(keeper, tables)
        steps.release()
        yield Meeting(snapshot.lsn, snapshot, replica_snapshot, tables, time.monotonic() - started)


class _Steps:
    """The steps of one meeting, each a method."""

    def __init__(
        self, options: VerifyOptions, stop: threading.Event, say: Say, *, source: Session, replica: Session
    ) -> None:
        self._options = options
        self._stop = stop
        self._say = say
        self._source = source
        self._replica = replica
        self._deadline = time.monotonic() + options.timeout_s
        self._held_at: Lsn | None = None
        self._prolonged_at = 0.0

    def require_streaming(self) -> None:
        progress = require(self._replica, self._options.name)
        if progress.state is ReplicaState.COPYING:
            raise OperatorNeeded(
                f"replica {self._options.replica} is still being copied",
                code="replica-copying",
                hint=f"Wait for it: `keepstream wait {self._options.replica}`.",
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The replica comes to the source's insert LSN and no further, until the context ends."""
        insert_lsn = _insert_lsn(self._source)
        self._held_at = hold(
            self._replica, self._options.name, HoldKind.VERIFY, at=insert_lsn, expires_s=HOLD_S
        )
        self._prolonged_at = time.monotonic()
        failpoint("verify.held")
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        if self._held_at is not None:
            self._held_at = None
            release(self._replica, self._options.name, HoldKind.VERIFY)

    def on_wait(self, blockers: list[Blocker]) -> None:
        self._tick()
        if blockers:
            self._say(f"open transactions on the source: {'; '.join(map(str, blockers))}")

    def lock_source(self, reader: Session, snapshot: ExportedSnapshot) -> tuple[SnapshotTable, ...]:
        """The published tables as the snapshot shows them, locked against TRUNCATE and DDL (P18, P19)."""
        purpose = f"{self._options.name}:verify"
        begin_in_snapshot(reader, snapshot)
        wait_until_visible(
            reader, self._options.source_conninfo, purpose=purpose, limit_s=30.0, tick=self._tick
        )
        tables = published_tables(reader, self._options.publication)
        observer = Observer(self._options.source_conninfo, purpose=purpose)
        try:
            for table in tables:
                lock_table(reader, table, lambda *_: self._tick())
                observer.require_unchanged(table)
        finally:
            observer.close()
        return tuple(tables)

    def let_go_on_to(self, lsn: Lsn) -> None:
        """Wait until the replica stands at `lsn` exactly."""
        self._say(f"waiting for the replica to reach {format_lsn(lsn)}")
        self._move(lsn)
        push_log(self._source, MESSAGE_PREFIX)
        while (progress := require(self._replica, self._options.name)).position.lsn != lsn:
            if progress.position.lsn > lsn:
                raise RetryLater(f"the replica passed {format_lsn(lsn)}", code="hold-lost")
            self._tick()
            time.sleep(POLL_S)

    def snapshot_replica(self, keeper: Session, tables: tuple[SnapshotTable, ...]) -> str:
        """Export the replica's snapshot, after locking its tables against what the stream may bring."""
        with wrapped("taking a snapshot of the replica"):
            keeper.execute("begin isolation level repeatable read, read only")
            for table in tables:
                _lock_if_there(keeper, table)
            row = keeper.execute("select pg_catalog.pg_export_snapshot()").fetchone()
            assert row is not None
            progress = require(keeper, self._options.name)
        if progress.position.lsn != self._held_at:
            raise RetryLater("the replica moved while its snapshot was taken", code="hold-lost")
        return str(row[0])

    def _tick(self) -> None:
        """Called often while waiting: gives up in time, and prolongs the hold."""
        if self._stop.is_set():
            raise RetryLater("the verification was stopped", code="stopped")
        now = time.monotonic()
        if now > self._deadline:
            raise Unhealthy(
                f"source and replica {self._options.replica} did not come to one LSN within"
                f" {self._options.timeout_s:.0f} s",
                code="verify-timeout",
                hint="Look at `keepstream status`: capture and apply must run and be nearly caught up; a long"
                " transaction on the source must end. Or give more time with --timeout.",
            )
        if self._held_at is not None and now - self._prolonged_at > PROLONG_S:
            self._move(self._held_at)

    def _move(self, lsn: Lsn) -> None:
        assert self._held_at is not None
        moved = move_hold(
            self._replica,
            self._options.name,
            HoldKind.VERIFY,
            held_at=self._held_at,
            at=lsn,
            expires_s=HOLD_S,
        )
        if not moved:
            raise RetryLater("the replica is not held any more", code="hold-lost")
        self._held_at, self._prolonged_at = lsn, time.monotonic()


def _lock_if_there(keeper: Session, table: SnapshotTable) -> None:
    found = keeper.execute(
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = %s",
        [table.schema, table.name],
    ).fetchone()
    if found is not None:
        keeper.execute(f"lock table only {found[0]} in access share mode")


def push_log(source: Session, prefix: str) -> None:
    """Commit a transaction of one message, so that the log passes the LSN of now without waiting for
    a heartbeat (P22)."""
    with wrapped("writing a message into the source's WAL"):
        source.execute("select pg_catalog.pg_logical_emit_message(true, %s::text, ''::text)", [prefix])


def _insert_lsn(source: Session) -> Lsn:
    with wrapped("reading the source's insert LSN"):
        row = source.execute("select pg_catalog.pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return parse_lsn(row[0])
