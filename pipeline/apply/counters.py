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
_FADING = 0.7
"""What is left of a measurement when the next one comes. Each counts by its changes: a transaction of
one row, which waits for the replica alone, says little about how long thousands take together."""


@dataclass(slots=True)
class Counters:
    """Totals since the process began, and rates since the last `take_rates`.

    By `time.monotonic()`: `beat_at`, when the loop last went round; `last_change_at`, when it last applied a
    change, or was last kept from it; `behind_at`, when it last applied several transactions at once, or a
    part of one. `log_end_at`: when it last found nothing more in the log, Unix time.
    """

    transactions: int = 0
    changes: int = 0
    bytes: int = 0
    sequences: int = 0
    last_commit_lsn: Lsn | None = None
    last_change_at: float = field(default_factory=time.monotonic)
    behind_at: float = 0.0
    beat_at: float = field(default_factory=time.monotonic)
    log_end_at: float = 0.0
    _lately: tuple[float, float] = (0.0, 0.0)
    """Seconds, and changes that were applied in them; what was measured before, less."""
    _taken_at: float = field(default_factory=time.monotonic)
    _taken: tuple[int, int] = (0, 0)

    def count(self, *, transactions: int, changes: int, size_bytes: int, took_s: float) -> None:
        """A target transaction was committed, or a part of one was sent."""
        self.transactions += transactions
        self.changes += changes
        self.bytes += size_bytes
        self.last_change_at = time.monotonic()
        if changes:
            seconds, applied = self._lately
            self._lately = _FADING * seconds + took_s, _FADING * applied + changes

    def limits(self) -> Limits:
        """A group that should take about `GROUP_S` at the speed measured so far."""
        took_s, changes = self._lately
        if not changes:
            return Limits()
        return Limits(changes=min(CHANGES_LIMIT, max(100, int(GROUP_S * changes / took_s))))

    def take_rates(self) -> tuple[float, float]:
        """(changes/s, bytes/s) since the last call."""
        now = time.monotonic()
        elapsed_s = max(now - self._taken_at, 1e-6)
        changes, size_bytes = self._taken
        self._taken_at, self._taken = now, (self.changes, self.bytes)
        return (self.changes - changes) / elapsed_s, (self.bytes - size_bytes) / elapsed_s
