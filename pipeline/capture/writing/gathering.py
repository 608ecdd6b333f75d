"""How long whole transactions gather before they become a frame. Sans-I/O: times in, times out.

A frame costs capture, log and replicas more than the transactions in it. So none follows another one at
once; while the log has not answered for the frame before, what comes gathers for `HOLD_S`; and while
capture is behind, twice as long for each frame up to `BEHIND_HOLD_S`: a backlog begins to move at once, and
then moves in few frames.
"""

from __future__ import annotations

from typing import Final

HOLD_S: Final = 0.01
BEHIND_HOLD_S: Final = 0.06
BEHIND_US: Final = 3_000_000
"""Transactions that were committed that long before the server sent them are late, and more are coming."""


class Gathering:
    """Of one capture. Times are those of `time.monotonic`, in seconds."""

    def __init__(self, pace_s: float) -> None:
        """`pace_s`: how long no frame follows another one, unless capture is behind."""
        self._pace_s = pace_s
        self.is_behind = False
        self._since = 0.0
        self._flushed_at = 0.0
        self._behind_hold_s = HOLD_S

    def see(self, *, sent_at: int, committed_at: int) -> None:
        """When the server sent what came last, and when that was committed, in µs since 1970."""
        self.is_behind = sent_at - committed_at > BEHIND_US
        if not self.is_behind:
            self._behind_hold_s = HOLD_S

    def early_s(self, now: float) -> float:
        """How long no frame may follow the one before; not above 0 where one may."""
        return 0.0 if self.is_behind else self._flushed_at + self._pace_s - now

    def left_s(self, now: float) -> float:
        """How long what is held may still gather."""
        return self._since + (self._behind_hold_s if self.is_behind else HOLD_S) - now

    def begin(self, now: float) -> None:
        """Nothing is held: what comes gathers from now on."""
        self._since = now

    def flushed(self, now: float) -> None:
        """What was held became a frame."""
        self._since = self._flushed_at = now
        if self.is_behind:
            self._behind_hold_s = min(2 * self._behind_hold_s, BEHIND_HOLD_S)
