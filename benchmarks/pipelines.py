"""Real pipelines, each with a keepstream.yaml, and their stages as processes.

A pipeline is begun before anything is written: its slot, publication and log are there, and its replicas,
whose databases hold the same rows already (`initial: none`), stand at the log's first position.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import yaml

from benchmarks.servers import Home, Servers
from connectors.lifeline import tied_to_us
from pipeline.app import first_copy_options, open_log
from pipeline.config import Config, load_config
from pipeline.copy.stage import FirstCopyStage
from pipeline.follow import find_tail

ROOT = Path(__file__).parents[1]
POLL_S = 0.005
LIMIT_S = 900.0
_START_S = 60.0
_END_S = 30.0


class StageFailed(Exception):
    """A stage's process ended by itself, or what it had to do did not happen."""


class Stage:
    """One process that waits for `go`, in a session of its own, as a service manager starts it and PostgreSQL
    starts each of its processes: Linux may share processor time among sessions. Its logs go to a file beside
    its configuration."""

    def __init__(self, pipeline: Pipeline, *verb: str) -> None:
        self.name = f"{pipeline.name} {' '.join(verb)}"
        self._log = pipeline.config_path.with_name(f"{pipeline.name}-{'-'.join(verb)}.log")
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.stage", str(pipeline.config_path), *verb],
                preexec_fn=tied_to_us(),
                start_new_session=True,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._await_ready()

    def go(self) -> None:
        """Begin the work."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def require_alive(self) -> None:
        """Raises StageFailed with its last words."""
        if self.process.poll() is not None:
            words = self._log.read_text(errors="replace")[-2000:]
            raise StageFailed(f"{self.name} ended with {self.process.returncode}: {words}")

    def peak_rss_bytes(self) -> int:
        """The most memory that it ever held (VmHWM)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise StageFailed(f"{self.name} has no VmHWM")

    def end(self) -> None:
        """As SIGTERM ends it; killed if that takes too long. Idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def _await_ready(self) -> None:
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            self.process.wait(_START_S)
            self.require_alive()


@dataclass(frozen=True)
class Pipeline:
    """One keepstream.yaml. `replicas`: connection strings by name."""

    name: str
    config_path: Path
    source: str
    replicas: Mapping[str, str]

    @property
    def config(self) -> Config:
        return load_config(self.config_path)

    @property
    def slot(self) -> str:
        return f"keepstream_{self.name}"

    def begin(self) -> None:
        """Make slot, publication and log, then adopt the replicas; nothing runs afterwards."""
        with self.running(("capture",)) as (capture,):
            wait_for(self._has_begun, [capture], f"the first anchor of {self.name}")
        config = self.config
        log = open_log(config)
        try:
            for name in self.replicas:
                options = first_copy_options(config, log, name)
                FirstCopyStage(options, threading.Event(), lambda _: None).run()
        finally:
            log.close()

    @contextmanager
    def supervised(self) -> Iterator[subprocess.Popen[bytes]]:
        """`keepstream run` on this file, as a user starts it; ended with the block."""
        with open(self.config_path.with_suffix(".run.log"), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", "-c", str(self.config_path), "run"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(_END_S)

    @contextmanager
    def running(self, *verbs: tuple[str, ...], go: bool = True) -> Iterator[list[Stage]]:
        """These stages, all ready, then (with `go`) all working; ended with the block."""
        with ExitStack() as resources:
            stages = []
            for verb in verbs:
                stages.append(Stage(self, *verb))
                resources.callback(stages[-1].end)
            if go:
                for stage in stages:
                    stage.go()
            yield stages

    def _has_begun(self) -> bool:
        log = open_log(self.config)
        try:
            if not log.exists():
                return False
            tail = find_tail(log)
            tail.close()
            return tail.chain.promised
        finally:
            log.close()


def make_pipeline(
    servers: Servers,
    name: str,
    *,
    source: str,
    home: Home,
    replicas: Mapping[str, str],
    initial: str = "none",
) -> Pipeline:
    """Write its file; nothing else is made."""
    path = servers.folder / f"{name}.yaml"
    settings = {
        "name": name,
        "source": {"url": source},
        "log": {"url": servers.log_url(home)},
        "replicas": {replica: {"url": url, "initial": initial} for replica, url in replicas.items()},
        "tools": {"pg_bin": str(servers.source.binaries)},
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(settings))
    return Pipeline(name, path, source, replicas)


def wait_for(
    condition: Callable[[], bool], stages: Sequence[Stage], what: str, *, limit_s: float = LIMIT_S
) -> None:
    """Until it is true; looks every few milliseconds. Raises StageFailed if a stage ends before, or late."""
    deadline = time.monotonic() + limit_s
    while not condition():
        for stage in stages:
            stage.require_alive()
        if time.monotonic() > deadline:
            raise StageFailed(f"{what} did not come within {limit_s:g} s")
        time.sleep(POLL_S)


def wait_for_marker(replica: str, stages: Sequence[Stage], *, marker: int = 1) -> None:
    """Until a reader of the replica's own sees the backlog's last row."""
    with psycopg.connect(replica, autocommit=True) as reader:

        def visible() -> bool:
            return bool(reader.execute("select from marker where id = %s", [marker]).fetchall())

        wait_for(visible, stages, "the marker on the replica")


def wait_for_confirmed(source: str, slot: str, lsn: str, stages: Sequence[Stage]) -> None:
    """Until the slot is confirmed up to the LSN: the source may forget what lies before."""
    with psycopg.connect(source, autocommit=True) as reader:
        query = (
            "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s::name"
        )

        def confirmed() -> bool:
            return reader.execute(query, [lsn, slot]).fetchone() == (True,)

        wait_for(confirmed, stages, f"the confirmation of {lsn} on slot {slot}")
