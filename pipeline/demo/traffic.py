"""The sales team's process, seen from outside: started, listened to, asked to stop."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from pipeline.demo.crm import Crm
from schemas.errors import OperatorNeeded

_STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Commit:
    """A customer whose COMMIT was sent at `at_s` on the monotonic clock, and succeeded."""

    customer: int
    at_s: float


class Traffic:
    """Business in the CRM from construction until `stop`, at most for `seconds`."""

    def __init__(self, crm: Crm, *, rate: float, seconds: float, seed: int, log: Path) -> None:
        self.acts: dict[str, int] = {}
        self.commits: list[Commit] = []
        self._log = log
        options = [f"--rate={rate:g}", f"--seconds={seconds:g}", f"--seed={seed}"]
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                crm.command("tryton_traffic", *options),
                env=crm.environment(),
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._listener = threading.Thread(target=self._listen, name="traffic", daemon=True)
        self._listener.start()

    @property
    def total_acts(self) -> int:
        return sum(self.acts.values())

    def require_alive(self) -> None:
        """Raises OperatorNeeded (`traffic-ended`) if it broke off."""
        if self._process.poll():
            last = self._log.read_text(errors="replace").strip().splitlines()[-3:]
            raise OperatorNeeded(
                f"the CRM's traffic ended with {self._process.returncode}: {' / '.join(last)}",
                code="traffic-ended",
                hint="Run `./demo` again; if it fails again, report this line.",
            )

    def stop(self) -> None:
        """Let it finish the act at hand. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._listener.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            heard = json.loads(line)
            if "customer" in heard:
                self.commits.append(Commit(heard["customer"], heard["at"]))
            else:
                self.acts = heard["acts"]
