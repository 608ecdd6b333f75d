"""The log's records as `log ls` shows them: what each is, and how every reader judges it (P7)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from connectors.interfaces import ChangeLog, Record
from schemas.frame import Anchor, CaptureStart, Frame, Heartbeat, Part, Transactions
from schemas.framecodec import open_frame
from schemas.lsn import format_lsn
from schemas.validity import Chain, Verdict, enter, judge

_READ_S = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One record. `verdict`: only START and ACCEPTED count for readers. `frame` None: it is damaged."""

    record: Record
    frame: Frame | None
    verdict: Verdict

    @property
    def counts(self) -> bool:
        return self.verdict in (Verdict.START, Verdict.ACCEPTED)

    def to_json(self) -> dict[str, Any]:
        frame = self.frame
        body = frame.body if frame else None
        first, last = _lsns(body)
        return {
            "place": self.record.place,
            "stream": str(UUID(bytes=frame.stream)) if frame else None,
            "epoch": frame.epoch if frame else None,
            "number": frame.number if frame else None,
            "kind": _kind(body),
            "transactions": _transactions(body),
            "changes": _changes(body),
            "first_lsn": first,
            "last_lsn": last,
            "bytes": len(self.record.value),
            "verdict": self.verdict.value,
        }


def list_frames(log: ChangeLog, *, limit: int, stop: threading.Event) -> list[Entry]:
    """The newest `limit` records, oldest first; 0: all of them.

    Judging begins at an anchor (or the log's start) before them. Raises what the log raises.
    """
    bounds = log.bounds()
    stream = _stream(log, bounds.end, stop) if limit else None
    place, steps = bounds.end, 1
    while True:
        place = log.rewind(place, steps) if limit and place > bounds.first else bounds.first
        at_start = place <= bounds.first
        begin = Chain() if at_start else Chain(stream=stream)
        entries = list(_judged(log, begin, place, bounds.end, at_start=at_start, stop=stop))
        if at_start or stop.is_set() or len(entries) >= limit:
            return entries[-limit:]
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
            yield Entry(record, frame, verdict)


def _records(log: ChangeLog, place: int | None, end: int, stop: threading.Event) -> Iterator[Record]:
    if end <= log.bounds().first:
        return
    reader = log.reader(place)
    next_place = -1
    try:
        while next_place < end and not stop.is_set():
            for record in reader.read(_READ_S):
                next_place = record.next_place
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
    """(first commit LSN, last end LSN); of an anchor or heartbeat where it stands."""
    if isinstance(body, Transactions):
        first, last = body.transactions[0], body.transactions[-1]
        return format_lsn(first.commit_lsn), format_lsn(last.end_lsn)
    if isinstance(body, Part):
        return format_lsn(body.commit_lsn), format_lsn(body.commit.end_lsn) if body.commit else None
    if isinstance(body, (Anchor, Heartbeat)):
        return format_lsn(body.at.lsn), format_lsn(body.at.lsn)
    return None, None
