"""Following the change log: raw records in, valid frames out (P2, P7, P12).

A `Follower` reads records from one place on, judges each with `schemas.validity`, and hands on those
that count. It keeps what a consumer needs to understand them (table versions) and to come back
quickly (the newest anchor, as a hint that is verified and never trusted).
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from connectors.interfaces import ChangeLog, LogReader, Record
from pipeline.logreading import EndGuard
from schemas.errors import BEGIN_ANEW, HistoryBroken
from schemas.frame import Anchor, CaptureStart, Frame, Part, Transactions
from schemas.framecodec import open_frame
from schemas.lsn import Lsn, Position
from schemas.table import TableSchema
from schemas.validity import Chain, Verdict, enter, judge

BROKEN_TIMEOUT_S = 300.0
TAIL_PROOF_RECORDS = 64
"""A tail scan begins at an anchor with at least this many records after it: more than any writer
keeps in flight, so a replaced writer's late records can never be all that the scan sees."""

_READ_S = 0.25
_HINT_DIGEST_BYTES = 8
_HINT = re.compile(
    rf"(?P<place>[0-9]{{1,20}}):(?P<number>[0-9]{{1,20}}):(?P<digest>[0-9a-f]{{{2 * _HINT_DIGEST_BYTES}}})"
)


@dataclass(frozen=True, slots=True)
class AnchorHint:
    """Where an anchor stands. A reader that resumes looks there first and verifies what it finds.

    digest: of its frame, or that digest's beginning as in the text `place:number:digest`.
    """

    place: int
    number: int
    digest: bytes

    def __str__(self) -> str:
        return f"{self.place}:{self.number}:{self.digest[:_HINT_DIGEST_BYTES].hex()}"

    @classmethod
    def parse(cls, text: str) -> AnchorHint | None:
        """None for anything that is not written like a hint: it is then no hint."""
        match = _HINT.fullmatch(text)
        if match is None:
            return None
        return cls(int(match["place"]), int(match["number"]), bytes.fromhex(match["digest"]))


@dataclass(frozen=True, slots=True)
class Followed:
    """A frame that counts. `started`: it begins a new epoch, so an unfinished run of parts is void."""

    frame: Frame
    place: int
    next_place: int
    started: bool


