"""Bringing source and replica to one LSN, each behind a snapshot of its own (P21).

    wait until the replica has nearly caught up
    hold it at G, the source's insert LSN
    take a snapshot of the source: S > G
    let the replica go on to S, exactly
    take a snapshot of the replica, and let it go on

While an open transaction of the source delays its snapshot, the hold moves on behind it, so that the replica
follows. What proves the meeting is the position in the replica's own snapshot; the hold only
makes it come about. It expires by itself soon after this process dies.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial

from connectors.failpoints import failpoint
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.snapshot import (
    Blocker,
    ExportedSnapshot,
    begin_in_snapshot,
    export_of,
    export_snapshot,
    name_blockers,
)
from connectors.postgres.copy.snapshot_reader import lock_those_there
from connectors.postgres.replica.hold import give_way, hold, move_hold, release
from connectors.postgres.replica.progress import HoldKind, Progress, ReplicaState, read
from connectors.postgres.server import insert_lsn, push_log
from connectors.postgres.session import Session, connect, limit_waits, wrapped
from pipeline.background import in_background
from pipeline.control.lineage import require_followed
from pipeline.control.sequences import AwaitedSequences, read_awaited
from pipeline.obstacles import (
    NOBODY_ANSWERS,
    Obstacle,
    find_obstacle,
    replica_ahead,
    replica_obstacle,
)
from pipeline.quantities import human_seconds
from pipeline.verify.applier import ApplierWatch, Reports
from pipeline.verify.watch import Watch
from schemas.errors import KeepstreamError, OperatorNeeded, RetryLater, Unhealthy
from schemas.lsn import Lsn, format_lsn

TIMEOUT_S = 300.0
HOLD_S = 5.0
LOCKED_S = 10
"""How long a session that holds locks on restless tables may idle, or wait for another lock."""
AUTOMATIC_S = 20.0
STALL_S = 600.0
"""A chunk of rows may take the replica two minutes, and a row of a gigabyte may have to come a long way."""
PROLONG_S = 1.0
POLL_S = 0.02
MESSAGE_PREFIX = "keepstream.verify"
_WAITING_FOR_ANOTHER = "waiting for another verification, or a copy"
_REASON_S = 1.0
"""How long the search for a reason may take once the time is up."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What to compare. `timeout_s` bounds the time until both sides stand at one LSN; it must be longer
    than `delay_s`, which the replica is configured to keep. `workers`: sessions that read, on each side.
    `reports`: how the stages' reports are read. `large_objects`: compare them, too. `verb`: the command that
    asks for it. `automatic`: none does, but the applier itself, which copies what awaits its copy. That gives
    way to whoever holds the replica, or wants to pause it."""

    name: str
    replica: str
    source_conninfo: str
    replica_conninfo: str
    publication: str
    slot: str
    reports: Reports
    delay_s: float = 0.0
    workers: int = 2
    timeout_s: float = TIMEOUT_S
    large_objects: bool = False
    verb: str = "verify"
    automatic: bool = False

    @property
    def purpose(self) -> str:
        return f"{self.name}:{self.verb}"

    @property
    def done_to(self) -> str:
        """What cannot be done to a replica that does not come to one LSN with the source."""
        return "compared" if self.verb == "verify" else "copied into"

    @property
    def patience_s(self) -> float:
        """How long others' locks may keep a replica that stands. Nobody has asked for an automatic copy, and
        nobody watches it; it is tried again."""
        return min(self.timeout_s, AUTOMATIC_S) if self.automatic else self.timeout_s

    @property
    def stall_s(self) -> float:
        """How long it may stand with nothing moving."""
        return STALL_S if self.automatic else max(STALL_S, self.timeout_s)

    @property
    def late_code(self) -> str:
        return f"{self.verb}-timeout"


@dataclass(frozen=True, slots=True)
class Meeting:
    """Both sides at one LSN. Whoever reads imports `source.name` and `replica_snapshot`.

    reader, keeper: sessions in the snapshots of source and replica, the first of which has read nothing
    yet (P18). locked: they hold the locks on the tables that are to be compared, and only they can be
    sure to get at them: others may have to queue behind an application that waits for these locks.
    held_s: how long the replica could not go on freely. sequences: where the source's stood at its beginning.
    """

    source: ExportedSnapshot
    replica_snapshot: str
    reader: Session
    keeper: Session
    locked: bool
    held_s: float
    sequences: AwaitedSequences

    @property
    def lsn(self) -> Lsn:
        return self.source.lsn


@contextlib.contextmanager
def meet(options: VerifyOptions, watch: Watch, *, restless: Sequence[TableName] = ()) -> Iterator[Meeting]:
    """Both sides stay readable at one LSN as long as the context.

    restless: tables that were truncated or altered at the meeting before; they are locked as soon as the
    snapshots stand.
    Raises Unhealthy (`verify-timeout`), OperatorNeeded (`replica-held`, `replica-copying`,
    `replica-not-streaming`, `applier-not-running`), HistoryBroken (`replica-ahead`, `source-old-timeline`),
    VerifyStopped,
    RetryLater (`hold-lost` among others: try again).
    """
    with contextlib.ExitStack() as stack:
        steps = Steps(options, watch)
        with watch.deadline(options.timeout_s, steps.late):
            source, reader, replica, keeper = (
                stack.enter_context(watch.session(conninfo, purpose=options.purpose))
                for conninfo in [options.source_conninfo] * 2 + [options.replica_conninfo] * 2
            )
            if restless:
                limit_locks(reader)
                limit_locks(keeper)
            steps.begin(source=source, replica=replica)
            sequences = read_awaited(source, options.publication)  # our marks make capture read them, too
            steps.catch_up()
            with steps.held():
                started = time.monotonic()
                snapshot = stack.enter_context(steps.export())
                begin_in_snapshot(reader, snapshot)
                lock_those_there(reader, restless)
                steps.go_on_to(snapshot.lsn)
                name = steps.snapshot_replica(keeper, snapshot.lsn, restless)
            held_s = time.monotonic() - started
        locked = bool(restless)
        yield Meeting(snapshot, name, reader, keeper, locked=locked, held_s=held_s, sequences=sequences)


def limit_locks(session: Session) -> None:
    """The server itself ends what idles or waits while it keeps others from their tables."""
    with wrapped("preparing a session that locks"):
        session.execute(f"set idle_in_transaction_session_timeout = '{LOCKED_S:d}s'")
        session.execute(f"set lock_timeout = '{LOCKED_S:d}s'")


class Steps:
    """The steps of one meeting, each a method; `begin` goes first."""

    _source: Session
    _replica: Session

    def __init__(self, options: VerifyOptions, watch: Watch) -> None:
        self._options = options
        self._watch = watch
        self._applier = ApplierWatch(options.replica, options.reports, options.done_to)
        self._held_at: Lsn | None = None
        self._prolonged_at = 0.0
        self._behind_open: Lsn | None = None
        self._blockers: tuple[Blocker, ...] = ()
        self._open_told: set[tuple[int | None, str]] = set()
        self._goal: Lsn | None = None

    def begin(self, *, source: Session, replica: Session) -> None:
        """What is asked from now on."""
        self._source, self._replica = source, replica
        limit_waits(replica, lock_s=int(HOLD_S))  # one that comes later would hold nothing any more

    def catch_up(self) -> None:
        """Wait, with nothing held, until the replica has what is committed now. One with a configured
        delay never has: for it the snapshots wait."""
        require_followed(self._source, self._options.slot, self._options.reports)
        progress = self._progress()
        self._require_free(progress)
        self._goal = insert_lsn(self._source)
        if progress.position.lsn > self._goal:
            raise replica_ahead(self._options.replica, progress.position.lsn, self._goal)
        if self._options.timeout_s <= self._options.delay_s:
            raise self._too_short()
        push_log(self._source, MESSAGE_PREFIX)
        if self._options.delay_s:
            self._watch.tell(f"the replica keeps a delay of {human_seconds(self._options.delay_s)}")
            return
        self._watch.tell("waiting until the replica has caught up")
        while (progress := self._progress()).position.lsn < self._goal:
            self._require_free(progress)
            self._tell_obstacle(progress)
            self._watch.pause(POLL_S)

    def _tell_obstacle(self, progress: Progress) -> None:
        """And end where nobody will remove it."""
        obstacle = replica_obstacle(self._options.replica, progress)
        if obstacle is not None:
            self._watch.tell(f"the replica {obstacle.seen}. {obstacle.hint}")
        self._applier.require(progress)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The replica comes to the source's insert LSN and no further, until the context ends."""
        if self._options.automatic:
            give_way(self._replica, self._options.name)
        self._hold(insert_lsn(self._source))
        failpoint("verify.held")
        try:
            yield
        finally:
            self.let_go()

    def let_go(self) -> None:
        """End the hold; nothing happens the second time, when it may be another's."""
        if self._held_at is not None:
            held_at, self._held_at = self._held_at, None
            with contextlib.suppress(KeepstreamError):  # it is gone by itself soon
                release(self._replica, self._options.name, HoldKind.VERIFY, held_at=held_at)

    def _hold(self, at: Lsn) -> None:
        """Tries again if the replica has passed `at` meanwhile, and while another verification holds it."""
        while True:
            try:
                self._held_at = hold(
                    self._replica,
                    self._options.name,
                    HoldKind.VERIFY,
                    at=at,
                    expires_s=HOLD_S,
                    replica=self._options.replica,
                )
                self._prolonged_at = time.monotonic()
                return
            except OperatorNeeded as error:
                if error.code == "replica-held":
                    if self._options.automatic:
                        raise self._goes_first() from error
                    self._require_free(self._progress())
                elif error.code != "hold-passed":
                    raise
                self._watch.pause(POLL_S)
                at = insert_lsn(self._source)
            except RetryLater as error:
                if error.code != "lock-timeout":
                    raise
                self._watch.tell("waiting for the transaction that is open on the replica")
                self._watch.check()

    def export(self) -> ExportedSnapshot:
        """The source's snapshot; the caller closes it."""
        options = self._options
        exporting = partial(
            export_snapshot,
            options.source_conninfo,
            purpose=options.purpose,
            observer=self._source,
            limit_s=options.timeout_s,
            on_wait=self.follow_open_transactions,
        )
        return self._watch.in_time(exporting, undo=ExportedSnapshot.close)

    def follow_open_transactions(self, blockers: list[Blocker]) -> None:
        """Called about once a second while the source's snapshot waits for open transactions.

        It will be later than anything that was written when it was seen waiting, so the replica may go
        on to where the source was at the call before.
        """
        self._watch.check()
        self._blockers = tuple(blockers)
        if blockers and self._behind_open is not None:
            self._move(max(self._behind_open, self._held_at or self._behind_open))
            self._tell_open()
        else:
            self.prolong()
        self._behind_open = insert_lsn(self._source)

    def _tell_open(self) -> None:
        """Those that were told before only grow older."""
        seen = {(blocker.pid, blocker.gid) for blocker in self._blockers}
        if seen != self._open_told:
            self._open_told = seen
            self._watch.tell(f"open transactions on the source: {name_blockers(self._blockers)}")

    def go_on_to(self, lsn: Lsn) -> None:
        """Wait until the replica stands at `lsn` exactly."""
        self._blockers, self._goal = (), lsn
        self._move(lsn)
        push_log(self._source, MESSAGE_PREFIX)
        while (progress := self._progress()).position.lsn != lsn:
            if progress.position.lsn > lsn:
                raise hold_lost(f"the replica passed {format_lsn(lsn)}")
            self._tell_obstacle(progress)
            self.prolong()
            self._watch.pause(POLL_S)

    def snapshot_replica(self, keeper: Session, lsn: Lsn, restless: Sequence[TableName]) -> str:
        """Export the replica's snapshot, which must show it at `lsn`. The locks come first: until the
        snapshot the hold keeps TRUNCATE away, afterwards they do."""
        self.prolong()
        with wrapped("taking a snapshot of the replica"):
            keeper.execute("begin isolation level repeatable read, read only")
            lock_those_there(keeper, restless)
            name = export_of(keeper)
        progress = read(keeper, self._options.name)
        if progress is None or progress.position.lsn != lsn:
            raise hold_lost("the replica moved while its snapshot was taken")
        return name

    def late(self) -> KeepstreamError:
        """Why this took longer than it may."""
        options = self._options
        delay_s = options.delay_s
        delayed = f", which keeps a delay of {human_seconds(delay_s)}," if delay_s else ""
        waited = f"replica {options.replica}{delayed} and the source did not come to one LSN in time"
        if self._blockers:
            return Unhealthy(
                f"{waited}: transactions stay open on the source: {name_blockers(self._blockers)}",
                code=options.late_code,
                hint="Wait until they have ended, end them, or give more time with --timeout.",
            )
        reason = in_background(self._obstacle, name="obstacle")
        wait([reason], timeout=_REASON_S)
        obstacle = reason.result() if reason.done() else NOBODY_ANSWERS
        goal = "" if self._goal is None else f" at {format_lsn(self._goal)}"
        return Unhealthy(f"{waited}{goal}: it {obstacle.seen}", code=options.late_code, hint=obstacle.hint)

    def _too_short(self) -> Unhealthy:
        """Certain from the start: no transaction of now, our message among them, gets there sooner."""
        options = self._options
        delay = human_seconds(options.delay_s)
        return Unhealthy(
            f"replica {options.replica} keeps a delay of {delay}: within"
            f" {human_seconds(options.timeout_s)} it does not come to one LSN with the source",
            code=options.late_code,
            hint=f"Give more time than its delay: `keepstream {options.verb} {options.replica}"
            f" --timeout {math.ceil(options.delay_s + TIMEOUT_S)}`.",
        )

    def _obstacle(self) -> Obstacle:
        options = self._options
        try:
            with connect(options.replica_conninfo, purpose=options.purpose) as session:
                progress = read(session, options.name)
        except KeepstreamError as error:
            return Obstacle(f"cannot be asked: {error.message}", error.hint)
        return find_obstacle(
            options.replica,
            progress,
            source_conninfo=options.source_conninfo,
            slot=options.slot,
            purpose=options.purpose,
            holds_it=self._held_at is not None,
        )

    def _progress(self) -> Progress:
        """The row of a replica that streams."""
        name = self._options.replica
        progress = read(self._replica, self._options.name)
        if progress is None or progress.state is ReplicaState.COPYING:
            obstacle = replica_obstacle(name, progress)
            assert obstacle is not None
            raise OperatorNeeded(
                f"replica {name} cannot be {self._options.done_to}: it {obstacle.seen}",
                code="replica-copying" if progress is not None else "replica-not-streaming",
                hint=obstacle.hint,
            )
        return progress

    def _require_free(self, progress: Progress) -> None:
        """Where it is held by others, it cannot be brought to the source's LSN. Another verification ends by
        itself."""
        if progress.hold is None:
            return
        if progress.hold.kind is HoldKind.VERIFY:
            if self._options.automatic:
                raise self._goes_first()
            self._watch.tell(_WAITING_FOR_ANOTHER)
            return
        obstacle = replica_obstacle(self._options.replica, progress)
        assert obstacle is not None
        raise OperatorNeeded(
            f"replica {self._options.replica} cannot be {self._options.done_to}: it {obstacle.seen}",
            code="replica-held",
            hint=obstacle.hint,
        )

    def _goes_first(self) -> OperatorNeeded:
        return OperatorNeeded(
            f"replica {self._options.replica} is held by a verification, or by a copy, which goes first",
            code="replica-held",
            hint="Nothing is to be done: the applier copies by itself once that has ended.",
        )

    def prolong(self) -> None:
        """Call it about once a second while the replica is held. Raises RetryLater (`hold-lost`)."""
        if self._held_at is not None and time.monotonic() - self._prolonged_at > PROLONG_S:
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
            raise hold_lost("the replica is not held any more")
        self._held_at, self._prolonged_at = lsn, time.monotonic()


def hold_lost(seen: str) -> RetryLater:
    return RetryLater(
        seen,
        code="hold-lost",
        hint="Somebody released it (`keepstream resume`), or it expired: start the command again.",
    )
