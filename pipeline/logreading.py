"""Reading the log to where it ended when one began.

That end may never be delivered: it may be another producer's transaction marker, or a broker that keeps
records back. Who reads up to it would wait for ever, so each such wait is bounded here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from connectors.interfaces import ChangeLog, Record
from schemas.errors import RetryLater

SILENCE_S = 60.0
_READ_S = 0.5


class EndGuard:
    """Of one reading up to the log's end."""

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        self._place: int | None = None
        self._moved_at = time.monotonic()

    def see(self, place: int) -> None:
        """Reading has come to `place`, and not to the end. Raises RetryLater (`log-end-unread`) if it stood
        there for a minute."""
        now = time.monotonic()
        if place != self._place:
            self._place, self._moved_at = place, now
        elif now - self._moved_at > SILENCE_S:
            raise RetryLater(
                f"the end of the log {self._log.name} is not delivered",
                code="log-end-unread",
                hint="If somebody else writes to the topic with transactions, stop that: Keepstream writes"
                " none.",
            )


def records_to(
    log: ChangeLog,
    read: Callable[[float], Sequence[Record]],
    *,
    place: int,
    end: int,
    stop: threading.Event | None = None,
) -> Iterator[Record]:
    """What `read` (see `LogReader`) gives from `place` on, where it stands, until all before `end` was read,
    or `stop`. The last ones may stand past `end`.

    Raises what `read` raises, and RetryLater (`log-end-unread`).
    """
    guard = EndGuard(log)
    while place < end and not (stop is not None and stop.is_set()):
        guard.see(place)
        for record in read(_READ_S):
            place = record.next_place
            yield record