class Follower:
    """Reads the log from one place on. Not thread-safe, but any thread may look into `tables`: nothing ever
    leaves it."""

    def __init__(
        self,
        log: ChangeLog,
        reader: LogReader,
        chain: Chain,
        *,
        first_place: int,
        skip_to_anchor: bool = False,
    ) -> None:
        self.chain = chain
        self.tables: dict[bytes, TableSchema] = {}
        self.anchor: AnchorHint | None = None
        self.first_anchor: Anchor | None = None
        self.last_anchor: Anchor | None = None
        self.last_start: bytes | None = None
        self.last_commit_lsn: Lsn | None = None
        self.next_place = first_place
        self.began_at = 0
        self.highest_epoch = chain.epoch
        self.highest_number = chain.number
        self.ignored: Counter[Verdict] = Counter()
        self._log = log
        self._reader = reader
        self._begun = False
        self._skip_to_anchor = skip_to_anchor
        self._broken_since: float | None = None
        self._by_age: dict[bytes, TableSchema] = {}
        self._unfinished: set[bytes] = set()
        self._void: set[bytes] = set()

    def read(self, timeout_s: float) -> list[Followed]:
        """The next frames that count, in order; [] after `timeout_s`.

        Raises what the log's reader raises; HistoryBroken (`log-broken`) when an epoch broke and no
        capture began a new one for five minutes.
        """
        followed: list[Followed] = []
        for record in self._reader.read(timeout_s):
            self._take(record, followed)
        self._expect_new_epoch()
        return followed

    def read_to(self, end: int, stop: threading.Event | None = None) -> Iterator[list[Followed]]:
        """What each `read` returns, until all before `end` (see `Bounds`) was read, or `stop`.

        Raises what `read` raises, and RetryLater (`log-end-unread`) if the end is not delivered.
        """
        guard = EndGuard(self._log)
        while self.next_place < end and not (stop is not None and stop.is_set()):
            guard.see(self.next_place)
            yield self.read(_READ_S)

    @property
    def waits_for_epoch(self) -> bool:
        """Whether the log's current epoch broke and nothing counts until capture starts anew."""
        return self.chain.broken

    @property
    def broken_s(self) -> float:
        """For how long that has been seen, 0 where it is not. May be asked from any thread."""
        since = self._broken_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def live_tables(self) -> tuple[TableSchema, ...]:
        """The newest version of each table, by name, after the last complete transaction."""
        unfinished = self._unfinished | self._void
        finished = (table for table in self._by_age.values() if table.id not in unfinished)
        return tuple({(table.schema, table.name): table for table in finished}.values())

    def close(self) -> None:
        self._reader.close()

    def _take(self, record: Record, followed: list[Followed]) -> None:
        self.next_place = record.next_place
        frame = open_frame(record.value)
        if frame is not None and self.chain.stream in (None, frame.stream):
            self.highest_epoch = max(self.highest_epoch, frame.epoch)
            self.highest_number = max(self.highest_number, frame.number)
        verdict = self._judge(frame)
        if verdict is None:
            return
        if frame is None or verdict not in (Verdict.START, Verdict.ACCEPTED):
            self.ignored[verdict] += 1
            return
        self._learn(frame, record)
        followed.append(Followed(frame, record.place, record.next_place, verdict is Verdict.START))

    def _judge(self, frame: Frame | None) -> Verdict | None:
        """None: a record before the anchor that is looked for."""
        if self._begun:
            self.chain, verdict = judge(self.chain, frame)
            return verdict
        entered = enter(self.chain, frame, at_start=not self._skip_to_anchor)
        if entered is None:
            return None
        self._begun = True
        self.chain, verdict = entered
        self.began_at = self.chain.number
        return verdict

    def _learn(self, frame: Frame, record: Record) -> None:
        self._learn_tables(frame)
        if isinstance(frame.body, Transactions):
            self.last_commit_lsn = frame.body.transactions[-1].commit_lsn
        elif isinstance(frame.body, Part) and frame.body.commit is not None:
            self.last_commit_lsn = frame.body.commit_lsn
        if isinstance(frame.body, Anchor):
            self.anchor = AnchorHint(record.place, frame.number, frame.digest)
            self.last_anchor = frame.body
            self.first_anchor = self.first_anchor or frame.body
        elif isinstance(frame.body, CaptureStart):
            self.last_start = frame.body.nonce

    def _learn_tables(self, frame: Frame) -> None:
        """P7: what an unfinished run of parts brought is void with it. It stays readable for whoever
        has not yet looked at those parts, and is new when it comes again."""
        if isinstance(frame.body, CaptureStart):
            self._void |= self._unfinished
            self._unfinished.clear()
        for table in frame.tables:
            is_known = table.id in self.tables and table.id not in self._void
            if self.chain.open_part is not None and not is_known:
                self._unfinished.add(table.id)
            self._void.discard(table.id)
            self._by_age.pop(table.id, None)  # a version that came back is the newest again
            self._by_age[table.id] = self.tables[table.id] = table
        if self.chain.open_part is None:
            self._unfinished.clear()

    def _expect_new_epoch(self) -> None:
        if not self.chain.broken:
            self._broken_since = None
        elif self._broken_since is None:
            self._broken_since = time.monotonic()
        elif self.broken_s > BROKEN_TIMEOUT_S:
            raise HistoryBroken(
                f"the log's epoch {self.chain.epoch} broke after frame {self.chain.number}"
                f" in {self._log.name} and no capture has begun a new one for {BROKEN_TIMEOUT_S:.0f} s",
                code="log-broken",
                hint="Start capture: `keepstream capture`. If one runs, restart it: only then does it read"
                " the log again. It continues where the log was last valid, or says why it cannot.",
            )


def follow_from_start(log: ChangeLog, *, stream: bytes | None = None) -> Follower:
    """A follower that begins with the oldest record of the log."""
    first = log.bounds().first
    return Follower(log, log.reader(), Chain(stream=stream), first_place=first)


