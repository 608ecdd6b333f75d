"""Whoever reads up to the log's end finds it, or says that it is not delivered; none waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from connectors.interfaces import Bounds, ChangeLog, Record
from pipeline.capture.writing.trimming import anchors
from pipeline.control.frames import list_frames
from pipeline.copy.stage import first_position
from pipeline.events.tail import Beginning, EventTail
from pipeline.follow import find_tail
from pipeline.reentry import follow_from
from schemas.errors import RetryLater
from schemas.lsn import Lsn, Position
from tests.frames import STREAM, Writer
from tests.memorylog import MemoryLog, MemoryReader, SlowLog

Read = Callable[[ChangeLog, threading.Event], object]


class WithheldLog(MemoryLog):
    """Its last record is never delivered. `open_readers`: how many are not closed."""

    def __init__(self, records: list[bytes]) -> None:
        super().__init__(records)
        self.open_readers = 0

    def bounds(self) -> Bounds:
        return Bounds(0, len(self.records) + 1)

    def reader(self, place: int | None = None) -> MemoryReader:
        self.open_readers += 1
        return CountedReader(self, place or 0)


class CountedReader(MemoryReader):
    def __init__(self, log: WithheldLog, place: int) -> None:
        super().__init__(log.records, place)
        self._log = log

    def close(self) -> None:
        self._log.open_readers -= 1


def follow_start(log: ChangeLog, stop: threading.Event) -> None:
    follow_from(log, stream=STREAM, position=Position(Lsn(0)), hint=None, stop=stop).close()


def tail_events(log: ChangeLog, stop: threading.Event) -> None:
    tail = EventTail(log, Beginning())
    try:
        list(tail.events(stop, follow=False, before_waiting=lambda: None))
    finally:
        tail.close()


READERS: dict[str, Read] = {
    "find_tail": lambda log, stop: find_tail(log),
    "log ls": lambda log, stop: list(list_frames(log, limit=0, stop=stop)),
    "log ls --limit": lambda log, stop: list(list_frames(log, limit=3, stop=stop)),
    "events tail": tail_events,
    "apply's start": follow_start,
    "trimming": lambda log, stop: list(anchors(log, stop)),
    "initial: none": lambda log, stop: first_position(log),
}


@pytest.fixture
def withheld() -> WithheldLog:
    """Of a log that has only begun, so that nobody is done before its end."""
    return WithheldLog([Writer().start()])


@pytest.mark.parametrize("name", READERS)
def test_an_end_that_is_not_delivered_is_an_error_and_no_endless_wait(
    name: str, withheld: WithheldLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.logreading.SILENCE_S", 0.05)
    with pytest.raises(RetryLater) as caught:
        READERS[name](withheld, threading.Event())  # type: ignore[arg-type]
    assert caught.value.code == "log-end-unread"
    assert caught.value.message == "the end of the log memory is not delivered"
    assert withheld.open_readers == 0


@pytest.mark.parametrize("name", ["log ls", "log ls --limit", "events tail", "apply's start", "trimming"])
def test_who_waits_for_the_log_s_end_ends_when_told_to(name: str, withheld: WithheldLog) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    READERS[name](withheld, stop)  # type: ignore[arg-type]
    timer.join()
    assert withheld.open_readers == 0


def test_a_read_that_brings_nothing_that_counts_is_not_the_log_s_end() -> None:
    """A replica of `initial: none` begins at the log's first anchor, however slow the broker is."""
    owner = Writer()
    records = [owner.start(), owner.start(epoch=1), owner.anchor()]
    assert first_position(SlowLog(records)).lsn == owner.lsn  # type: ignore[arg-type]


def test_a_list_of_all_records_holds_none_of_them() -> None:
    owner = Writer()
    log = SlowLog([owner.start(), owner.anchor(), owner.heartbeat()])
    listed = list_frames(log, limit=0, stop=threading.Event())  # type: ignore[arg-type]
    assert (next(listed).kind, log.last_reader.place) == ("capture_start", 1)
    assert [each.kind for each in listed] == ["anchor", "heartbeat"]


def test_a_scan_that_fails_closes_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture, copy and check try again for as long as a broker is away."""

    def unreachable(*_: object) -> list[Record]:
        raise RetryLater("away", code="log-unreachable")

    monkeypatch.setattr(CountedReader, "read", unreachable)
    log = WithheldLog([Writer().start()])
    with pytest.raises(RetryLater, match="away"):
        find_tail(log)  # type: ignore[arg-type]
    assert log.open_readers == 0
