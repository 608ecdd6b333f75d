"""Slot → log, against `pg_recvlogical -f /dev/null` from a slot with the same backlog.

Ours ends when the source shows the slot as confirmed up to the backlog's end: the log holds it durably.
pg_recvlogical, which keeps nothing, ends by itself when it has received the end.
"""

from __future__ import annotations

import time

from benchmarks import anchors
from benchmarks.bench import QUICK_DIVISOR, Bench
from benchmarks.measure import Better, Result, alternate, rates
from benchmarks.pipelines import Pipeline, make_pipeline, wait_for_confirmed
from benchmarks.servers import Home, create_database
from benchmarks.workload import MEDIUM, TABLES, base_rows, create_tables, write_backlog

GOAL = "≥ 0.8, aim 0.95"


def capture_kafka(bench: Bench) -> list[Result]:
    return measure_capture(bench, "capture_kafka", Home.KAFKA)


def capture_directory(bench: Bench) -> list[Result]:
    return measure_capture(bench, "capture_directory", Home.DIRECTORY)


def measure_capture(bench: Bench, name: str, home: Home) -> list[Result]:
    """A pipeline, with a slot and a log of its own, for each run."""
    servers = bench.servers
    backlog = MEDIUM.scaled(QUICK_DIVISOR) if bench.quick else MEDIUM
    source = create_database(servers.source, "source")
    create_tables(source, rows=base_rows(backlog))
    pipelines = [
        make_pipeline(servers, f"bench{number}", source=source, home=home, replicas={})
        for number in range(bench.runs)
    ]
    for pipeline in pipelines:
        pipeline.begin()
    anchors.prepare_slots(source, TABLES, [f"anchor_{number}" for number in range(bench.runs)])
    bench.say(f"writing {backlog.transactions} transactions, {backlog.changes} rows")
    end = write_backlog(source, backlog)
    pairs = alternate(
        lambda number: run_ours(bench, pipelines[number], end),
        lambda number: run_anchor(bench, source, f"anchor_{number}", end),
        bench.runs,
    )
    anchor = f"{anchors.RECVLOGICAL}; {backlog.transactions} transactions, {backlog.changes} rows"
    figures = rates(pairs, backlog.changes)
    return [bench.compared(name, figures, unit="rows/s", better=Better.HIGHER, goal=GOAL, anchor=anchor)]


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
