"""Where the log ends, for who only looks and must be quick."""

from __future__ import annotations

from collections import deque
from typing import Final

from connectors.interfaces import ChangeLog
from pipeline.follow import TAIL_PROOF_RECORDS, find_tail
from schemas.frame import Frame
from schemas.framecodec import open_frame
from schemas.lsn import Position
from schemas.validity import Chain, judge

WINDOW_RECORDS: Final = 8 * TAIL_PROOF_RECORDS
_READ_S: Final = 5.0


def find_end(log: ChangeLog) -> Chain | None:
    """The chain at the log's end; None: it has promised nothing.

    Of small frames hundreds of thousands may stand between two anchors, and `find_tail` judges them all. Here
    the newest records alone are judged, from any of them on that names its position, by the same proof: so
    long a chain is no replaced writer's. That an epoch broke before them is not seen: who writes or applies
    looks further. Raises what the log raises.
    """
    chain = _proven(_newest(log))
    if chain is None:
        tail = find_tail(log)
        tail.close()
        chain = tail.chain
    return chain if chain.promised else None


def _newest(log: ChangeLog) -> list[Frame | None]:
    """Fewer than WINDOW_RECORDS only of a short log, or where it does not answer soon."""
    bounds = log.bounds()
    window: deque[bytes] = deque(maxlen=WINDOW_RECORDS)
    place, times = bounds.end, 1
    while len(window) < WINDOW_RECORDS and place > bounds.first:
        place = log.rewind(place, times, first=bounds.first)
        times *= 2
        window.clear()
        if not _read(log, window, place, bounds.end):
            break
    return [open_frame(record) for record in window]


def _read(log: ChangeLog, window: deque[bytes], place: int, end: int) -> bool:
    reader = log.reader(place)
    try:
        while place < end:
            came = reader.read(_READ_S)
            if not came:
                return False
            window.extend(record.value for record in came)
            place = came[-1].next_place
    finally:
        reader.close()
    return True


def _proven(frames: list[Frame | None]) -> Chain | None:
    """The chain at their end; None if they do not prove it."""
    chain, began_at, highest_epoch = None, 0, 0
    for frame in frames:
        if chain is not None:
            chain, _ = judge(chain, frame)
        elif frame is not None and frame.position is not None:
            chain, began_at = _entered(frame, frame.position), frame.number
        if chain is not None and frame is not None and frame.stream == chain.stream:
            highest_epoch = max(highest_epoch, frame.epoch)
    if chain is None or chain.epoch != highest_epoch or chain.number - began_at < TAIL_PROOF_RECORDS:
        return None
    return chain


def _entered(frame: Frame, position: Position) -> Chain:
    return Chain(
        stream=frame.stream,
        epoch=frame.epoch,
        number=frame.number,
        digest=frame.digest,
        tail=position,
        max_commit_time=frame.max_commit_time,
    )
