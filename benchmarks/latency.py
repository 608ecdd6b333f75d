"""Commit on the source until visible on the replica, at 1,000 transactions a second.

A process writes, a reader with a session of its own on the replica looks every few tenths of a millisecond;
what lies between the return of a commit and the end of the first look that saw its row is its latency: never
too low. Native logical replication is measured the same way, in turns; whoever pauses catches up before its
next turn. The first seconds of a turn do not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import psycopg

from benchmarks import anchors
from benchmarks.bench import Bench
from benchmarks.measure import Better, Pairs, Result, alternate, latencies_ms, median, percentile, spread
from benchmarks.pipelines import ROOT, Stage, StageFailed, wait_for_marker
from benchmarks.scene import Scene, make_scene
from benchmarks.servers import Home
from benchmarks.workload import create_marker, execute, write_marker
from benchmarks.writer import CREATE, WRITERS

RATE = 1000
SECONDS = 20
QUICK_SECONDS = 5
WARM_UP_S = 3
POLL_S = 0.0002
TABLES = ("event", "marker")
_LATE_S = 60.0


def latency_kafka(bench: Bench) -> list[Result]:
    return measure_latency(bench, "latency_kafka", Home.KAFKA, goal="p50 ≤ 10, p99 ≤ 40")


def latency_directory(bench: Bench) -> list[Result]:
    return measure_latency(bench, "latency_directory", Home.DIRECTORY, goal="p50 ≤ 4")


def measure_latency(bench: Bench, name: str, home: Home, *, goal: str) -> list[Result]:
    """One pipeline and one subscription, in turns."""
    scene = make_scene(bench, create_tables, TABLES)
    turns = _Turns(bench, scene, home)
    pairs = alternate(turns.ours, turns.anchor, bench.runs)
    p99 = Pairs(tuple(turns.p99_ms["ours"]), tuple(turns.p99_ms["anchor"]))
    seconds = ", ".join(f"{rate:.0f}" for rate in turns.rates)
    return [
        Result(
            name=name,
            benchmark=name,
            ours=median(pairs.ours),
            anchor=median(pairs.anchor),
            unit="ms, p50",
            better=Better.LOWER,
            runs=pairs.runs,
            quick=bench.quick,
            p50_ms=median(pairs.ours),
            p99_ms=median(p99.ours),
            goal=goal,
            notes=(
                f"anchor: {anchors.NATIVE}; its p99 {median(p99.anchor):.3g} ms",
                f"p50 of {spread('ours', pairs.ours)}; {spread('anchor', pairs.anchor)}",
                f"p99 of {spread('ours', p99.ours)}; {spread('anchor', p99.anchor)}",
                f"commits a second in each turn: {seconds}",
            ),
        )
    ]


def create_tables(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        execute(connection, CREATE)
    create_marker(dsn)


class _Turns:
    """`p99_ms` and `rates` (commits a second, all turns) are filled turn by turn."""

    def __init__(self, bench: Bench, scene: Scene, home: Home) -> None:
        self._bench = bench
        self._scene = scene
        self._seconds = QUICK_SECONDS if bench.quick else SECONDS
        self._pipeline = scene.new_pipeline("bench", home, ["standby"])
        (self._slot,) = scene.new_anchors(1)
        self._anchor = scene.new_replica("anchor")
        self._turn = 0
        self.rates: list[float] = []
        self.p99_ms: dict[str, list[float]] = {"ours": [], "anchor": []}

    def ours(self, _number: int) -> float:
        with self._pipeline.running(("capture",), ("apply", "standby")) as stages:
            return self._measure("ours", self._pipeline.replicas["standby"], stages)

    def anchor(self, _number: int) -> float:
        with anchors.subscription(self._scene.source, self._anchor, self._slot) as connection:
            anchors.enable(connection)
            return self._measure("anchor", self._anchor, [])

    def _measure(self, who: str, replica: str, stages: Sequence[Stage]) -> float:
        """The median of one turn in ms."""
        self._turn += 1
        with psycopg.connect(self._scene.source, autocommit=True) as connection:
            write_marker(connection, self._turn)
        wait_for_marker(replica, stages, marker=self._turn)
        self._bench.servers.settle()
        first = self._turn * WRITERS
        commits, polls = self._write_and_look(replica, first)
        skipped = WARM_UP_S * RATE // WRITERS
        counted = {writer: returned[skipped:] for writer, returned in commits.items()}
        looks = [(at, {first + i: seen - skipped for i, seen in enumerate(found)}) for at, found in polls]
        measured = latencies_ms(counted, looks)
        p50, p99 = percentile(measured, 0.5), percentile(measured, 0.99)
        ends = [returned for all_returned in counted.values() for returned in all_returned]
        self.rates.append(len(ends) / (max(ends) - min(ends)))
        self.p99_ms[who].append(p99)
        self._bench.say(f"{who} p50 {p50:.2f} ms, p99 {p99:.2f} ms, {self.rates[-1]:.0f} commits/s")
        return p50

    def _write_and_look(
        self, replica: str, first: int
    ) -> tuple[dict[int, list[float]], list[tuple[float, tuple[int, ...]]]]:
        """When each commit of each writer had returned, and what the reader saw when."""
        seconds = self._seconds + WARM_UP_S
        command = [sys.executable, "-m", "benchmarks.writer", str(RATE), str(seconds), str(first)]
        with ExitStack() as resources:
            writing = resources.enter_context(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            resources.callback(writing.kill)
            assert writing.stdin is not None
            assert writing.stdout is not None
            writing.stdin.write(self._scene.source.encode() + b"\n")
            writing.stdin.close()
            polls = _look(replica, first, last=RATE * seconds // WRITERS - 1, limit_s=seconds + _LATE_S)
            commits = json.loads(writing.stdout.read())
        return {int(writer): returned for writer, returned in commits.items()}, polls


def _look(replica: str, first: int, *, last: int, limit_s: float) -> list[tuple[float, tuple[int, ...]]]:
    """Ask for each writer's highest number until all have come to `last`. A writer's rows come in order."""
    highest = ", ".join(
        f"coalesce((select max(number) from event where writer = {first + index}), -1)"
        for index in range(WRITERS)
    )
    found: list[tuple[float, tuple[int, ...]]] = []
    deadline = time.monotonic() + limit_s
    with psycopg.connect(replica, autocommit=True) as reader:
        while not found or min(found[-1][1]) < last:
            row = reader.execute(f"select {highest}".encode(), prepare=True).fetchone()
            assert row is not None
            now = time.monotonic()
            if not found or found[-1][1] != row:
                found.append((now, row))
            if now > deadline:
                raise StageFailed(f"the replica did not see all commits within {limit_s:g} s")
            time.sleep(POLL_S)
    return found
