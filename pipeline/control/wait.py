"""`wait`: until a replica holds all that was committed on the source when it was called (P22)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass

from connectors.postgres.progress import Progress, ReplicaState, read
from connectors.postgres.server import insert_lsn, push_log
from connectors.postgres.session import Session, connect
from pipeline.background import in_background
from pipeline.backoff import Backoff
from pipeline.control.lineage import require_followed
from pipeline.control.obstacles import (
    NOBODY_ANSWERS,
    Obstacle,
    find_obstacle,
    replica_ahead,
    replica_obstacle,
)
from pipeline.reports import StageReport
from schemas.errors import KeepstreamError, RetryLater, Unhealthy
from schemas.lsn import Lsn, format_lsn

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
    slot: str
    reports: Callable[[], Mapping[str, StageReport]]
    timeout_s: float | None = None
    delay_s: float = 0.0

    @property
    def purpose(self) -> str:
        return f"{self.name}:wait"


@dataclass(frozen=True, slots=True)
class Waited:
    """The replica holds everything below `lsn`."""

    lsn: Lsn
    position: Lsn
    took_s: float


def mark_now(source: Session) -> Lsn:
    """The source's insert LSN, with a transaction behind it that brings the log past it at once.

    The flush LSN would miss asynchronous commits (P22).
    """
    push_log(source, MESSAGE_PREFIX)
    target = insert_lsn(source)
    push_log(source, MESSAGE_PREFIX)
    return target


def wait_for_replica(options: WaitOptions, tell: Tell) -> Waited:
    """Returns once the replica holds what was committed before the call.

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
                    return Waited(target, position, time.monotonic() - started)
            except RetryLater as error:
                self._away = error
                self._say(f"cannot be asked: {error.message}")
                time.sleep(backoff.next_s())

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
        options = self._options
        with connect(options.source_conninfo, purpose=options.purpose) as source:
            require_followed(source, options.slot, options.reports)
            return mark_now(source)

    def _poll(self, session: Session, target: Lsn, backoff: Backoff) -> Lsn:
        pause_s = POLL_FIRST_S
        while True:
            self._progress = progress = read(session, self._options.name)
            self._away, self._looked = None, True
            backoff.reset()
            streaming = progress is not None and progress.state is ReplicaState.STREAMING
            if streaming and progress is not None and progress.position.lsn >= target:
                return progress.position.lsn
            self._tell_obstacle(progress)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.2, POLL_LONGEST_S)

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
        options = self._options
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
