"""From end to end with everything running: a backlog that came while both sides stood still.

Capture and apply, and in turns a native subscription's worker, have begun and have replicated something.
They are stopped (SIGSTOP) while the backlog is written, and go on (SIGCONT) when the clock starts; it ends
when a reader sees the last row. `end_to_end_small` times the same work with both sides' start. Either side
meets what its walsender could send into the socket of a process that did not read. Each run has databases of
its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg

from benchmarks import anchors
from benchmarks.bench import Bench
from benchmarks.measure import Better, Result, alternate, rates
from benchmarks.pipelines import Stage, StageFailed, wait_for_marker
from benchmarks.scene import Scene, make_scene
from benchmarks.servers import Home
from benchmarks.workload import (
    LARGE,
    SMALL,
    TABLES,
    Backlog,
    create_tables,
    digest,
    execute,
    write_backlog,
    write_marker,
)

_FIRST, _LAST = 0, 1  # markers
_TOUCHED_ROWS = 50


def end_to_end_small_running(bench: Bench) -> list[Result]:
    return measure_running(bench, "end_to_end_small_running", SMALL)


def end_to_end_large_running(bench: Bench) -> list[Result]:
    return measure_running(bench, "end_to_end_large_running", LARGE)


def measure_running(bench: Bench, name: str, full: Backlog) -> list[Result]:
    runs = _Runs(bench, full.scaled(bench.divisor), bench.servers.best_home())
    pairs = alternate(runs.ours, runs.anchor, bench.runs)
    return [
        bench.compared(
            name,
            rates(pairs, runs.backlog.changes),
            unit="rows/s",
            better=Better.HIGHER,
            goal="≥ 0.8",
            anchor=f"{anchors.NATIVE}; {runs.backlog}; {runs.home.value} log; both were running",
        )
    ]


class _Runs:
    """Each makes its databases and leaves none."""

    def __init__(self, bench: Bench, backlog: Backlog, home: Home) -> None:
        self.backlog = backlog
        self.home = home
        self._bench = bench

    def ours(self, number: int) -> float:
        """Seconds from SIGCONT on."""
        scene = self._new_scene()
        pipeline = scene.new_pipeline(f"bench{number}", self.home, ["standby"])
        replica = pipeline.replicas["standby"]
        with pipeline.running(("capture",), ("apply", "standby")) as stages:
            processes = [stage.process.pid for stage in stages]
            took_s = self._timed("ours", scene, replica, lambda: processes, stages)
        self._bench.servers.clear()
        return took_s

    def anchor(self, _number: int) -> float:
        """The same of a native subscription."""
        scene = self._new_scene()
        (slot,) = scene.new_anchors(1)
        replica = scene.new_replica("anchor")
        with anchors.subscription(scene.source, replica, slot) as connection:
            anchors.enable(connection)
            took_s = self._timed("anchor", scene, replica, lambda: [anchors.worker(connection)], [])
        self._bench.servers.clear()
        return took_s

    def _new_scene(self) -> Scene:
        rows = self.backlog.base_rows
        return make_scene(self._bench, lambda dsn: create_tables(dsn, rows=rows), TABLES)

    def _timed(
        self,
        who: str,
        scene: Scene,
        replica: str,
        processes: Callable[[], Sequence[int]],
        stages: Sequence[Stage],
    ) -> float:
        _touch(scene.source)
        wait_for_marker(replica, stages, marker=_FIRST)
        with stopped(processes()):
            write_backlog(scene.source, self.backlog, marker=_LAST)
            self._bench.servers.settle()
            started = time.monotonic()
        wait_for_marker(replica, stages, marker=_LAST)
        took_s = time.monotonic() - started
        if digest(replica, TABLES) != digest(scene.source, TABLES):
            raise StageFailed("the replica has the last row and does not equal the source")
        self._bench.say(f"{who} {took_s:.2f} s")
        return took_s


@contextmanager
def stopped(processes: Sequence[int]) -> Iterator[None]:
    """They stand still for as long as the block runs."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def _touch(source: str) -> None:
    """Small transactions, so that both sides know the tables; then the first marker."""
    with psycopg.connect(source, autocommit=True) as connection:
        for number in range(1, _TOUCHED_ROWS + 1):
            for table in TABLES[:2]:
                execute(connection, f"update {table} set phone = phone where id = %(id)s", id=number)
        write_marker(connection, _FIRST)
