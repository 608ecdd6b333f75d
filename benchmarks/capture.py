"""Slot → log, against `pg_recvlogical -f /dev/null` from a slot with the same backlog.

Ours ends when the source shows the slot as confirmed up to the backlog's end: the log holds it durably.
pg_recvlogical, which keeps nothing, ends by itself when it has received the end.
"""

from __future__ import annotations

import time

from benchmarks import anchors
from benchmarks.bench import Bench
from benchmarks.ddl import altered_load
from benchmarks.measure import Better, Result, alternate, rates
from benchmarks.pipelines import Pipeline, wait_for_confirmed
from benchmarks.scene import make_scene
from benchmarks.servers import Home
from benchmarks.types import typed_load
from benchmarks.workload import MEDIUM, Load, crm_load

GOAL = "≥ 0.8, aim 0.95"


def capture_kafka(bench: Bench) -> list[Result]:
    return measure_capture(bench, "capture_kafka", crm_load(MEDIUM.scaled(bench.divisor)), Home.KAFKA)


def capture_directory(bench: Bench) -> list[Result]:
    return measure_capture(bench, "capture_directory", crm_load(MEDIUM.scaled(bench.divisor)), Home.DIRECTORY)


def capture_types(bench: Bench) -> list[Result]:
    return measure_capture(
        bench, "capture_types", typed_load(bench.divisor), bench.servers.best_home(), goal="≥ 0.6"
    )


def capture_ddl(bench: Bench) -> list[Result]:
    home = bench.servers.best_home()
    return measure_capture(bench, "capture_ddl", altered_load(bench.divisor), home, goal="≥ 0.8")


def measure_capture(bench: Bench, name: str, load: Load, home: Home, *, goal: str = GOAL) -> list[Result]:
    """A pipeline, with a slot and a log of its own, for each run."""
    scene = make_scene(bench, load.create, load.tables)
    pipelines = [scene.new_pipeline(f"bench{number}", home) for number in range(bench.runs)]
    slots = scene.new_anchors(bench.runs)
    bench.say(f"writing {load.described}")
    end = load.write(scene.source)
    pairs = alternate(
        lambda number: run_ours(bench, pipelines[number], end),
        lambda number: run_anchor(bench, scene.source, slots[number], end),
        bench.runs,
    )
    anchor = f"{anchors.RECVLOGICAL}; {load.described}"
    figures = rates(pairs, load.changes)
    return [bench.compared(name, figures, unit="rows/s", better=Better.HIGHER, goal=goal, anchor=anchor)]


def run_ours(bench: Bench, pipeline: Pipeline, end: str) -> float:
    """Seconds from the word to capture until the slot is confirmed up to `end`."""
    with pipeline.running(("capture",), go=False) as stages:
        bench.servers.settle()
        started = time.monotonic()
        stages[0].go()
        wait_for_confirmed(pipeline.source, pipeline.slot, end, stages)
        took_s = time.monotonic() - started
    bench.say(f"ours {took_s:.2f} s")
    return took_s


def run_anchor(bench: Bench, source: str, slot: str, end: str) -> float:
    """Seconds of pg_recvlogical, its start and end included."""
    bench.servers.settle()
    started = time.monotonic()
    anchors.receive(bench.servers, source, slot, end=end)
    took_s = time.monotonic() - started
    bench.say(f"anchor {took_s:.2f} s")
    return took_s
