"""What `keepstream status --watch --json` says, once a second, while the story goes on."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass, field
from typing import Any

from pipeline.cli.output import human_bytes, human_seconds
from pipeline.demo.commands import Keepstream

_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One status, read as its JSON contract says. Unknown figures are None."""

    state: str | None = None
    lag_s: float | None = None
    lag_bytes: int | None = None
    retained_bytes: int | None = None
    copy: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, status: Any, replica: str) -> Seen:
        one = status["replicas"][replica]
        retained_bytes = status["slot"]["retained_bytes"]
        return cls(one["state"], one["lag_s"], one["lag_bytes"], retained_bytes, one.get("copy") or {})

    @property
    def copied(self) -> bool:
        return self.state in ("catching_up", "streaming", "idle")

    def copy_progress(self) -> str:
        """What the first copy is at, as far as it says so."""
        phase = self.copy.get("phase")
        if phase != "rows":
            return str(phase or "starting")
        tables = f"{self.copy['tables'] or 0} of {self.copy['tables_total']} tables"
        return f"{tables}, {self.rows_copied()}, about {human_seconds(self.copy['eta_s'])} to go"

    def rows_copied(self) -> str:
        return f"{self.copy['rows'] or 0:,} rows, {human_bytes(self.copy['bytes'])}"


class LiveStatus:
    """Follows one replica from construction until `stop`."""

    def __init__(self, keepstream: Keepstream, replica: str) -> None:
        self.latest = Seen()
        self.copy: Seen | None = None  # the last look at a copy that had rows
        self.count = 0
        self._replica = replica
        self._process = keepstream.start("status", "--watch", "--json")
        self._thread = threading.Thread(target=self._listen, name="status", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._thread.join()

    def _listen(self) -> None:
        for status in Keepstream.objects(self._process):
            self.latest = Seen.of(status, self._replica)
            if self.latest.copy.get("rows"):
                self.copy = self.latest
            self.count += 1
