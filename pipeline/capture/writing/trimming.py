"""Trimming the log (P12): to an anchor that was read as valid, older than the configured time, and not
past the slowest configured replica or running copy.

    a replica that streams      keeps all from the newest anchor that its position has passed
    a copy that runs            keeps all from the place that it noted when it began (P20)
    no progress row yet         keeps nothing: it will copy; but with `initial: none` it keeps everything
    a server that is away       keeps what it kept when it was last seen, everything if it never was

The log is read from its start only as far as it may be trimmed, in a thread of its own: neither capture
nor what is written waits for it. Trimming twice, or by two captures at once, does no harm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain

from connectors.interfaces import ChangeLog
from connectors.postgres.replica import progress
from connectors.postgres.replica.progress import Progress, ReplicaState
from connectors.postgres.session import connect
from pipeline.capture.options import FollowingReplica, TrimOptions
from pipeline.config import Initial
from pipeline.follow import AnchorHint, follow_from_start
from schemas.errors import KeepstreamError
from schemas.frame import Anchor
from schemas.lsn import Lsn, format_lsn

logger = logging.getLogger("keepstream.trim")

LONGEST_PAUSE_S = 3600.0
SHORTEST_PAUSE_S = 5.0
FIRST_PAUSE_S = 30.0


def pause_s(retain: timedelta) -> float:
    """Between two trims: an hour, less where little is kept."""
    return min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, retain.total_seconds() / 10))


@dataclass(frozen=True, slots=True)
class Floor:
    """What one reader still needs: nothing below `lsn`, and no record before `place`; None: no bound."""

    lsn: Lsn | None = None
    place: int | None = None


NOTHING = Floor()
EVERYTHING = Floor(lsn=Lsn(0), place=0)


@dataclass(frozen=True, slots=True)
class StandingAnchor:
    """An anchor of the log, and where its record stands."""

    place: int
    anchor: Anchor


def floor_of(row: Progress | None, initial: Initial) -> Floor:
    """What a replica with this progress row needs."""
    if row is None:
        return EVERYTHING if initial is Initial.NONE else NOTHING
    if row.state is ReplicaState.STREAMING:
        return Floor(lsn=row.position.lsn)
    noted = AnchorHint.parse(row.place)
    return EVERYTHING if noted is None else Floor(place=noted.place)


def may_trim_to(standing: StandingAnchor, *, written_before: int, floors: Iterable[Floor]) -> bool:
    """Whether all before this anchor may go; `written_before` in µs since 1970 UTC."""
    at = standing.anchor.at.lsn
    return standing.anchor.written_at <= written_before and all(
        (floor.lsn is None or at <= floor.lsn) and (floor.place is None or standing.place <= floor.place)
        for floor in floors
    )


def anchors(log: ChangeLog, stop: threading.Event) -> Iterator[StandingAnchor]:
    """Every valid anchor (P7) from the log's start to its present end, until `stop`, that a log can begin
    with: not those right after a CAPTURE_START, whose file in a directory begins with that."""
    end = log.bounds().end
    follower = follow_from_start(log)
    started = False
    try:
        for followed in chain.from_iterable(follower.read_to(end, stop)):
            if isinstance(followed.frame.body, Anchor) and not started:
                yield StandingAnchor(followed.place, followed.frame.body)
            started = followed.started
    finally:
        follower.close()


class Trimmer:
    """Trims again and again. `run` is the thread's; what it learned of a replica outlives an outage."""

    def __init__(self, name: str, options: TrimOptions, replicas: Mapping[str, FollowingReplica]) -> None:
        self._name = name
        self._replicas = replicas
        self._options = options
        self._known: dict[str, Floor] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. What fails is tried again the next time: the log only grows meanwhile."""
        wait_s = min(FIRST_PAUSE_S, pause_s(self._options.retain))
        while not stop.wait(wait_s):
            wait_s = pause_s(self._options.retain)
            try:
                self.trim(stop)
            except KeepstreamError as error:
                logger.warning("log not trimmed", extra={"code": error.code, "error": error.message})

    def trim(self, stop: threading.Event) -> StandingAnchor | None:
        """Trim once; the anchor that is the log's first record now, None if nothing was trimmed."""
        floors = [self._floor(name, replica) for name, replica in self._replicas.items()]
        if EVERYTHING in floors:
            return None
        log = self._options.open_log()
        try:
            if not log.exists():
                return None
            found = self._newest(log, floors, stop)
            if found is None or found.place <= log.bounds().first:
                return None
            log.trim(found.place)
        finally:
            log.close()
        logger.info("log trimmed", extra={"to": format_lsn(found.anchor.at.lsn), "place": found.place})
        return found

    def _floor(self, name: str, replica: FollowingReplica) -> Floor:
        try:
            with connect(replica.conninfo, purpose=f"{self._name}:trim") as session:
                row = progress.read(session, self._name)
        except KeepstreamError as error:
            logger.info("replica not seen", extra={"replica": name, "code": error.code})
            return self._known.get(name, EVERYTHING)
        floor = self._known[name] = floor_of(row, replica.initial)
        return floor

    def _newest(self, log: ChangeLog, floors: list[Floor], stop: threading.Event) -> StandingAnchor | None:
        """The newest anchor that may be trimmed to. Reads from the log's start until one may not."""
        written_before = time.time_ns() // 1000 - self._options.retain // timedelta(microseconds=1)
        newest: StandingAnchor | None = None
        for standing in anchors(log, stop):
            if not may_trim_to(standing, written_before=written_before, floors=floors):
                break
            newest = standing
        return newest
