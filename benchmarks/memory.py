"""The most memory that capture and apply ever held: VmHWM of each process, Python and libraries included.

    memory_large_transaction    through one transaction of 5 million rows
    memory_wide_row             through one row with a value of 100 MB
    memory_huge_row             through one row with a bytea of 540 MB, whose text PostgreSQL cannot make

Whatever is applied must equal the source, so nothing was left out to save memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg

from benchmarks.bench import Bench
from benchmarks.measure import Better, Result
from benchmarks.pipelines import StageFailed, wait_for_marker
from benchmarks.scene import make_scene
from benchmarks.workload import TABLES, create_marker, create_tables, digest, execute, fill, write_marker

MEGABYTE = 1_000_000
LARGE_ROWS = 5_000_000
LARGE_GOAL = "≤ 300 MB"
WIDE_BYTES = 100 * MEGABYTE
_WIDE = "create table wide (id integer primary key, value text)"
_MD5_BYTES = 32
HUGE_MEGABYTES = 540
_HUGE = """
    create table huge (id integer primary key, value bytea);
    alter table huge alter value set storage external
"""
_HUGE_ROW = """
    insert into huge select 1, convert_to(repeat(string_agg(md5(n::text), ''), %(megabytes)s::int), 'UTF8')
      from generate_series(1, 31250) n
"""


def memory_large_transaction(bench: Bench) -> list[Result]:
    rows = LARGE_ROWS // bench.divisor

    def write(connection: psycopg.Connection[tuple[object, ...]]) -> None:
        fill(connection, "opportunity", 1, rows)

    note = f"one transaction, {rows:,} rows"
    return _measure(
        bench, "memory_large_transaction", create_tables, TABLES, write, goal=LARGE_GOAL, note=note
    )


def memory_wide_row(bench: Bench) -> list[Result]:
    """Of full size always: beside a small value, Python itself would be what is measured."""
    limit = 4 * WIDE_BYTES // MEGABYTE

    def write(connection: psycopg.Connection[tuple[object, ...]]) -> None:
        value = "select 1, string_agg(md5(n::text), '') from generate_series(1, %(pieces)s::int) n"
        execute(connection, f"insert into wide {value}", pieces=WIDE_BYTES // _MD5_BYTES)

    note = f"one row, its value has {WIDE_BYTES // MEGABYTE} MB"
    return _measure(
        bench, "memory_wide_row", _create_wide, ("wide", "marker"), write, goal=f"≤ {limit} MB", note=note
    )


def memory_huge_row(bench: Bench) -> list[Result]:
    """It goes in binary form; of full size always."""

    def write(connection: psycopg.Connection[tuple[object, ...]]) -> None:
        execute(connection, _HUGE_ROW, megabytes=HUGE_MEGABYTES)

    return _measure(
        bench,
        "memory_huge_row",
        _create_huge,
        ("huge", "marker"),
        write,
        goal=f"≤ {4 * HUGE_MEGABYTES} MB",
        note=f"one row, its bytea has {HUGE_MEGABYTES} MB",
        compared=("(select id, sha256(value) from huge)", "marker"),
    )


def _create_huge(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        execute(connection, _HUGE)
    create_marker(dsn)


def _create_wide(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        execute(connection, _WIDE)
    create_marker(dsn)


def _measure(
    bench: Bench,
    name: str,
    make: Callable[[str], None],
    tables: Sequence[str],
    write: Callable[[psycopg.Connection[tuple[object, ...]]], None],
    *,
    goal: str,
    note: str,
    compared: Sequence[str] = (),
) -> list[Result]:
    """Both stages run while it is written, as they would. `compared`: what must be equal, if not the text
    of the tables' rows."""
    scene = make_scene(bench, make, tables)
    home = bench.servers.best_home()
    pipeline = scene.new_pipeline("bench", home, ["standby"])
    replica = pipeline.replicas["standby"]
    with pipeline.running(("capture",), ("apply", "standby")) as stages:
        with psycopg.connect(scene.source, autocommit=True) as connection:
            write_marker(connection, 1)
            wait_for_marker(replica, stages, marker=1)
            idle = [stage.peak_rss_bytes() for stage in stages]
            bench.say(f"writing {note}")
            write(connection)
            write_marker(connection, 2)
        wait_for_marker(replica, stages, marker=2)
        peaks = [stage.peak_rss_bytes() for stage in stages]
    if digest(replica, compared or tables) != digest(scene.source, compared or tables):
        raise StageFailed("the replica has the last row and does not equal the source")
    bench.say(", ".join(f"{peak / MEGABYTE:.0f} MB" for peak in peaks))
    return [
        Result(
            name=f"{name}_{stage}",
            benchmark=name,
            ours=peak / MEGABYTE,
            anchor=None,
            unit="MB",
            better=Better.LOWER,
            runs=1,
            quick=bench.quick,
            goal=goal,
            notes=(f"{note}; {home.value} log; {before / MEGABYTE:.0f} MB before it",),
        )
        for stage, peak, before in zip(("capture", "apply"), peaks, idle, strict=True)
    ]
