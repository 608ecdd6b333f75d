"""Partitions that somebody has locked, so that nobody sees what is done to them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from pipeline.capture.waits import Waits
from schemas.errors import RetryLater

LOCKED_FOR_S: Final = 5.0
"""After that time nobody looks soon any more at a partition that stays locked."""


class LockedPartitions:
    """As the last look found them. While there are any the slot is confirmed no further: what is done to
    them, be it in the stream by now, is seen when they are free, and then read from the WAL."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._locked: Mapping[int, str] = {}
        self._locked_at = 0.0

    @property
    def are_there(self) -> bool:
        return bool(self._locked)

    def see(self, locked: Mapping[int, str]) -> bool:
        """By OID, each with who has it. Whether the next look should come soon."""
        now = time.monotonic()
        if locked and not self._locked:
            self._locked_at = now
        if self._locked and not locked:
            self._waits.end()
        self._locked = locked
        if locked and now - self._locked_at < LOCKED_FOR_S:
            return True
        if locked:
            self._waits.begin(
                f"the release of locked partitions, of which nobody sees what is done to them:"
                f" {', '.join(locked.values())}",
                key=frozenset(locked),
            )
        return False

    def require_free(self, oid: int) -> None:
        """Raises RetryLater (`partition-locked`) of one that became a partition and cannot be looked into."""
        if oid in self._locked:
            raise RetryLater(
                f"nobody can look into {self._locked[oid]} now, which has rows in the stream",
                code="partition-locked",
                hint="Who is named has it locked (ACCESS EXCLUSIVE). Capture goes on once it is released.",
            )
