"""How a transaction ends whose first part was just read: end LSN and commit time stand in its last part."""

from __future__ import annotations

from collections.abc import Callable

from connectors.interfaces import ChangeLog
from schemas.frame import Commit, Part
from schemas.framecodec import open_frame

_PATIENCE_S = 0.5


def find_commit(log: ChangeLog, place: int, part: Part, *, should_stop: Callable[[], bool]) -> Commit | None:
    """Read on from `place`, keeping nothing, to the last part of the same transaction; None if the log does
    not have it yet. Frames are not judged (P7): the answer only decides when to begin. Where a new epoch
    voided the parts, they come again with the same end."""
    reader = log.reader(place)
    try:
        while not should_stop():
            records = reader.read(_PATIENCE_S)
            if not records:
                return None
            for record in records:
                frame = open_frame(record.value)
                body = frame.body if frame is not None else None
                if not isinstance(body, Part) or body.commit_lsn != part.commit_lsn or body.xid != part.xid:
                    continue
                if body.commit is not None:
                    return body.commit
        return None
    finally:
        reader.close()
