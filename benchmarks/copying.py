"""The first copy, against `psql COPY TO STDOUT | psql COPY FROM STDIN` between the same servers.

Two figures: the time in which the rows move, into a table without indexes on both sides; and the whole,
where the anchor makes the same primary key and index afterwards and analyzes, one after the other as a
script would. Ours is `pipeline.copy` with two workers; the whole includes its snapshot, its schema, the
proof that all came, and the position.
"""

from __future__ import annotations

import subprocess
import threading
import time
import uuid

import psycopg

from benchmarks.bench import Bench
from benchmarks.measure import Better, Pairs, Result, alternate, rates
from benchmarks.pipelines import StageFailed
from benchmarks.servers import create_database, drop_database
from benchmarks.workload import INDEXES, TABLE, create_table, digest, execute
from pipeline.copy import CopyOptions, CopyPhase, CopyProgress, copy_replica

ROWS = 2_000_000
WORKERS = 2
NAME = "opportunity"
ANCHOR = "psql -c 'copy … to stdout' | psql -c 'copy … from stdin', one stream"


def copy(bench: Bench) -> list[Result]:
    rows = ROWS // bench.divisor
    source = create_database(bench.servers.source, "source")
    bench.say(f"writing {rows} rows")
    create_table(source, NAME, rows=rows)
    run = _Run(bench, source)
    moving_and_whole = alternate_twice(run, bench.runs)
    return [
        bench.compared(
            name,
            rates(pairs, rows),
            benchmark="copy",
            unit="rows/s",
            better=Better.HIGHER,
            goal=goal,
            anchor=f"{ANCHOR}; {rows} rows; {what}",
        )
        for (name, goal, what), pairs in zip(
            (
                ("copy", "≥ 0.9, aim 1.3", "rows alone, no index on either side"),
                ("copy_whole", "–", "with primary key, one index and analyze"),
            ),
            moving_and_whole,
            strict=True,
        )
    ]


def alternate_twice(run: _Run, runs: int) -> tuple[Pairs, Pairs]:
    """Each run gives two figures: rows alone, and the whole."""
    wholes: dict[str, list[float]] = {"ours": [], "anchor": []}

    def ours(number: int) -> float:
        moving_s, whole_s = run.ours(number)
        wholes["ours"].append(whole_s)
        return moving_s

    def anchor(number: int) -> float:
        moving_s, whole_s = run.anchor(number)
        wholes["anchor"].append(whole_s)
        return moving_s

    moving = alternate(ours, anchor, runs)
    return moving, Pairs(tuple(wholes["ours"]), tuple(wholes["anchor"]))


class _Run:
    """Copies of one table, each into a database of its own that is dropped afterwards."""

    def __init__(self, bench: Bench, source: str) -> None:
        self._bench = bench
        self._source = source
        self._digest = digest(source, [NAME])

    def ours(self, number: int) -> tuple[float, float]:
        """Seconds in which rows moved, and of the whole copy."""
        replica = create_database(self._bench.servers.replica, f"ours_{number}")
        entered: dict[CopyPhase, float] = {}
        options = CopyOptions(
            pipeline="bench",
            replica=f"r{number}",
            source_conninfo=self._source,
            replica_conninfo=replica,
            stream=uuid.uuid4().bytes,
            place="0",
            tables=(("public", NAME),),
            workers=WORKERS,
            pg_bin=self._bench.servers.source.binaries,
        )

        def told(progress: CopyProgress) -> None:
            entered.setdefault(progress.phase, time.monotonic())

        self._bench.servers.settle()
        started = time.monotonic()
        copy_replica(options, told, threading.Event())
        whole_s = time.monotonic() - started
        return self._done("ours", number, entered[CopyPhase.INDEXES] - entered[CopyPhase.ROWS], whole_s)

    def anchor(self, number: int) -> tuple[float, float]:
        """The same of two psql."""
        replica = create_database(self._bench.servers.replica, f"anchor_{number}")
        with psycopg.connect(replica, autocommit=True) as connection:
            execute(connection, TABLE.format(name=NAME))
            self._bench.servers.settle()
            started = time.monotonic()
            self._pipe(replica)
            moving_s = time.monotonic() - started
            for index in INDEXES:
                execute(connection, index.format(name=NAME))
            execute(connection, f"analyze {NAME}")
            whole_s = time.monotonic() - started
        return self._done("anchor", number, moving_s, whole_s)

    def _pipe(self, replica: str) -> None:
        psql = str(self._bench.servers.source.binaries / "psql")
        with subprocess.Popen(
            [psql, self._source, "-qXc", f"copy {NAME} to stdout"], stdout=subprocess.PIPE
        ) as reading:
            subprocess.run(
                [psql, replica, "-qXc", f"copy {NAME} from stdin"], stdin=reading.stdout, check=True
            )
        if reading.returncode:
            raise StageFailed(f"psql ended with {reading.returncode}")

    def _done(self, who: str, number: int, moving_s: float, whole_s: float) -> tuple[float, float]:
        self._bench.say(f"{who} {moving_s:.2f} s, whole {whole_s:.2f} s")
        server, name = self._bench.servers.replica, f"{who}_{number}"
        if digest(server.dsn(name), [NAME]) != self._digest:
            raise StageFailed("the copy does not equal the source")
        drop_database(server, name)
        return moving_s, whole_s
