"""A pipeline under a workload, watched from outside: what the tests of kills share."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fix_pipeline import Pipeline, Running, make_pipeline
from tests.fix_postgres import Database, Server
from tests.scenario.checker import History, Witness, assert_equal_now, parse_lsn
from tests.scenario.rawlog import Logged, LogWatch, RawLog, require_prefix, require_unconfirmed
from tests.scenario.workload import REPLICA_SCHEMA, SCHEMA, TABLES, Workload

DEATH_S = 60.0
CATCH_UP_S = 60.0
STEP_S = 0.02


class World:
    """One source with a workload, one pipeline, one replica that began empty beside an empty source.

    `stages`: the process that was started last with each command line. `step_s`: how long the workload
    rests after each of its steps.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.source = pipeline.source
        self.replica = pipeline.replica
        self.stages: dict[str, Running] = {}
        self.step_s = STEP_S
        for side in (self.source, self.replica):
            side.execute(SCHEMA)
        self.replica.execute(REPLICA_SCHEMA)
        pipeline.settings["replicas"]["standby"]["initial"] = "none"
        pipeline.write_config()
        self.history = History(self.source, TABLES)
        self.witness = Witness(self.history, self.replica, pipeline.name, TABLES)
        self._log = LogWatch(pipeline.settings["log"]["url"], pipeline.name, TABLES)
        self._workload: Workload | None = None

    @property
    def workload(self) -> Workload:
        """Its rows are written when it is first used, which is after the slot was made."""
        if self._workload is None:
            self._workload = Workload(self.source)
        return self._workload

    @property
    def log(self) -> RawLog:
        return self._log.read()

    @property
    def log_is_begun(self) -> bool:
        return self.log.first > 0

    def start(self, *verb: str, failpoint: str | None = None) -> Running:
        """Start a stage, killing the one that runs."""
        self.kill(*verb)
        env = {}
        if failpoint is not None:
            self._kills.unlink(missing_ok=True)
            env = {"KEEPSTREAM_FAILPOINT": failpoint, "KEEPSTREAM_FAILPOINT_LOG": str(self._kills)}
        self.stages[" ".join(verb)] = self.pipeline.start(*verb, env=env)
        return self.stages[" ".join(verb)]

    def ensure(self, *verb: str) -> None:
        """Start a stage unless it runs."""
        running = self.stages.get(" ".join(verb))
        if running is None or not running.alive:
            self.start(*verb)

    def kill(self, *verb: str) -> None:
        running = self.stages.get(" ".join(verb))
        if running is not None and running.alive:
            running.kill()

    def die_at(self, failpoint: str, *verb: str, idle: bool = False) -> None:
        """Start a stage and let it be killed at the failpoint. `idle`: nothing happens meanwhile."""
        victim = self.start(*verb, failpoint=failpoint)
        if idle:
            victim.wait(DEATH_S)
        else:
            self.step_until(lambda: not victim.alive, f"the death at {failpoint}", DEATH_S)
        hit = self._kills.read_text().split() if self._kills.exists() else []
        assert hit == [failpoint.partition(":")[0], str(victim.process.pid)], self.pipeline.outputs()
        assert victim.process.returncode == -signal.SIGKILL

    def step_until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Go on working and looking until it holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come\n{self.pipeline.outputs()}"
            self.workload.step()
            if self.workload.steps % 5 == 0:
                self.witness.look()
            time.sleep(self.step_s)

    def catch_up(self, witness: Witness | None = None, timeout_s: float = CATCH_UP_S) -> None:
        """Until the replica holds what is committed now."""
        self.workload.finish()
        lsn = self._mark()
        self._mark()
        watched = witness or self.witness

        def reached() -> bool:
            sample = watched.look()
            return sample is not None and sample.position >= lsn

        self.pipeline.until(reached, "the replica's catching up", timeout_s)

    def check(self, witness: Witness | None = None) -> None:
        """Log and replica are prefixes of the history, the slot is behind the log, and all is equal."""
        self.check_log()
        self.catch_up(witness)
        judged = (witness or self.witness).judge()
        assert judged > 0
        self.check_log()
        assert assert_equal_now(self.source, (witness or self.witness).replica, TABLES) > 0

    def check_log(self) -> RawLog:
        """None lost, none twice, none torn; and nothing confirmed that the log does not hold."""
        confirmed = self.history.confirmed(self.pipeline.slot)
        log = self.log
        require_unconfirmed(confirmed, log)
        self.history.learn()
        expected = [
            Logged(one.xid, one.commit_lsn, one.end_lsn, one.messages)
            for one in self.history.committed
            if one.messages and log.first <= one.commit_lsn < log.tail
        ]
        require_prefix([one for one in log.transactions if one.changes], expected)
        return log

    def close(self) -> None:
        for running in self.stages.values():
            running.kill()
        if self._workload is not None:
            self._workload.close()
        self.history.close()

    @property
    def _kills(self) -> Path:
        return self.pipeline.folder / "kills"

    def _mark(self) -> int:
        """The insert LSN, after a transaction of our own."""
        self.source.execute("insert into keyless values (0, 'mark')")
        return parse_lsn(self.source.execute("select pg_current_wal_insert_lsn()::text")[0][0])


@contextmanager
def make_world(folder: Path, source: Database, replica: Database, log_url: str) -> Iterator[World]:
    pipeline = make_pipeline(folder, source, replica, log_url)
    world = World(pipeline)
    try:
        yield world
    finally:
        world.close()
        pipeline.end()


@contextmanager
def new_world(folder: Path, source_server: Server, replica_server: Server, log_url: str) -> Iterator[World]:
    """With databases of its own, which end with it."""
    source, replica = source_server.new_database(), replica_server.new_database()
    try:
        with make_world(folder, source, replica, log_url) as world:
            yield world
    finally:
        source.drop()
        replica.drop()


def child_of(run: Running, stage: str) -> int | None:
    """The pid of the process in which `run` has started this stage last, if that still lives."""
    started = re.findall(rf"stage started stage={stage} pid=(\d+)", run.output)
    return None if not started or is_gone(int(started[-1])) else int(started[-1])


def is_gone(pid: int) -> bool:
    """Whether it has ended, collected by its parent or not."""
    try:
        return " Z" in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
