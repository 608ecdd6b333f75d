"""What a pipeline costs where it does nothing, and what it costs the source while that is busy.

idle_cost      `keepstream run` and its children on an idle source: processor time, and the WAL that source
               and replica write more than without it
source_cost    pgbench on the source while the pipeline follows, against the same with a native
               subscription. Whatever is not pgbench or the source's server, on either side, works only when
               those leave a core idle. So what is decoded late is not paid for by the rate, but by the second
               figure; how far behind a side was in the end is told
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg

from benchmarks import anchors
from benchmarks.bench import Bench
from benchmarks.measure import Better, Pairs, Result, format_figure, median
from benchmarks.pipelines import Pipeline, Stage, StageFailed, wait_for_marker
from benchmarks.processes import cpu_s, put_last
from benchmarks.scene import Scene, make_scene
from benchmarks.servers import Home, Servers
from benchmarks.workload import TABLES, create_marker, create_tables, execute, write_marker

IDLE_S = 60
QUICK_IDLE_S = 20
_SETTLE_S = 8.0
_WITHOUT_S = 10.0
PGBENCH_SCALE = 10
PGBENCH_S = 20
QUICK_PGBENCH_S = 6
PGBENCH_TABLES = (
    "pgbench_accounts",
    "pgbench_branches",
    "pgbench_tellers",
    "pgbench_history",
    "marker",
)
CLIENTS = 4


def idle_cost(bench: Bench) -> list[Result]:
    return _measure_idle(bench, "idle_cost", bench.servers.best_home())


def idle_cost_directory(bench: Bench) -> list[Result]:
    return _measure_idle(bench, "idle_cost_directory", Home.DIRECTORY)


def _measure_idle(bench: Bench, name: str, home: Home) -> list[Result]:
    scene = make_scene(bench, create_tables, TABLES)
    pipeline = scene.new_pipeline("bench", home, ["standby"])
    seconds = QUICK_IDLE_S if bench.quick else IDLE_S
    with bench.servers.without_autovacuum():
        with pipeline.supervised() as process:
            with psycopg.connect(scene.source, autocommit=True) as connection:
                write_marker(connection, 1)
            wait_for_marker(pipeline.replicas["standby"], [])
            time.sleep(_SETTLE_S)
            during = _watch(bench.servers, process.pid, seconds)
            if process.poll() is not None:
                raise StageFailed(f"keepstream run ended with {process.returncode}")
        without = _watch(bench.servers, None, _WITHOUT_S)
    bench.say(f"{during.ours_percent:.2f} % of a core")
    servers = (
        f"{home.value} log, {seconds} s, autovacuum off; the PostgreSQL servers and Kafka used"
        f" {during.servers_percent:.2f} % meanwhile and {without.servers_percent:.2f} % without a pipeline"
    )
    figures = (
        (name, during.ours_percent, "% of a core", "≤ 1", (servers,)),
        (f"{name}_source_wal", during.source_wal, "WAL bytes/s", "–", (_without(without.source_wal),)),
        (f"{name}_replica_wal", during.replica_wal, "WAL bytes/s", "–", (_without(without.replica_wal),)),
    )
    return [
        Result(
            name=figure,
            benchmark=name,
            ours=value,
            anchor=None,
            unit=unit,
            better=Better.LOWER,
            runs=1,
            quick=bench.quick,
            goal=goal,
            notes=notes,
        )
        for figure, value, unit, goal, notes in figures
    ]


def _without(rate: float) -> str:
    return f"without a pipeline the server writes {format_figure(rate)} bytes/s"


@dataclass(frozen=True, slots=True)
class _Idle:
    """Percent of a core, and bytes of WAL a second."""

    ours_percent: float
    servers_percent: float
    source_wal: float
    replica_wal: float


def _watch(servers: Servers, pid: int | None, seconds: float) -> _Idle:
    """What a pipeline (`keepstream run` is process `pid`) and the servers use in that time."""
    started, first = time.monotonic(), _used(servers, pid)
    time.sleep(seconds)
    took_s, last = time.monotonic() - started, _used(servers, pid)
    ours, theirs, source, replica = ((new - old) / took_s for new, old in zip(last, first, strict=True))
    return _Idle(ours * 100, theirs * 100, source, replica)


def _used(servers: Servers, pid: int | None) -> tuple[float, float, float, float]:
    """Seconds of ours and of the servers, bytes of WAL on source and replica; all since ever."""
    pids = (servers.source.pid, servers.replica.pid, servers.kafka.pid if servers.kafka.exists() else None)
    theirs = sum((cpu_s(server) for server in pids if server is not None), 0.0)
    source, replica = _wal_bytes(servers.source.dsn()), _wal_bytes(servers.replica.dsn())
    return cpu_s(pid) if pid is not None else 0.0, theirs, source, replica


def _wal_bytes(dsn: str) -> float:
    with psycopg.connect(dsn, autocommit=True) as connection:
        ((written,),) = connection.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchall()
    return float(written)


def source_cost(bench: Bench) -> list[Result]:
    """Runs of pgbench in turns: with ours, with a native subscription, and with nothing for comparison.

    The second figure is what the source's server worked for each of pgbench's transactions, decoding
    included.
    """
    try:
        return _measure_source(bench)
    finally:
        bench.servers.restart_followers()


def _measure_source(bench: Bench) -> list[Result]:
    pgbench = _Pgbench(bench)
    alone: list[_Turn] = []

    def native(number: int) -> _Turn:
        measured = pgbench.native(number)
        alone.append(pgbench.run("alone", None, []))
        return measured

    turns = [(pgbench.ours(number), native(number)) for number in range(bench.runs)]
    ours, anchor = [turn for turn, _ in turns], [turn for _, turn in turns]
    what = f"{anchors.NATIVE}; pgbench -c {CLIENTS}, scale {PGBENCH_SCALE}"
    behind = "; ".join(", ".join(f"{turn.behind_s:.2f}" for turn in turns) for turns in (ours, anchor))
    rate = bench.compared(
        "source_cost",
        Pairs(tuple(turn.rate for turn in ours), tuple(turn.rate for turn in anchor)),
        unit="transactions/s",
        better=Better.HIGHER,
        goal="≥ 0.95",
        anchor=what,
    )
    work = bench.compared(
        "source_cost_server",
        Pairs(tuple(turn.server_us for turn in ours), tuple(turn.server_us for turn in anchor)),
        benchmark="source_cost",
        unit="CPU µs/transaction",
        better=Better.LOWER,
        goal="≥ 0.95",
        anchor=what,
    )
    told = f"without any replication {format_figure(median([turn.rate for turn in alone]))}"
    worked = f"without any replication {format_figure(median([turn.server_us for turn in alone]))}"
    return [
        replace(
            rate,
            notes=(
                *rate.notes,
                f"{told}; s until the replica had it all afterwards, ours and the anchor: {behind}",
            ),
        ),
        replace(work, notes=(*work.notes, worked)),
    ]


@dataclass(frozen=True, slots=True)
class _Turn:
    """One run of pgbench: transactions a second, processor time of the source's server for each, and how long
    the replica took to have all of them."""

    rate: float
    server_us: float
    behind_s: float


class _Pgbench:
    """One pipeline and one subscription; who pauses catches up before its turn."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._seconds = QUICK_PGBENCH_S if bench.quick else PGBENCH_S
        self._program = str(bench.servers.source.binaries / "pgbench")
        self._scene: Scene = make_scene(bench, self._create, PGBENCH_TABLES)
        home = bench.servers.best_home()
        self._pipeline: Pipeline = self._scene.new_pipeline("bench", home, ["standby"])
        (self._slot,) = self._scene.new_anchors(1)
        self._native = self._scene.new_replica("native")
        self._marker = 0

    def ours(self, _number: int) -> _Turn:
        with self._pipeline.running(("capture",), ("apply", "standby")) as stages:
            for stage in stages:
                put_last(stage.process.pid)
            return self.run("ours", self._pipeline.replicas["standby"], stages)

    def native(self, _number: int) -> _Turn:
        with anchors.subscription(self._scene.source, self._native, self._slot) as connection:
            anchors.enable(connection)
            return self.run("anchor", self._native, [])

    def run(self, who: str, replica: str | None, stages: Sequence[Stage]) -> _Turn:
        """The replica has caught up before, and again before the server's work is read."""
        self._mark(replica, stages)
        self._bench.servers.settle()
        self._put_followers_last()
        worked = self._server_cpu_s()
        rate, transactions = self._pgbench()
        ended = time.monotonic()
        self._mark(replica, stages)
        behind_s = time.monotonic() - ended
        server_us = (self._server_cpu_s() - worked) / transactions * 1e6
        self._bench.say(f"{who} {rate:.0f} transactions/s, {server_us:.0f} µs each, {behind_s:.1f} s behind")
        return _Turn(rate, server_us, behind_s)

    def _put_followers_last(self) -> None:
        """The servers' processes as they are now: each session of PostgreSQL is a process."""
        for server in (self._bench.servers.replica, self._bench.servers.kafka):
            if server.exists() and server.pid is not None:
                put_last(server.pid)

    def _pgbench(self) -> tuple[float, int]:
        """Transactions a second, and how many."""
        command = [self._program, "-n", "-c", str(CLIENTS), "-j", "1", "-T", str(self._seconds)]
        said = subprocess.run(
            [*command, self._scene.source], check=True, capture_output=True, text=True
        ).stdout
        rate = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
        count = re.search(r"actually processed: ([0-9]+)", said)
        if rate is None or count is None:
            raise StageFailed(f"pgbench did not tell its rate: {said}")
        return float(rate[1]), int(count[1])

    def _server_cpu_s(self) -> float:
        pid = self._bench.servers.source.pid
        assert pid is not None
        return cpu_s(pid)

    def _mark(self, replica: str | None, stages: Sequence[Stage]) -> None:
        self._marker += 1
        with psycopg.connect(self._scene.source, autocommit=True) as connection:
            write_marker(connection, self._marker)
        if replica is not None:
            wait_for_marker(replica, stages, marker=self._marker)

    def _create(self, dsn: str) -> None:
        """pgbench's tables; its history gets the primary key that it lacks, on both sides."""
        subprocess.run(
            [self._program, "-i", "-q", "-s", str(PGBENCH_SCALE), dsn], check=True, capture_output=True
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            execute(
                connection,
                "alter table pgbench_history add column id bigint generated always as identity primary key",
            )
        create_marker(dsn)
