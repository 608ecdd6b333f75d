"""What apply counts, and the figures that its report and its grouping take from that."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pipeline.apply.grouping import Limits
from schemas.lsn import Lsn

GROUP_S = 1.0
"""How long a target transaction should take at most when the replica is behind."""
CHANGES_LIMIT = 40_000
"""At a target transaction's end the replica works and we wait: a few large ones take less time."""
_SMOOTHING = 0.3


@dataclass(slots=True)
class Counters:
    """Totals since the process began, and rates since the last `take_rates`. `beat_at`: when the loop last
    went round, by `time.monotonic()`. `last_change_at`: the same, when it last applied a
    change, or was last kept from it. `log_end_at`: when it last found nothing more in the log, Unix time."""

    transactions: int = 0
    changes: int = 0
    bytes: int = 0
    sequences: int = 0
    last_commit_lsn: Lsn | None = None
    last_change_at: float = field(default_factory=time.monotonic)
    behind_at: float = 0.0
    beat_at: float = field(default_factory=time.monotonic)
    log_end_at: float = 0.0
    _change_s: float | None = None
    _taken_at: float = field(default_factory=time.monotonic)
    _taken: tuple[int, int] = (0, 0)

    def count(self, *, transactions: int, changes: int, size_bytes: int, took_s: float) -> None:
        """A target transaction was committed, or a part of one was sent."""
        self.transactions += transactions
        self.changes += changes
        self.bytes += size_bytes
        self.last_change_at = time.monotonic()
        if changes:
            change_s, known = took_s / changes, self._change_s
            self._change_s = change_s if known is None else known + _SMOOTHING * (change_s - known)

    def limits(self) -> Limits:
        """A group that should take about `GROUP_S` at the speed measured so far."""
        if self._change_s is None:
            return Limits()
        return Limits(changes=min(CHANGES_LIMIT, max(100, int(GROUP_S / self._change_s))))

    def take_rates(self) -> tuple[float, float]:
        """(changes/s, bytes/s) since the last call."""
        now = time.monotonic()
        elapsed_s = max(now - self._taken_at, 1e-6)
        changes, size_bytes = self._taken
        self._taken_at, self._taken = now, (self.changes, self.bytes)
        return (self.changes - changes) / elapsed_s, (self.bytes - size_bytes) / elapsed_s
