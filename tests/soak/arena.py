"""One pipeline on a site, under traffic, watched from outside: what faults are done to.

It lives for some dozens of faults; then an operator's mistake ends it and a new one begins.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import psycopg

from tests.fix_pipeline import Pipeline, make_pipeline
from tests.fix_postgres import Database
from tests.nursery import STACKS_SIGNAL
from tests.scenario.checker import Verdict, Violation, Witness, assert_equal_now, parse_lsn
from tests.scenario.rawlog import LogWatch, require_unconfirmed
from tests.scenario.workload import TABLES, Workload
from tests.scenario.world import World
from tests.soak.lane import Lane
from tests.soak.site import Site
from tests.soak.traffic import Traffic
from tests.soak.watch import LongWitness

PACE_S = 0.07
BULK_ROWS = 250
CATCH_UP_S = 90.0
SETUP = ("capture.publication_created", "capture.slot_created", "capture.before_anchor")
_GLANCE_EVERY_S = 0.4
_TICK_S = 0.02
_OUTPUTS_SHOWN = 6
_STACKS_S = 0.5


class ProxiedPipeline(Pipeline):
    """A pipeline that tells little of its many processes."""

    def outputs(self) -> str:
        """What the last ones and those that live said last, and where the threads of the living are."""
        alive = [one for one in self.started if one.alive]
        for one in alive:
            one.process.send_signal(STACKS_SIGNAL)
        time.sleep(_STACKS_S if alive else 0)
        ended = [one for one in self.started[-_OUTPUTS_SHOWN:] if one not in alive]
        shown = [(one, 1500) for one in ended] + [(one, 6000) for one in alive]
        return "\n".join(f"== {one.log.name}\n{one.output[-size:]}" for one, size in shown)


def _make_pipeline(site: Site, source: Database, replica: Database, bug: str | None) -> ProxiedPipeline:
    folder = site.folder / source.name
    folder.mkdir()
    plain = make_pipeline(folder, source, replica, site.log_url)
    settings = plain.settings
    settings["source"]["url"] = proxied(site, source, "source")
    settings["replicas"]["standby"]["url"] = proxied(site, replica, "replica")
    return ProxiedPipeline(folder, plain.name, source, replica, settings, nursery=site.nursery, bug=bug)


def proxied(site: Site, database: Database, side: str) -> str:
    """The product's connection string, through a proxy."""
    return database.dsn.replace(f":{database.server.port}/", f":{site.proxies[side].port}/")


class Arena(World):
    """A world whose stages stand in lanes and whose workload is a thread."""

    def __init__(self, site: Site, *, seed: int, bug: str | None = None) -> None:
        self.site = site
        source, replica = site.source.new_database(), site.replica.new_database()
        super().__init__(_make_pipeline(site, source, replica, bug))
        self._seed = seed
        self._log = LogWatch(site.witnessed_log_url, self.pipeline.name, TABLES)
        self.watch = LongWitness(self.history, replica, self.pipeline.name, TABLES)
        replica.execute_as_admin(f"alter role postgres in database {replica.name} set lock_timeout = '3s'")
        self.capture = Lane(self.pipeline, ("capture",), site.kills)
        self.apply = Lane(self.pipeline, ("apply", "standby"), site.kills)
        self.apply.other = self.capture
        self.missed: list[str] = []
        self._traffic: Traffic | None = None
        self._glanced_at = 0.0

    @property
    def traffic(self) -> Traffic:
        assert self._traffic is not None
        return self._traffic

    @property
    def all_missed(self) -> list[str]:
        """What acts prepared and waited for in vain: they did less than they are there for."""
        reached = [f"failpoint {name}" for lane in (self.capture, self.apply) for name in lane.missed]
        return self.missed + reached

    def begin(self) -> int:
        """Set up, killed after each step of it; returns how many kills came."""
        kills = 0
        for failpoint in SETUP:
            self.capture.start(failpoint=failpoint)
            kills += self.capture.settle()
        self.capture.start()
        self.wait_for(lambda: self.log_is_begun, "the log's first anchor")
        self._workload = Workload(self.source, self._seed, bulk_rows=BULK_ROWS)
        self._traffic = Traffic(self._workload, pace_s=PACE_S)
        self.apply.start()
        return kills

    def close(self) -> None:
        """End everything, and leave nothing on the servers."""
        self.capture.end()
        self.apply.end()
        if self._traffic is not None:
            self._traffic.close()
        self.history.close()
        self.pipeline.end()
        for side in (self.source, self.replica):
            side.drop()
        if self.site.kafka is None:
            shutil.rmtree(self.site.log_disk.folder / f"{self.pipeline.name}.log", ignore_errors=True)

    def glance(self) -> None:
        """A sample, if the last one is some time ago. None while the replica is away."""
        if time.monotonic() - self._glanced_at < _GLANCE_EVERY_S:
            return
        self._glanced_at = time.monotonic()
        try:
            self.watch.look()
        except psycopg.Error:
            return

    def pass_time(self, seconds: float) -> None:
        """Let things happen, and look on."""
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            self.glance()
            time.sleep(min(left_s, _TICK_S))

    def catch_up(self, witness: Witness | None = None, timeout_s: float = CATCH_UP_S) -> None:
        """Until the replica holds what is committed now; more is committed meanwhile."""
        lsn, watched = self.mark(), witness or self.watch

        def reached() -> bool:
            self.glance()
            try:
                if self._position() < lsn:
                    return False
                sample = watched.look()
            except psycopg.Error:
                return False
            return sample is not None and sample.position >= lsn

        self.wait_for(reached, "the replica's catching up", timeout_s)

    def _position(self) -> int:
        """Where the replica says that it stands: a cheap look."""
        found = self.replica.execute(
            "select position::text from keepstream.progress where name = %s", [self.pipeline.name]
        )
        return parse_lsn(found[0][0]) if found else 0

    def mark(self) -> int:
        """An LSN below which everything is that is committed now, and a transaction of our own."""
        lsn = self._mark()
        self._mark()
        return lsn

    def wait_for(
        self,
        condition: Callable[[], bool],
        what: str,
        timeout_s: float = CATCH_UP_S,
        *,
        pause_s: float = 0.1,
    ) -> None:
        """Raises Violation (stuck) after that time, or when a stage has ended by itself."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.capture.look_after()
            self.apply.look_after()
            if time.monotonic() > deadline:
                raise Violation(
                    Verdict.STUCK, f"{what} did not come in {timeout_s:.0f} s\n{self.pipeline.outputs()}"
                )
            time.sleep(pause_s)

    def calm(self, *, whole: bool = False) -> int:
        """Both stages work, log and replica are what they must be; `whole`: and all tables are equal.
        Returns how many samples were judged."""
        for lane in (self.capture, self.apply):
            lane.settle()
            lane.clear()
            lane.ensure()
        self.catch_up()
        judged = self.judge()
        if whole:
            with self.traffic.paused():
                self.catch_up()
                judged += self.judge()
                assert_equal_now(self.source, self.replica, TABLES)
        return judged

    def check_confirmed(self) -> None:
        """The source was not told to forget what the log does not hold."""
        confirmed = self.history.confirmed(self.pipeline.slot)
        require_unconfirmed(confirmed, self.log)

    def judge(self) -> int:
        """What the log holds, and what was sampled since the last time."""
        self.check_log()
        judged = self.watch.judge()
        self.history.forget(self.watch.oldest)
        return judged
