"""`pipeline`: a keepstream.yaml between `source` and `replica`, driven only through the command line.

Commands come from a nursery (`tests.nursery`), which spares each of them a second of CPU; `start_process`
starts one as a user does.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from pipeline.dev.process import require
from tests.fix_postgres import Database
from tests.nursery import Nursery, shared_nursery

END_S = 15.0
COMMAND_S = 120.0
LOOKING_OFTEN = {
    "pipeline.capture.housekeeping.LOOK_EVERY_S": 0.1,
    "pipeline.capture.joins.joins._REFUSED_PAUSES_S": (1.0, 1.0),
}
"""A capture with these finds new tables at once, and soon asks again whether a replica can take one in."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Process(Protocol):
    """What is used of `subprocess.Popen`."""

    pid: int
    returncode: Any

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


class Running:
    """A command that runs in the background; its stderr goes to a file."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL: nothing of it is asked."""
        self.process.kill()
        self.process.wait(END_S)

    def end(self) -> int:
        """SIGTERM, and its exit code."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        return self.wait(END_S)

    def wait(self, timeout_s: float) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end within {timeout_s} s; it said:\n{self.output}") from None


@dataclass
class Pipeline:
    """One pipeline under test. `settings` is what stands in its keepstream.yaml; `bug`, what is planted
    into what runs in the background (`tests.soak.bugs`); `values`, the constants of the product that its
    commands have otherwise, by module and name (`tests.nursery`)."""

    folder: Path
    name: str
    source: Database
    replica: Database
    settings: dict[str, Any]
    started: list[Running] = field(default_factory=list)
    nursery: Nursery = field(default_factory=shared_nursery)
    bug: str | None = None
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def config_path(self) -> Path:
        return self.folder / "keepstream.yaml"

    @property
    def slot(self) -> str:
        return f"keepstream_{self.name}"

    def write_config(self) -> None:
        """In one step: a command may be reading it."""
        draft = self.config_path.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_text(yaml.safe_dump(self.settings))
        draft.replace(self.config_path)

    def run(self, *verb: str, timeout_s: float = COMMAND_S, env: Mapping[str, str] | None = None) -> Finished:
        """`keepstream -c FILE VERB …` to its end."""
        with tempfile.TemporaryDirectory(prefix="keepstream-command-") as folder:
            output, errors = Path(folder, "output"), Path(folder, "errors")
            process = self.nursery.start(
                self._arguments(verb), env or {}, output, errors=errors, values=self.values
            )
            try:
                code = process.wait(timeout_s)
            finally:
                process.kill()
            return Finished(code, output.read_text(), errors.read_text())

    def start(self, *verb: str, env: Mapping[str, str] | None = None) -> Running:
        """The same in the background; ended with the test."""
        log = self._log_of(verb)
        process = self.nursery.start(self._arguments(verb), env or {}, log, bug=self.bug, values=self.values)
        return self._begun(Running(process, log))

    def start_process(self, *verb: str) -> Running:
        """The same as a user starts it, without the nursery, where what its children inherit counts."""
        log = self._log_of(verb)
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", *self._arguments(verb)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        return self._begun(Running(process, log))

    def _log_of(self, verb: tuple[str, ...]) -> Path:
        return self.folder / f"{verb[0]}-{len(self.started)}.log"

    def _begun(self, running: Running) -> Running:
        self.started.append(running)
        return running

    def wait(self, timeout_s: float = 60) -> None:
        """Until the replica holds all that is committed now."""
        done = self.run("wait", "standby", "--timeout", str(timeout_s), timeout_s=timeout_s + COMMAND_S)
        assert done.code == 0, f"{done.stderr}\n{self.outputs()}"

    def verify(self, *options: str) -> Any:
        """The verification's JSON; fails unless everything is identical."""
        done = self.run("verify", "standby", "--json", *options)
        assert done.code == 0, f"{done.stdout}\n{done.stderr}\n{self.outputs()}"
        return done.json

    def outputs(self) -> str:
        """What all background commands said, for a failing test."""
        return "\n".join(f"== {running.log.name}\n{running.output[-4000:]}" for running in self.started)

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
        try:
            require(condition, timeout_s, what=what)
        except Exception as error:
            raise AssertionError(f"{error}\n{self.outputs()}") from error

    def end(self) -> None:
        for running in self.started:
            if running.alive:
                running.kill()
        shutil.rmtree(self.folder / "log", ignore_errors=True)

    def _arguments(self, verb: tuple[str, ...]) -> list[str]:
        return ["-c", str(self.config_path), *verb]


@pytest.fixture(params=["directory", "kafka"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both homes of the log, one after the other."""
    if request.param == "kafka":
        return f"kafka://{request.getfixturevalue('kafka_server')}"
    return f"file://{tmp_path}/log"


@pytest.fixture
def directory_url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/log"


def make_pipeline(folder: Path, source: Database, replica: Database, log_url: str) -> Pipeline:
    """A pipeline with a name of its own, whose source role may publish tables."""
    source.grant_ownership()
    name = f"t{secrets.token_hex(4)}"
    settings = {
        "name": name,
        "source": {"url": source.dsn, "keyless": "full"},
        "log": {"url": log_url},
        "replicas": {"standby": {"url": replica.dsn}},
    }
    pipeline = Pipeline(folder, name, source, replica, settings)
    pipeline.write_config()
    return pipeline


@pytest.fixture
def pipeline(tmp_path: Path, source: Database, replica: Database, log_url: str) -> Iterator[Pipeline]:
    """On both logs."""
    made = make_pipeline(tmp_path, source, replica, log_url)
    yield made
    made.end()


@pytest.fixture
def directory_pipeline(
    tmp_path: Path, source: Database, replica: Database, directory_url: str
) -> Iterator[Pipeline]:
    """On the directory log alone, where the log's home makes no difference."""
    made = make_pipeline(tmp_path, source, replica, directory_url)
    yield made
    made.end()


@pytest.fixture
def looking_often(directory_pipeline: Pipeline) -> None:
    directory_pipeline.values |= LOOKING_OFTEN
