"""`wait`: until a replica holds all that was committed on the source when it was called (P22), and its
sequences stand at or past the source's (P23)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass

from connectors.postgres.replica.progress import Progress, ReplicaState, read
from connectors.postgres.server import insert_lsn, push_log
from connectors.postgres.session import Session, connect
from pipeline.background import in_background
from pipeline.backoff import Backoff
from pipeline.control.lineage import require_followed
from pipeline.control.sequences import (
    AwaitedSequences,
    Lagging,
    read_awaited,
    read_now,
    sequences_hint,
)
from pipeline.obstacles import (
    NOBODY_ANSWERS,
    Obstacle,
    find_obstacle,
    replica_ahead,
    replica_obstacle,
)
from pipeline.reports import StageReport
from schemas.errors import KeepstreamError, RetryLater, Unhealthy
from schemas.lsn import Lsn, format_lsn
from schemas.sequence import SequenceValue

MESSAGE_PREFIX = "keepstream.wait"
POLL_FIRST_S = 0.01
POLL_LONGEST_S = 0.25
_REASON_S = 1.0
"""How long before the time is up the search for a reason begins: a server that hangs ends nothing late."""

Tell = Callable[[str], None]
"""Told in one line what is in the way, when that changes."""


@dataclass(frozen=True, slots=True)
class WaitOptions:
    """Which replica, and for how long: None for ever. `delay_s`: what it is configured to keep. `reports`:
    how the stages' reports are read."""

    name: str
    replica: str
    source_conninfo: str
    replica_conninfo: str
    publication: str
    slot: str
    reports: Callable[[], Mapping[str, StageReport]]
    timeout_s: float | None = None
    delay_s: float = 0.0

    @property
    def purpose(self) -> str:
        return f"{self.name}:wait"


@dataclass(frozen=True, slots=True)
class Waited:
    """The replica holds everything below `lsn`, and so many sequences are at or past the source's. missing:
    sequences that it does not have. hidden: those that we may not read."""

    lsn: Lsn
    position: Lsn
    took_s: float
    sequences: int
    missing: tuple[str, ...]
    hidden: tuple[str, ...]


def mark_now(source: Session) -> Lsn:
    """The source's insert LSN, with a transaction behind it that brings the log past it at once.

    The flush LSN would miss asynchronous commits (P22).
    """
    push_log(source, MESSAGE_PREFIX)
    target = insert_lsn(source)
    push_log(source, MESSAGE_PREFIX)
    return target


def wait_for_replica(options: WaitOptions, tell: Tell) -> Waited:
    """Returns once the replica holds what was committed before the call, and each of its sequences stands at
    or past where the source's stood then: applications may write there at once.

    A copy that is still running counts as not there yet, and a replica that goes away meanwhile is tried
    again. Raises Unhealthy (`wait-timeout`), whatever keeps a server from answering; HistoryBroken
    (`replica-ahead`, `source-old-timeline`); RetryLater if the source cannot be asked.
    """
    waiting = _Waiting(options, tell)
    done = in_background(waiting.run, name="wait")
    if options.timeout_s is None:
        return done.result()
    rest_s = min(_REASON_S, options.timeout_s / 2)
    with contextlib.suppress(NotYet):
        return done.result(options.timeout_s - rest_s)
    reason = in_background(waiting.obstacle, name="obstacle")
    try:
        return done.result(rest_s)
    except NotYet:
        raise waiting.timeout(reason) from None


