"""Where a consumer that comes back begins to read: at its hinted anchor, else the oldest record (P2, P12).

What was read to verify the place is handed on, so that each place is read once: a reader is dear where it
must connect first.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from itertools import chain
from uuid import UUID

from connectors.interfaces import ChangeLog, LogReader, Record
from pipeline.follow import AnchorHint, Follower, follow_from_start
from pipeline.logreading import records_to
from schemas.errors import HistoryBroken, KeepstreamError, PlaceTrimmed
from schemas.frame import Anchor, CaptureStart, Frame
from schemas.framecodec import open_frame
from schemas.lsn import Position
from schemas.validity import Chain

_FIRST_RECORD_S = 5.0


def follow_from(
    log: ChangeLog,
    *,
    stream: bytes,
    position: Position,
    hint: str | None,
    stop: threading.Event | None = None,
) -> Follower:
    """A follower for a consumer that holds `position` of `stream`.

    It begins at the hinted anchor if that is what the hint says and not past the position, else with
    the oldest record. Transactions below the position come again: the consumer skips them by P1
    and proves with them that it is the same history (P2, `SameHistory`). After `stop` nothing more is
    looked at: the follower is not to be read.
    Raises PlaceTrimmed (`log-trimmed`) if the log no longer reaches back to the position, HistoryBroken
    (`other-stream`) if it is another one.
    """
    told = AnchorHint.parse(hint or "")
    return _from_hint(log, stream, position, told) or _from_start(log, stream, position, stop)


class _Peeked:
    """A `LogReader` whose next records may be seen before they are read."""

    def __init__(self, reader: LogReader) -> None:
        self.seen: list[Record] = []
        self._reader = reader

    def peek(self, timeout_s: float) -> list[Record]:
        """What a read would return; `seen` keeps it."""
        came = self._reader.read(timeout_s)
        self.seen += came
        return came

    def read(self, timeout_s: float) -> list[Record]:
        seen, self.seen = self.seen, []
        return seen or self._reader.read(timeout_s)

    def close(self) -> None:
        self._reader.close()


def _from_hint(log: ChangeLog, stream: bytes, position: Position, told: AnchorHint | None) -> Follower | None:
    if told is None:
        return None
    bounds = log.bounds()
    if not bounds.first <= told.place < bounds.end:
        return None
    with ExitStack() as closing:
        reader = _open(log, told.place, closing)
        frame = _first_frame(reader) if reader is not None else None
        if reader is None or frame is None or frame.stream != stream or not isinstance(frame.body, Anchor):
            return None
        matches = str(AnchorHint(told.place, frame.number, frame.digest)) == str(told)
        if not matches or frame.body.at.lsn > position.lsn:
            return None
        closing.pop_all()
        return Follower(log, reader, Chain(stream=stream), first_place=told.place)


def _from_start(log: ChangeLog, stream: bytes, position: Position, stop: threading.Event | None) -> Follower:
    bounds = log.bounds()
    with ExitStack() as closing:
        reader = _open(log, None, closing)
        if reader is None:
            return follow_from_start(log, stream=stream)
        _refuse_other_start(log, reader, bounds.end, stream, position, stop)
        closing.pop_all()
        return Follower(log, reader, Chain(stream=stream), first_place=bounds.first)


def _open(log: ChangeLog, place: int | None, closing: ExitStack) -> _Peeked | None:
    """A reader that has seen its first records, if there are any; None if nothing can be read there."""
    try:
        reader = _Peeked(log.reader(place))
    except KeepstreamError:
        return None
    closing.callback(reader.close)
    try:
        reader.peek(_FIRST_RECORD_S)
    except (HistoryBroken, PlaceTrimmed):
        return None
    return reader


def _first_frame(reader: _Peeked) -> Frame | None:
    return open_frame(reader.seen[0].value) if reader.seen else None


def _refuse_other_start(
    log: ChangeLog,
    reader: _Peeked,
    end: int,
    stream: bytes,
    position: Position,
    stop: threading.Event | None,
) -> None:
    frame = _first_frame(reader)
    if frame is None and end > log.bounds().first:
        return  # what is there is not delivered yet
    if frame is None:
        raise _trimmed(f"the log {log.name} is empty")
    if frame.stream != stream:
        raise HistoryBroken(
            f"the log {log.name} holds stream {UUID(bytes=frame.stream)}, not {UUID(bytes=stream)}",
            code="other-stream",
            hint="The log was made anew. Nothing was changed. Restore the log that the replica followed, or"
            " empty the replica's database and let `keepstream run` copy anew.",
        )
    begins = _first_chained(log, reader, end, stream, stop)
    if begins is None:
        return
    if not isinstance(begins.body, Anchor) or (begins.number > 1 and begins.digest != frame.digest):
        seen, begins_at = "in the middle of an epoch: somebody else than Keepstream cut it", ""
    elif begins.body.at.lsn > position.lsn:
        seen = f"at {begins.body.at}, after position {position}"
        begins_at = str(begins.body.at)
    else:
        return
    raise _trimmed(f"the log {log.name} begins {seen}", begins_at)


def _trimmed(seen: str, begins_at: str = "") -> PlaceTrimmed:
    error = PlaceTrimmed(
        seen,
        code="log-trimmed",
        hint="What the replica lacks was trimmed away. Copy anew: empty the replica's database and run"
        " `keepstream run`; a longer `log.retain` keeps more.",
    )
    error.begins_at = begins_at
    return error


def _first_chained(
    log: ChangeLog, reader: _Peeked, end: int, stream: bytes, stop: threading.Event | None
) -> Frame | None:
    """The log's first frame of this stream that is no CAPTURE_START. A chain can begin there only if it
    is an ANCHOR, and the log's first record or the first frame of all (P12)."""
    seen = list(reader.seen)
    unseen = records_to(log, reader.peek, place=seen[-1].next_place, end=end, stop=stop)
    for record in chain(seen, unseen):
        frame = open_frame(record.value)
        if frame is not None and frame.stream == stream and not isinstance(frame.body, CaptureStart):
            return frame
    return None
