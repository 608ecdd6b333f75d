"""How cost grows: the same work at three sizes, log → replica. There is no anchor; a flat rate is the goal.

growth_rows           one transaction of a ninth, a third, and all of the rows
growth_transactions   a ninth, a third, and all of the transactions, of two rows each
growth_tables         the same rows spread over 3, 30 and 300 tables, in transactions of 100
growth_replicas       the same backlog applied to one, two and three replicas at once
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psycopg

from benchmarks.bench import Bench
from benchmarks.measure import Better, Result, median
from benchmarks.pipelines import Pipeline, StageFailed, wait_for_confirmed, wait_for_marker
from benchmarks.scene import Scene, make_scene
from benchmarks.servers import Home
from benchmarks.workload import (
    LARGE,
    SMALL,
    TABLE,
    TABLES,
    Backlog,
    create_marker,
    create_tables,
    digest,
    execute,
    fill,
    write_backlog,
    write_marker,
)

SHARES = (9, 3, 1)
TABLE_COUNTS = (3, 30, 300)
REPLICA_COUNTS = (1, 2, 3)
_TABLE_ROWS = 90_000
_ROWS_A_TRANSACTION = 100
_GOAL = "flat"


def growth_rows(bench: Bench) -> list[Result]:
    return [_apply(bench, "growth_rows", LARGE.scaled(share * bench.divisor)) for share in SHARES]


def growth_transactions(bench: Bench) -> list[Result]:
    return [_apply(bench, "growth_transactions", SMALL.scaled(share * bench.divisor)) for share in SHARES]


def growth_replicas(bench: Bench) -> list[Result]:
    backlog = LARGE.scaled(3 * bench.divisor)
    return [_apply(bench, "growth_replicas", backlog, replicas=count) for count in REPLICA_COUNTS]


def growth_tables(bench: Bench) -> list[Result]:
    rows = _TABLE_ROWS // bench.divisor
    return [_apply_to_tables(bench, count, rows) for count in TABLE_COUNTS]


def _apply(bench: Bench, name: str, backlog: Backlog, *, replicas: int = 1) -> Result:
    scene = make_scene(bench, lambda dsn: create_tables(dsn, rows=backlog.base_rows), TABLES)
    seconds = _timed(bench, scene, lambda: write_backlog(scene.source, backlog), replicas=replicas)
    what = f"{replicas} replicas at once" if name == "growth_replicas" else str(backlog)
    return _result(bench, name, what, backlog.changes, seconds)


def _apply_to_tables(bench: Bench, count: int, rows: int) -> Result:
    names = [f"table_{number}" for number in range(count)]

    def make(dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for name in names:
                execute(connection, TABLE.format(name=name))
                execute(connection, f"alter table {name} add primary key (id)")
        create_marker(dsn)

    def write() -> str:
        with psycopg.connect(scene.source, autocommit=True) as connection:
            execute(connection, "set synchronous_commit = off")
            for number in range(rows // _ROWS_A_TRANSACTION):
                first = number * _ROWS_A_TRANSACTION + 1
                fill(connection, names[number % count], first, first + _ROWS_A_TRANSACTION - 1)
            execute(connection, "set synchronous_commit = on")
            return write_marker(connection, 1)

    scene = make_scene(bench, make, (*names, "marker"))
    seconds = _timed(bench, scene, write, replicas=1)
    return _result(bench, "growth_tables", f"{rows:,} rows in {count} tables", rows, seconds)


def _timed(bench: Bench, scene: Scene, write: Callable[[], str], *, replicas: int) -> list[float]:
    """Seconds of each run until all replicas have it all. The log is a directory, to measure no broker."""
    names = [f"r{run}_{number}" for run in range(bench.runs) for number in range(replicas)]
    pipeline = scene.new_pipeline("growth", Home.DIRECTORY, names)
    end = write()
    with pipeline.running(("capture",)) as stages:
        wait_for_confirmed(pipeline.source, pipeline.slot, end, stages)
    expected = digest(scene.source, scene.tables)
    seconds = []
    for run in range(bench.runs):
        chosen = [f"r{run}_{number}" for number in range(replicas)]
        seconds.append(_apply_once(bench, pipeline, chosen))
        for name in chosen:
            if digest(pipeline.replicas[name], scene.tables) != expected:
                raise StageFailed("the replica has the last row and does not equal the source")
    bench.servers.clear()
    return seconds


def _apply_once(bench: Bench, pipeline: Pipeline, replicas: Sequence[str]) -> float:
    with pipeline.running(*(("apply", name) for name in replicas), go=False) as stages:
        bench.servers.settle()
        started = time.monotonic()
        for stage in stages:
            stage.go()
        for name in replicas:
            wait_for_marker(pipeline.replicas[name], stages)
        took_s = time.monotonic() - started
    bench.say(f"{len(replicas)} replicas: {took_s:.2f} s")
    return took_s


def _result(bench: Bench, benchmark: str, what: str, changes: int, seconds: list[float]) -> Result:
    return Result(
        name=f"{benchmark}: {what}",
        benchmark=benchmark,
        ours=changes / median(seconds),
        anchor=None,
        unit="rows/s",
        better=Better.HIGHER,
        runs=bench.runs,
        quick=bench.quick,
        goal=_GOAL,
    )