class _Waiting:
    """The waiting itself, in a thread of its own: a server that hangs cannot delay the timeout."""

    def __init__(self, options: WaitOptions, tell: Tell) -> None:
        self._options = options
        self._tell = tell
        self._told: str | None = None
        self._target: Lsn | None = None
        self._progress: Progress | None = None
        self._looked = False
        self._sequences: AwaitedSequences | None = None
        self._lagging: list[Lagging] = []
        self._away: KeepstreamError | None = None

    def run(self) -> Waited:
        started = time.monotonic()
        before = self._first_look()
        self._target = target = self._mark()
        if before is not None and before.state is ReplicaState.STREAMING and before.position.lsn > target:
            raise replica_ahead(self._options.replica, before.position.lsn, target)
        backoff = Backoff()
        while True:
            try:
                with connect(self._options.replica_conninfo, purpose=self._options.purpose) as session:
                    position = self._poll(session, target, backoff)
                    return self._waited(target, position, time.monotonic() - started)
            except RetryLater as error:
                self._away = error
                self._say(f"cannot be asked: {error.message}")
                time.sleep(backoff.next_s())

    def _waited(self, target: Lsn, position: Lsn, took_s: float) -> Waited:
        found = self._sequences
        assert found is not None
        return Waited(target, position, took_s, found.compared, tuple(sorted(found.missing)), found.hidden)

    def timeout(self, reason: Future[Obstacle]) -> Unhealthy:
        """Called by the thread that waited long enough."""
        replica, target = self._options.replica, self._target
        obstacle = reason.result() if reason.done() else NOBODY_ANSWERS
        goal = "what is committed on the source" if target is None else format_lsn(target)
        return Unhealthy(
            f"replica {replica} did not reach {goal} in time: it {obstacle.seen}",
            code="wait-timeout",
            hint=obstacle.hint,
        )

    def _first_look(self) -> Progress | None:
        """The replica's row before the source is asked; None also if the replica is away just now."""
        try:
            with connect(self._options.replica_conninfo, purpose=self._options.purpose) as session:
                self._progress = read(session, self._options.name)
                self._looked = True
        except RetryLater as error:
            self._away = error
        return self._progress

    def _mark(self) -> Lsn:
        """Waits for whoever has the source's tables or sequences locked, as a migration does."""
        backoff = Backoff()
        while True:
            try:
                return self._mark_now()
            except RetryLater as error:
                if error.code != "lock-timeout":
                    raise
                self._say(f"is asked once the source answers: {error.message}")
                time.sleep(backoff.next_s())

    def _mark_now(self) -> Lsn:
        options = self._options
        with connect(options.source_conninfo, purpose=options.purpose) as source:
            require_followed(source, options.slot, options.reports)
            self._sequences = read_awaited(source, options.publication)
            return mark_now(source)

    def _poll(self, session: Session, target: Lsn, backoff: Backoff) -> Lsn:
        pause_s = POLL_FIRST_S
        while True:
            self._progress = progress = read(session, self._options.name)
            self._away, self._looked = None, True
            backoff.reset()
            streaming = progress is not None and progress.state is ReplicaState.STREAMING
            if streaming and progress is not None and progress.position.lsn >= target:
                self._lagging = self._look_at_sequences(session)
                if not self._lagging:
                    return progress.position.lsn
            self._tell_obstacle(progress)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.2, POLL_LONGEST_S)

    def _look_at_sequences(self, replica: Session) -> list[Lagging]:
        assert self._sequences is not None
        return self._sequences.look(replica, self._sequences_now)

    def _sequences_now(self) -> dict[tuple[str, str], SequenceValue]:
        assert self._sequences is not None
        with connect(self._options.source_conninfo, purpose=self._options.purpose) as source:
            return read_now(source, self._sequences.awaited)

    def _tell_obstacle(self, progress: Progress | None) -> None:
        obstacle = replica_obstacle(self._options.replica, progress)
        if obstacle is not None:
            self._say(obstacle.seen, hint=obstacle.hint)

    def _say(self, seen: str, *, hint: str = "") -> None:
        """Not again before it is something else: an applier that comes and goes at one place is told once."""
        if seen != self._told:
            self._told = seen
            self._tell(f"{self._options.replica} {seen}. {hint}".strip())

    def obstacle(self) -> Obstacle:
        """What is in the way. Asks the source, and may hang where that does."""
        options, lagging = self._options, self._lagging
        if lagging:
            more = f" and {len(lagging) - 1} more sequences" if len(lagging) > 1 else ""
            return Obstacle(
                f"holds all rows, but its sequence {lagging[0]}{more}",
                sequences_hint(lagging[0], options.replica),
            )
        if self._away is not None:
            return Obstacle(f"cannot be asked: {self._away.message}", self._away.hint)
        if not self._looked:
            return Obstacle("did not answer yet", "Give it more time with --timeout.")
        return find_obstacle(
            options.replica,
            self._progress,
            source_conninfo=options.source_conninfo,
            slot=options.slot,
            purpose=options.purpose,
            delay_s=options.delay_s,
        )
