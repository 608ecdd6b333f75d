"""The log's records as `log ls` shows them: what each is, and how every reader judges it (P7)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from connectors.interfaces import ChangeLog, Record
from pipeline.logreading import records_to
from schemas.frame import Anchor, CaptureStart, Frame, Heartbeat, Part, Sequences, Transactions
from schemas.framecodec import open_frame
from schemas.lsn import format_lsn
from schemas.validity import Chain, Verdict, enter, judge


@dataclass(frozen=True, slots=True)
class Entry:
    """What a record is, without its content. Only the verdicts `start` and `accepted` count for readers.
    stream, epoch, number: None of a damaged one."""

    place: int
    stream: str | None
    epoch: int | None
    number: int | None
    kind: str
    transactions: int
    changes: int
    first_lsn: str | None
    last_lsn: str | None
    bytes: int
    verdict: str

    @classmethod
    def of(cls, record: Record, frame: Frame | None, verdict: Verdict) -> Entry:
        """`frame`: what the record holds; None: it is damaged."""
        body = frame.body if frame else None
        first, last = _lsns(body)
        return cls(
            place=record.place,
            stream=str(UUID(bytes=frame.stream)) if frame else None,
            epoch=frame.epoch if frame else None,
            number=frame.number if frame else None,
            kind=_kind(body),
            transactions=_transactions(body),
            changes=_changes(body),
            first_lsn=first,
            last_lsn=last,
            bytes=len(record.value),
            verdict=verdict.value,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def list_frames(log: ChangeLog, *, limit: int, stop: threading.Event) -> Iterator[Entry]:
    """The newest `limit` records, oldest first; 0: all of them, of which none is kept.

    Judging begins at an anchor (or the log's start) before them. Raises what the log raises, and RetryLater
    (`log-end-unread`).
    """
    bounds = log.bounds()
    if not limit:
        yield from _judged(log, Chain(), bounds.first, bounds.end, at_start=True, stop=stop)
        return
    stream = _stream(log, bounds.end, stop)
    place, steps = bounds.end, 1
    while True:
        place = log.rewind(place, steps, first=bounds.first) if place > bounds.first else bounds.first
        at_start = place <= bounds.first
        begin = Chain() if at_start else Chain(stream=stream)
        judged = _judged(log, begin, place, bounds.end, at_start=at_start, stop=stop)
        newest = deque(judged, maxlen=limit)
        if at_start or stop.is_set() or len(newest) == limit:
            yield from newest
            return
        steps *= 2


def _stream(log: ChangeLog, end: int, stop: threading.Event) -> bytes | None:
    """Whose log it is: a stranger's anchor in its middle must not be taken for the log's own."""
    chain = Chain()
    for record in _records(log, None, end, stop):
        entered = enter(chain, open_frame(record.value), at_start=True)
        if entered is not None and entered[0].stream is not None:
            return entered[0].stream
    return None


def _judged(
    log: ChangeLog, chain: Chain, place: int, end: int, *, at_start: bool, stop: threading.Event
) -> Iterator[Entry]:
    """The records from the first anchor at or after `place` on; from the log's start, all."""
    begun = False
    for record in _records(log, None if at_start else place, end, stop):
        frame = open_frame(record.value)
        judged = judge(chain, frame) if begun else enter(chain, frame, at_start=at_start)
        if judged is not None:
            begun = True
            chain, verdict = judged
            yield Entry.of(record, frame, verdict)


def _records(log: ChangeLog, place: int | None, end: int, stop: threading.Event) -> Iterator[Record]:
    """From `place` on; None: from the log's start."""
    reader = log.reader(place)
    first = log.bounds().first if place is None else place
    try:
        for record in records_to(log, reader.read, place=first, end=end, stop=stop):
            if record.place < end:
                yield record
    finally:
        reader.close()


def _kind(body: object) -> str:
    kinds = {
        Transactions: "transactions",
        Part: "part",
        CaptureStart: "capture_start",
        Anchor: "anchor",
        Heartbeat: "heartbeat",
        Sequences: "sequences",
    }
    return kinds.get(type(body), "damaged")


def _transactions(body: object) -> int:
    if isinstance(body, Transactions):
        return len(body.transactions)
    return int(isinstance(body, Part) and body.commit is not None)


def _changes(body: object) -> int:
    if isinstance(body, Transactions):
        return sum(transaction.change_count for transaction in body.transactions)
    if isinstance(body, Part):
        return body.change_count
    return 0


def _lsns(body: object) -> tuple[str | None, str | None]:
    """(first commit LSN, last end LSN); of what has no transactions where it stands."""
    if isinstance(body, Transactions):
        first, last = body.transactions[0], body.transactions[-1]
        return format_lsn(first.commit_lsn), format_lsn(last.end_lsn)
    if isinstance(body, Part):
        return format_lsn(body.commit_lsn), format_lsn(body.commit.end_lsn) if body.commit else None
    if isinstance(body, (Anchor, Heartbeat, Sequences)):
        return format_lsn(body.at.lsn), format_lsn(body.at.lsn)
    return None, None
