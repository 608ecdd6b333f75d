"""How fast the first copy moves rows, against `psql COPY TO STDOUT | psql COPY FROM STDIN`.

usage: python benchmarks/first_copy.py [ROWS]

Both read the same table of ten columns (default a million rows) from one embedded server and write
into a table without indexes on another, on the same machine, in turns. What is compared is the time
in which the rows move; the whole copy (snapshot, schema, primary key, statistics, position) is shown
beside it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import psycopg

from connectors.postgres.pgtools import find_pgtools
from pipeline.copy import CopyOptions, CopyPhase, CopyProgress, copy_replica
from pipeline.dev.postgres_server import EmbeddedPostgres

TABLE = """
    create table contact (
        id int, name text, email text, owner int, created timestamptz, amount numeric(12, 2),
        active bool, city text, note text, external bigint
    )
"""
FILL = """
    insert into contact
    select g, md5(g::text), 'user' || g || '@example.com', g %% 1000, now() - g * interval '1 s',
           (g * 1.37)::numeric(12, 2), g %% 2 = 0, 'Some city name', null, g::bigint * 7
      from generate_series(1, %s) g
"""
ROUNDS = 3


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="keepstream-benchmark-") as name:
        Path(name).chmod(0o711)
        settings = {"fsync": "off", "max_wal_size": "8GB"}
        source = EmbeddedPostgres(Path(name) / "source", settings=settings | {"wal_level": "logical"})
        replica = EmbeddedPostgres(Path(name) / "replica", settings=settings)
        source.start()
        replica.start()
        try:
            compare(source, replica, rows)
        finally:
            source.stop()
            replica.stop()


def compare(source: EmbeddedPostgres, replica: EmbeddedPostgres, rows: int) -> None:
    with psycopg.connect(source.dsn(), autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute(FILL, [rows])
        connection.execute("alter table contact add primary key (id)")
        connection.execute("vacuum analyze contact")
    results: dict[str, list[float]] = {}
    for round_number in range(ROUNDS):
        results.setdefault("psql | psql", []).append(by_psql(source, replica, f"psql{round_number}"))
        for workers in (1, 2, 4):
            moving_s, whole_s = by_copy(source, replica, f"copy{round_number}_{workers}", workers)
            results.setdefault(f"{workers} workers", []).append(moving_s)
            results.setdefault(f"{workers} workers, whole copy", []).append(whole_s)
    baseline = min(results["psql | psql"])
    for name, seconds in results.items():
        best = min(seconds)
        print(f"{name:25} {best:6.2f} s  {rows / best:12,.0f} rows/s  {baseline / best:5.2f} × psql")


def new_database(replica: EmbeddedPostgres, name: str) -> str:
    with psycopg.connect(replica.dsn(), autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    return replica.dsn(name)


def by_psql(source: EmbeddedPostgres, replica: EmbeddedPostgres, name: str) -> float:
    target = new_database(replica, name)
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute(TABLE)
    psql = str(find_pgtools(18).folder / "psql")
    started = time.monotonic()
    with subprocess.Popen(
        [psql, source.dsn(), "-qXc", "copy contact to stdout"], stdout=subprocess.PIPE
    ) as reading:
        subprocess.run([psql, target, "-qXc", "copy contact from stdin"], stdin=reading.stdout, check=True)
    return time.monotonic() - started


def by_copy(
    source: EmbeddedPostgres, replica: EmbeddedPostgres, name: str, workers: int
) -> tuple[float, float]:
    """Seconds in which rows moved, and of the whole copy."""
    entered: dict[CopyPhase, float] = {}

    def told(progress: CopyProgress) -> None:
        entered.setdefault(progress.phase, time.monotonic())

    options = CopyOptions(
        pipeline="benchmark",
        replica=name,
        source_conninfo=source.dsn(),
        replica_conninfo=new_database(replica, name),
        stream=uuid.uuid4().bytes,
        place="0",
        tables=(("public", "contact"),),
        workers=workers,
        part_bytes=32 * 1024 * 1024,
    )
    started = time.monotonic()
    copy_replica(options, told, threading.Event())
    return entered[CopyPhase.INDEXES] - entered[CopyPhase.ROWS], time.monotonic() - started


if __name__ == "__main__":
    main()