class SameHistory:
    """P2: proves that a log is the one in which a position was taken.

    Feed it every transaction and anchor in order, from an anchor at or before the position on. The last
    transaction below the position must then be the one that the position names: another one, or none,
    raises HistoryBroken (`other-history`). A position that names none (a slot's or a copy's own) proves
    nothing. What a slot sends again may begin anywhere, so that there absence proves nothing: that is
    compared by `pipeline.capture.history.resent`.
    """

    def __init__(self, position: Position) -> None:
        self._position = position
        self._last: tuple[int, int] | None = None
        self._done = position.xid == 0
        self._timeline: int | None = None

    def see_anchor(self, at: Position, timeline: int) -> None:
        """An anchor names the last transaction before it. With another `timeline` the log left the source's
        old one there: past it, a position that names no transaction was taken from what a failover lost."""
        if self._timeline not in (None, timeline) and not self._position.xid and at.lsn < self._position.lsn:
            raise self._lost_in_failover(at, timeline)
        self._timeline = timeline
        if not self._done and at.lsn <= self._position.lsn and at.xid:
            self._last = (at.xid, at.commit_time)

    def see(self, *, commit_lsn: int, xid: int, commit_time: int) -> bool:
        """Whether the position already holds this transaction (P1): the caller then skips it."""
        held = commit_lsn < self._position.lsn
        if held:
            self._last = (xid, commit_time)
        else:
            self.prove()
        return held

    def prove(self) -> None:
        """Called when the log is known past the position: the last transaction seen must be the one."""
        if self._done:
            return
        self._done = True
        expected = (self._position.xid, self._position.commit_time)
        if self._last == expected:
            return
        if self._last is None:
            seen = f"the log has no transaction below it, and should have {expected[0]}"
        elif self._last[0] == expected[0]:
            seen = f"the log's transaction {expected[0]} was committed at another time"
        else:
            seen = f"the log's last transaction below it is {self._last[0]}, not {expected[0]}"
        raise HistoryBroken(
            f"position {self._position} was taken in another history: {seen}",
            code="other-history",
            hint="The replica followed another log or source. Nothing was changed. Point `log` and"
            " `source` at the ones it followed, or empty its database and let `keepstream run` copy anew.",
        )

    def _lost_in_failover(self, at: Position, timeline: int) -> HistoryBroken:
        return HistoryBroken(
            f"position {self._position} was taken on timeline {self._timeline} of the source, and the log"
            f" left that for timeline {timeline} at {at}",
            code="other-history",
            hint="The replica was copied just before the source failed over, and may hold rows that the"
            " promoted standby never got. Nothing was changed. Empty its database and let `keepstream run`"
            " copy anew.",
        )


def find_tail(
    log: ChangeLog, *, near: int | None = None, see: Callable[[Followed], None] = lambda _: None
) -> Follower:
    """A follower that has read to the log's end: its `chain` says where the log stands.

    Begins some records before the end, at an anchor; goes further back, twice as far each time, until the
    chain has gone on for TAIL_PROOF_RECORDS after the anchor, or the log's start is reached. So much of a
    chain is no replaced writer's; if it breaks after that, then it does for everybody. `near`: where an
    earlier look saw an anchor. It begins there, and needs the same proof. `see`: is given each frame that
    counts, from an anchor on, and anew from an earlier one each time that it goes back.
    """
    bounds = log.bounds()
    if near is None or not bounds.first <= near < bounds.end:
        near = log.rewind(bounds.end, first=bounds.first)
    place, steps = near, 1
    while True:
        at_start = place <= bounds.first
        follower = _scan(log, place, bounds.end, see, at_start=at_start)
        if at_start or _is_proven(follower):
            _refuse_cut(log, follower)
            return follower
        follower.close()
        steps *= 2
        place = log.rewind(place, steps, first=bounds.first)


def _is_proven(follower: Follower) -> bool:
    return (
        follower.anchor is not None
        and follower.chain.number - follower.began_at >= TAIL_PROOF_RECORDS
        and follower.highest_epoch == follower.chain.epoch
    )


def _refuse_cut(log: ChangeLog, tail: Follower) -> None:
    """A log whose first anchors were cut off looks as if it had promised nothing (P6), and capture would
    make slot and publication anew over what it did promise."""
    if tail.chain.promised or tail.highest_number <= 1:
        return
    tail.close()
    raise HistoryBroken(
        f"the log {log.name} has frames up to number {tail.highest_number} and no anchor where they begin",
        code="log-cut",
        hint="Its beginning was deleted by somebody else: Keepstream trims to an anchor. Bring it back from a"
        f" copy; without one, {BEGIN_ANEW}.",
    )


def _scan(
    log: ChangeLog, place: int, end: int, see: Callable[[Followed], None], *, at_start: bool
) -> Follower:
    reader = log.reader(None if at_start else place)
    follower = Follower(log, reader, Chain(), first_place=place, skip_to_anchor=not at_start)
    with contextlib.ExitStack() as undo:
        undo.callback(follower.close)
        for read in follower.read_to(end):
            for followed in read:
                see(followed)
        undo.pop_all()
    return follower
