"""What capture counts, and the rates that its report shows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from schemas.lsn import START, ZERO, Lsn, Position


@dataclass(slots=True)
class Rates:
    """Totals since the start of the process, and rates over the time since the last `take_rates`.

    The log is durable below `durable_lsn`. Everything that was committed before `complete_at` (Unix time),
    and everything below `complete_lsn`, is in it. `last_commit_time`: the source's, µs since 1970. `beat_at`:
    when the loop last went round, by `time.monotonic()`.
    """

    changes: int = 0
    transactions: int = 0
    bytes: int = 0
    position: Position = START
    durable_lsn: Lsn = ZERO
    complete_lsn: Lsn = ZERO
    complete_at: float | None = None
    last_commit_lsn: Lsn | None = None
    last_commit_time: int = 0
    last_change_at: float = field(default_factory=time.monotonic)
    beat_at: float = field(default_factory=time.monotonic)
    _taken_at: float = field(default_factory=time.monotonic)
    _taken: tuple[int, int] = (0, 0)

    def count(self, changes: int, transactions: int, size_bytes: int) -> None:
        self.changes += changes
        self.transactions += transactions
        self.bytes += size_bytes
        self.last_change_at = time.monotonic()

    def complete(self, wal_end: Lsn) -> None:
        """Nothing published is missing in the log below `wal_end`, which the server named just now."""
        self.complete_lsn = max(self.complete_lsn, wal_end)
        self.complete_at = time.time()

    def confirm(self, durable: Position) -> None:
        """The log is durable up to here: what is missing was committed later."""
        self.durable_lsn = durable.lsn
        self.complete_lsn = max(self.complete_lsn, durable.lsn)
        self.complete_at = max(self.complete_at or 0.0, durable.commit_time / 1e6)

    def take_rates(self) -> tuple[float, float]:
        """(changes/s, bytes/s) since the last call."""
        now = time.monotonic()
        elapsed_s = max(now - self._taken_at, 1e-6)
        changes, size_bytes = self._taken
        rates = ((self.changes - changes) / elapsed_s, (self.bytes - size_bytes) / elapsed_s)
        self._taken_at, self._taken = now, (self.changes, self.bytes)
        return rates
