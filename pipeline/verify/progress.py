"""How far a comparison is. `Meter` counts; what it says is pure in what it counted and the time given."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """One look. Rows and bytes are those of both sides; bytes are the tables' sizes on disk, so that what
    is left can be estimated: eta_s is None until something is done."""

    tables_done: int
    tables_total: int
    rows: int
    bytes_done: int
    bytes_total: int
    rows_per_s: float
    eta_s: float | None


@dataclass(slots=True)
class Meter:
    """Counts what several threads read."""

    tables_total: int
    bytes_total: int
    started_at: float
    _tables_done: int = 0
    _rows: int = 0
    _bytes_done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, rows: int, size_bytes: int) -> None:
        with self._lock:
            self._rows += rows
            self._bytes_done += size_bytes

    def table_done(self) -> None:
        with self._lock:
            self._tables_done += 1

    def look(self, now: float) -> VerifyProgress:
        with self._lock:
            elapsed_s = max(now - self.started_at, 1e-3)
            done = min(self._bytes_done, self.bytes_total)
            left = self.bytes_total - done
            return VerifyProgress(
                tables_done=self._tables_done,
                tables_total=self.tables_total,
                rows=self._rows,
                bytes_done=done,
                bytes_total=self.bytes_total,
                rows_per_s=self._rows / elapsed_s,
                eta_s=elapsed_s * left / done if done else None,
            )
