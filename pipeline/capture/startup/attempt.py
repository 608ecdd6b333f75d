"""What an attempt to begin has read of the log, and what it has opened."""

from __future__ import annotations

import threading
from collections.abc import Callable

from connectors.ahead import Ahead
from connectors.postgres.failover.primary import require_same_server
from connectors.postgres.replication import slot as slots
from connectors.postgres.replication.stream import SlotStream
from connectors.postgres.replication.walsender import Walsender
from connectors.postgres.session import Session
from pipeline import purposes
from pipeline.capture.ddl.replay import Behind
from pipeline.capture.history.timelines import Lineage
from pipeline.capture.options import CaptureOptions
from pipeline.capture.waits import Waits
from pipeline.follow import Follower, find_tail
from schemas.entries import Entries


class Attempt:
    """`close_all`, if it fails, closes what it was given to `keep`, the last one first.

    lineage, entries: which source the log follows, and what its newest ANCHOR says, once that was read.
    behind: what the log tells behind that one. walsenders: made ahead; whoever made the attempt closes them.
    """

    def __init__(
        self, options: CaptureOptions, stop: threading.Event, waits: Waits, *, binary: bool = False
    ) -> None:
        self.options = options
        self.stop = stop
        self.waits = waits
        self.lineage: Lineage | None = None
        self.entries: Entries | None = None
        self.behind = Behind()
        self.walsenders = Ahead(self._new_walsender, Walsender.close)
        self._binary = binary
        self._opened: list[Callable[[], None]] = []

    def keep(self, close: Callable[[], None]) -> None:
        """How something that was opened is closed."""
        self._opened.append(close)

    def close_all(self) -> None:
        for close in reversed(self._opened):
            close()

    def find_tail(self) -> Follower:
        """The log, read to its end."""
        follower = find_tail(self.options.log, see=self.behind.see)
        follower.close()
        if follower.last_anchor is not None:
            self.lineage = Lineage.of(follower.last_anchor)
            self.entries = Entries.parse(follower.last_anchor.publication)
        return follower

    def walsender(self, sql: Session, stream_id: bytes) -> Walsender:
        """Ours, which will own the slot. Raises RetryLater (`source-changed`)."""
        options = self.options
        walsender = self.take_walsender()
        self.keep(walsender.close)
        walsender.rename(slots.owner_purpose(options.name, stream_id))
        require_same_server(sql, walsender)
        return walsender

    def take_walsender(self) -> Walsender:
        """Another one, which the caller closes."""
        made = self.walsenders.take()
        return self._new_walsender() if made is None else made

    def _new_walsender(self) -> Walsender:
        return Walsender(self.options.source, purpose=purposes.capture(self.options.name))

    def start_stream(self, walsender: Walsender) -> SlotStream:
        """From the slot's own position: what the log has already comes again and proves the history."""
        options = self.options
        stream = SlotStream(
            walsender, slot=options.slot, publication=options.publication, binary=self._binary
        )
        stream.start()
        self.keep(stream.close)
        return stream
