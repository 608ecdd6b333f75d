"""Waiting before another try: longer each time, a little random, and ended by `stop`."""

from __future__ import annotations

import random
import threading

FIRST_S = 0.2
LONGEST_S = 15.0


class Backoff:
    """Doubles from `first_s` (0.2 s) to `longest_s` (15 s); `reset` after something worked."""

    def __init__(self, *, first_s: float | None = None, longest_s: float | None = None) -> None:
        self._first_s = FIRST_S if first_s is None else first_s
        self._longest_s = LONGEST_S if longest_s is None else longest_s
        self._next_s = self._first_s

    def next_s(self) -> float:
        """How long to wait now; the next time is longer."""
        wait_s = self._next_s * random.uniform(0.8, 1.2)  # noqa: S311 - spreads retries, keeps no secret
        self._next_s = min(self._next_s * 2, self._longest_s)
        return wait_s

    def wait(self, stop: threading.Event) -> bool:
        """Wait, and say whether `stop` was set meanwhile."""
        return stop.wait(self.next_s())

    def reset(self) -> None:
        """Something worked."""
        self._next_s = self._first_s
