"""What a capture waits for: its report tells it, and its log once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from connectors.postgres.session import Session
from pipeline.cancelling import cancelled_by
from schemas.errors import RetryLater

logger = logging.getLogger("keepstream.capture")


class CaptureStopped(RetryLater):
    """`stop` was set while it waited (`stopped`)."""

    def __init__(self, doing: str) -> None:
        super().__init__(f"stopped while {doing}", code="stopped")


class Waits:
    """`stop`: ends what it waits for. `what`: now; None: nothing. `reads_wal`: it is that the source reads
    its WAL."""

    def __init__(self, stop: threading.Event) -> None:
        self.what: str | None = None
        self.reads_wal = False
        self._key: object = None
        self._stop = stop

    def begin(self, what: str, *, key: object = None) -> None:
        """Call it as often as it is seen. `key`: by which it is the same as before, where `what` tells times;
        None: by `what`."""
        key = what if key is None else key
        if self.what is None or key != self._key:
            logger.info("capture waits", extra={"waiting_for": what})
        self.what, self._key = what, key

    def end(self) -> None:
        """It waits for nothing any more."""
        self.what = None

    @contextmanager
    def for_wal(self, session: Session, tables: Sequence[str]) -> Iterator[None]:
        """While the session reads the WAL for what was done to these partitions, which may take long. Raises
        CaptureStopped."""
        self.begin(f"the source to read its WAL for what was done to {', '.join(tables)}")
        self.reads_wal = True
        try:
            with cancelled_by(self._stop, [session]):
                yield
        except RetryLater as error:
            if self._stop.is_set() and error.code == "query-canceled":
                raise CaptureStopped("the source read its WAL") from error
            raise
        finally:
            self.reads_wal = False
            self.end()
