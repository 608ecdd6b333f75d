"""P5, P7: `find_tail` reads a window at the log's end and says what reading all of it says, and so does
`find_end`, which judges its newest records alone."""

from __future__ import annotations

import random
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.follow import TAIL_PROOF_RECORDS, Follower, find_tail, follow_from_start
from pipeline.logend import WINDOW_RECORDS, find_end
from schemas.framecodec import open_frame
from schemas.lsn import START
from tests.frames import OTHER_STREAM, Writer
from tests.memorylog import STEP, MemoryLog

IN_FLIGHT = 6


class Captures:
    """Captures that follow each other in one log, with damage and strangers between.

    Every capture reads before it writes; one that was replaced still writes what it had in flight, late;
    one that finds something between its records that is no stranger's ends with what it had in flight.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._late: list[bytes] = []
        self._owner = Writer()
        self.log = [self._owner.start(), self._owner.anchor()]

    def write(self, length: int) -> list[bytes]:
        events = [self._transaction, self._parts, self._anchor, self._stranger, self._damage, self._replace]
        while len(self.log) < length:
            self._random.choices(events, [50, 10, 20, 5, 3, 7])[0]()
            if self._late and self._random.random() < 0.5:
                self.log.append(self._late.pop(0))
        return self.log

    def _transaction(self) -> None:
        self.log.append(self._owner.transaction())

    def _parts(self) -> None:
        self.log += [self._owner.part(1), self._owner.part(2, last=True)]

    def _anchor(self) -> None:
        self.log.append(self._owner.anchor())

    def _stranger(self) -> None:
        self.log.append(Writer(OTHER_STREAM).start())

    def _damage(self) -> None:
        self.log.append(b"damaged")
        self.log += self._in_flight(self._owner)
        self._replace()

    def _in_flight(self, writer: Writer) -> list[bytes]:
        kinds = (writer.anchor, writer.transaction)
        return [self._random.choice(kinds)() for _ in range(self._random.randint(0, IN_FLIGHT))]

    def _replace(self) -> None:
        replaced, tail = self._owner, find_all(self.log)
        self._owner = Writer()
        self._owner.epoch, self._owner.number = tail.highest_epoch, tail.chain.number
        self._owner.digest, self._owner.lsn = tail.chain.digest, tail.chain.tail.lsn
        self.log.append(self._owner.start())
        self._late = self._in_flight(replaced)
        if self._random.random() < 0.3:  # killed here: only late records follow until the next one
            self.log += self._late
            self._late = []
            self._replace()
        self.log.append(self._owner.anchor())


def find_all(records: list[bytes]) -> Follower:
    follower = follow_from_start(MemoryLog(records))  # type: ignore[arg-type]
    while follower.next_place < len(records):
        follower.read(0)
    return follower


@given(st.integers(0, 10**9), st.integers(2, 80), st.none() | st.integers(0, 100))
def test_p7_a_window_at_the_end_tells_what_the_whole_log_tells(
    seed: int, length: int, near: int | None
) -> None:
    """Wherever an earlier look saw an anchor, and be it gone."""
    records = Captures(seed).write(length)
    whole, log = find_all(records), MemoryLog(records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.follow.TAIL_PROOF_RECORDS", IN_FLIGHT + 2)
        found = find_tail(log, near=near)  # type: ignore[arg-type]
    assert found.highest_epoch == whole.highest_epoch
    assert (found.chain.epoch, found.chain.number, found.chain.digest, found.chain.tail) == (
        whole.chain.epoch,
        whole.chain.number,
        whole.chain.digest,
        whole.chain.tail,
    )
    assert found.live_tables == whole.live_tables
    assert found.last_anchor == whole.last_anchor


@given(st.integers(0, 10**9), st.integers(2, 80))
def test_p7_the_newest_records_alone_tell_where_the_log_ends(seed: int, length: int) -> None:
    records = Captures(seed).write(length)
    tail = find_all(records).chain.tail
    with pytest.MonkeyPatch.context() as patch:
        for module in ("follow", "logend"):
            patch.setattr(f"pipeline.{module}.TAIL_PROOF_RECORDS", IN_FLIGHT + 2)
        patch.setattr("pipeline.logend.WINDOW_RECORDS", 3 * IN_FLIGHT)
        found = find_end(MemoryLog(records))  # type: ignore[arg-type]
        assert (found.tail if found else START) == tail


def test_where_the_log_ends_is_known_without_judging_all_that_came_after_its_last_anchor() -> None:
    """Of tiny frames 64 MiB are half a million."""
    owner = Writer()
    records = [owner.start(), owner.anchor()] + [owner.transaction() for _ in range(5 * WINDOW_RECORDS)]
    opened = Mock(side_effect=open_frame)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.logend.open_frame", opened)
        patch.setattr("pipeline.follow.open_frame", opened)
        found = find_end(MemoryLog(records))  # type: ignore[arg-type]
    assert found is not None
    assert found.tail.lsn == owner.lsn
    assert opened.call_count <= WINDOW_RECORDS


def test_of_a_replaced_writer_s_late_records_alone_nothing_is_proven() -> None:
    owner = Writer()
    records = [owner.start(), owner.anchor()] + [owner.transaction() for _ in range(2 * WINDOW_RECORDS)]
    replaced = owner.fork()
    records += [owner.start(), owner.anchor(), owner.transaction()]
    lsn = owner.lsn
    records += [replaced.transaction() for _ in range(32)]
    found = find_end(MemoryLog(records))  # type: ignore[arg-type]
    assert found is not None
    assert found.tail.lsn == lsn


def test_a_log_that_has_promised_nothing_has_no_end() -> None:
    assert find_end(MemoryLog([])) is None  # type: ignore[arg-type]
    assert find_end(MemoryLog([Writer().start()])) is None  # type: ignore[arg-type]


def test_p5_a_replaced_writers_anchor_at_the_very_end_is_not_taken_for_the_tail() -> None:
    """Beginning to read at it, everything would look right."""
    owner = Writer()
    records = [owner.start(), owner.anchor()] + [owner.transaction() for _ in range(3 * TAIL_PROOF_RECORDS)]
    replaced = owner.fork()
    records += [owner.start(), owner.anchor(), owner.transaction()]
    owner_number = owner.number
    records += [replaced.anchor() for _ in range(32)]
    found = find_tail(MemoryLog(records))  # type: ignore[arg-type]
    assert (found.chain.epoch, found.chain.number) == (2, owner_number)


def test_a_long_log_is_not_read_whole() -> None:
    owner = Writer()
    records = [owner.start(), owner.anchor()]
    for _ in range(20):
        records += [owner.anchor(), *(owner.transaction() for _ in range(TAIL_PROOF_RECORDS))]
    log = MemoryLog(records)
    assert find_tail(log).chain.number == owner.number  # type: ignore[arg-type]
    assert min(log.scanned_from) >= len(records) - 3 * TAIL_PROOF_RECORDS


def test_a_long_log_whose_end_is_broken_is_not_read_whole() -> None:
    """What broke it came after a chain that is nobody else's, so everybody sees it break there."""
    owner = Writer()
    records = [owner.start(), owner.anchor()]
    for _ in range(20):
        records += [owner.anchor(), *(owner.transaction() for _ in range(TAIL_PROOF_RECORDS))]
    log = MemoryLog([*records, b"damaged", owner.fork().transaction()])
    found = find_tail(log)  # type: ignore[arg-type]
    assert (found.chain.number, found.chain.broken) == (owner.number, True)
    assert min(log.scanned_from) >= len(records) - 3 * TAIL_PROOF_RECORDS


def test_a_log_with_its_anchors_far_apart_is_scanned_a_few_times_only() -> None:
    """Small frames: thousands of them stand between two anchors."""
    owner = Writer()
    records = [owner.start(), owner.anchor()] + [owner.transaction() for _ in range(500 * STEP)]
    log = MemoryLog(records)
    assert find_tail(log).chain.number == owner.number  # type: ignore[arg-type]
    assert len(log.scanned_from) <= 10


def test_where_an_anchor_was_seen_a_log_is_scanned_once() -> None:
    owner = Writer()
    records = [owner.start(), *(owner.anchor() for _ in range(9))]
    records += [owner.transaction() for _ in range(500 * STEP)]
    log = MemoryLog(records)
    assert find_tail(log, near=9).chain.number == owner.number  # type: ignore[arg-type]
    assert log.scanned_from == [9]
