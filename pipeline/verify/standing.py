"""A replica that stands at one LSN, S, while it is mended: the meeting (P21), with the hold kept.

The hold only makes it stand there, and is seen by `status`, `pause` and appliers; what proves that it still
does is the end of each transaction that mends (`connectors.postgres.mend.transaction`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from psycopg import pq

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.snapshot import ExportedSnapshot, begin_in_snapshot
from connectors.postgres.copy.snapshot_reader import SnapshotReader, lock_those_there
from connectors.postgres.copy.snapshot_tables import Observer, SnapshotTable
from connectors.postgres.copy.visibility import wait_until_visible
from connectors.postgres.replica.progress import Progress, require
from connectors.postgres.session import Session, wrapped
from pipeline.control.sequences import AwaitedSequences, read_awaited
from pipeline.quantities import human_seconds
from pipeline.verify.meeting import PROLONG_S, Meeting, Steps, VerifyOptions, hold_lost, limit_locks
from pipeline.verify.watch import Watch
from schemas.errors import KeepstreamError, RetryLater, Unhealthy
from schemas.lsn import Lsn

VISIBLE_S = 60.0
_AWAKE_S = 3.0


@dataclass(slots=True)
class Standing:
    """found: the progress row of the replica that stands. reader: a session in the source's snapshot. locked:
    it holds the locks on the tables that are to be read, and only it can be sure to get at them."""

    options: VerifyOptions
    watch: Watch
    steps: Steps
    snapshot: ExportedSnapshot
    reader: Session
    found: Progress
    locked: bool
    began_at: float
    sequences: AwaitedSequences
    source_observer: Observer
    replica_observer: Observer
    _lost: KeepstreamError | None = None
    _used_at: float = field(default_factory=time.monotonic)
    _awake: list[Session] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None
    _held_s: float | None = None

    @property
    def lsn(self) -> Lsn:
        return self.snapshot.lsn

    @property
    def held_s(self) -> float:
        """How long the replica has stood still."""
        return time.monotonic() - self.began_at if self._held_s is None else self._held_s

    def check(self) -> None:
        """Call it often. Raises VerifyStopped, and RetryLater (`hold-lost`, `snapshot-lost`)."""
        self.watch.check()
        if self._lost is not None:
            raise self._lost
        self.snapshot.require_alive()
        if time.monotonic() - self._used_at > _AWAKE_S:
            self._used_at = time.monotonic()
            for session in self._awake:
                if session.pgconn.transaction_status == pq.TransactionStatus.INTRANS:
                    with wrapped("staying in a transaction"):
                        session.execute("select")

    @contextlib.contextmanager
    def moving(self, table: str) -> Iterator[Callable[[], None]]:
        """While a table is read: what this yields is to be called whenever rows come. The source's host may
        answer, and so keep the connection, while its server process does not, with the replica standing still
        for ever. Raises Unhealthy."""
        stall_s = self.options.stall_s
        with self.watch.deadline(stall_s, lambda: self._stalled(table)):
            yield partial(self.watch.extend, stall_s)

    def _stalled(self, table: str) -> Unhealthy:
        return Unhealthy(
            f"no row of {table} has come for {human_seconds(self.options.stall_s)}; the table was not"
            " changed",
            code=self.options.late_code,
            hint="See on both servers what keeps its sessions: select * from pg_stat_activity where"
            " application_name like 'keepstream:%:snapshot';",
        )

    @contextlib.contextmanager
    def kept_awake(self, session: Session) -> Iterator[None]:
        """Its server would end it if it was silent in its transaction: `check` sees to that."""
        self._awake.append(session)
        try:
            yield
        finally:
            self._awake.remove(session)

    def patience(self, waiting_for: str) -> contextlib.AbstractContextManager[None]:
        """What is inside waits for others no longer than for the meeting. Raises Unhealthy."""
        return self.watch.deadline(self.options.patience_s, lambda: self.too_late(waiting_for))

    def too_late(self, waiting_for: str) -> Unhealthy:
        return Unhealthy(
            f"waited {human_seconds(self.options.patience_s)} for {waiting_for}; the table was not changed",
            code=self.options.late_code,
            hint="Wait until these transactions have ended, end them, or give more time with --timeout."
            if not self.options.automatic
            else "Wait until these transactions have ended, or end them.",
        )

    @contextlib.contextmanager
    def reading(self, tables: Sequence[SnapshotTable]) -> Iterator[Session]:
        """A session in the source's snapshot, with these tables locked as long as this lasts (P19); whoever
        breaks off in a COPY closes it. Raises TableChanged, also at the end; Unhealthy."""
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(self._source_reader())
            names = ", ".join(table.qualified_name for table in tables)
            with self.patience(f"the lock on {names} of the source"):
                session = stack.enter_context(reader.reading(tables))
            yield session

    @contextlib.contextmanager
    def _source_reader(self) -> Iterator[SnapshotReader]:
        if self.locked:
            yield SnapshotReader(self.reader, None, self.source_observer, self.check)
            return
        with self.watch.session(self.options.source_conninfo, purpose=self.options.purpose) as session:
            yield SnapshotReader(session, self.snapshot.name, self.source_observer, self.check)

    @contextlib.contextmanager
    def meeting(self) -> Iterator[Meeting]:
        """Both sides at S, as the replica is now; its snapshot outlives `let_go`. Raises RetryLater
        (`hold-lost`)."""
        self.check()
        with self.watch.session(self.options.replica_conninfo, purpose=self.options.purpose) as keeper:
            name = self.steps.snapshot_replica(keeper, self.lsn, ())
            yield Meeting(self.snapshot, name, self.reader, keeper, self.locked, self.held_s, self.sequences)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """The hold does not expire while this lasts; that it was lost is found by `check`."""
        self._keeper = threading.Thread(target=self._keep, name=f"hold {self.options.replica}", daemon=True)
        self._keeper.start()
        try:
            yield
        finally:
            self._stop_keeping()

    def let_go(self) -> None:
        """The replica may go on: nothing more will be mended."""
        self._stop_keeping()
        self._held_s = self.held_s
        self.steps.let_go()

    def _stop_keeping(self) -> None:
        self._ended.set()
        if self._keeper is not None:
            self._keeper.join()

    def _keep(self) -> None:
        """Whoever was told to end keeps no replica where it is, also while it waits for a silent server."""
        while self._lost is None and not self.watch.is_stopped and not self._ended.wait(PROLONG_S):
            try:
                self.steps.prolong()
            except RetryLater as error:
                if error.code != "lock-timeout":
                    self._lost = error
            except KeepstreamError as error:
                self._lost = error


@contextlib.contextmanager
def stand(options: VerifyOptions, watch: Watch, *, restless: Sequence[TableName] = ()) -> Iterator[Standing]:
    """The replica stands at the LSN of the source's snapshot until the context ends.

    restless: tables of the source that were truncated or altered the time before; they are locked as soon as
    the snapshot stands. Raises what `meet` raises.
    """
    conninfos = (options.source_conninfo, options.replica_conninfo)
    with contextlib.ExitStack() as stack:
        steps = Steps(options, watch)
        observers = [Observer(conninfo, purpose=options.purpose) for conninfo in conninfos]
        for observer in observers:
            stack.callback(observer.close)
        with watch.deadline(options.timeout_s, steps.late):
            source, reader, replica = (
                stack.enter_context(watch.session(conninfo, purpose=options.purpose))
                for conninfo in (options.source_conninfo, *conninfos)
            )
            if restless:
                limit_locks(reader)
            steps.begin(source=source, replica=replica)
            sequences = read_awaited(source, options.publication)
            steps.catch_up()
            stack.enter_context(steps.held())
            began_at = time.monotonic()
            snapshot = stack.enter_context(steps.export())
            begin_in_snapshot(reader, snapshot)
            lock_those_there(reader, restless)
            steps.go_on_to(snapshot.lsn)
            standing = Standing(
                options=options,
                watch=watch,
                steps=steps,
                snapshot=snapshot,
                reader=reader,
                found=_standing_at(replica, options.name, snapshot.lsn),
                locked=bool(restless),
                began_at=began_at,
                sequences=sequences,
                source_observer=observers[0],
                replica_observer=observers[1],
            )
            stack.enter_context(standing.kept())
            if restless:
                stack.enter_context(standing.kept_awake(reader))
            wait_until_visible(
                reader,
                options.source_conninfo,
                purpose=options.purpose,
                limit_s=VISIBLE_S,
                tick=standing.check,
            )
        yield standing


def _standing_at(replica: Session, name: str, lsn: Lsn) -> Progress:
    found = require(replica, name)
    if found.position.lsn != lsn:
        raise hold_lost("the replica moved on")
    return found
