"""How fast a backlog is read from a slot, and decoded: SlotStream and Decoder beside pg_recvlogical.

    python -m benchmarks.slot_stream [rows]

The server decodes for all three on the same machine, so on two cores it is the server that limits.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from connectors.postgres.pgoutput import Decoder
from connectors.postgres.stream import SlotStream
from connectors.postgres.walsender import Walsender
from pipeline.dev.postgres_server import EmbeddedPostgres

SETTINGS = {"wal_level": "logical", "fsync": "off", "synchronous_commit": "off", "max_wal_size": "4GB"}
ROWS_A_TRANSACTION = 1000


def fill(dsn: str, rows: int) -> str:
    """A slot with a backlog of `rows` inserts; returns the end of WAL after it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "create table t (id int primary key, name text, amount numeric, at timestamptz, note text)"
        )
        connection.execute("create publication p for table t")
        connection.execute("select pg_create_logical_replication_slot('s', 'pgoutput')")
        for first in range(0, rows, ROWS_A_TRANSACTION):
            connection.execute(
                "insert into t select g, 'name ' || g, g * 1.5, now(), repeat('x', 60)"
                " from generate_series(%s::int, %s::int) g",
                [first, first + ROWS_A_TRANSACTION - 1],
            )
        ((end,),) = connection.execute("select pg_current_wal_insert_lsn()::text").fetchall()
        connection.execute("select pg_logical_emit_message(false, '', '', true)")
    return str(end)


def read_all(dsn: str, commits: int, *, decode: bool) -> tuple[int, float, float]:
    """(messages, seconds, seconds of our processor time) until the last commit."""
    stream = SlotStream(Walsender(dsn, purpose="benchmark"), slot="s", publication="p")
    decoder = Decoder()
    messages = 0
    started, started_cpu = time.monotonic(), time.process_time()
    stream.start()
    while commits:
        batch = stream.read(10.0)
        messages += len(batch.messages)
        for message in batch.messages:
            if decode:
                decoder.decode(message)
            if message[0] == ord("C"):
                commits -= 1
    figures = messages, time.monotonic() - started, time.process_time() - started_cpu
    stream.close()  # nothing was confirmed: the next reader gets all of it again
    return figures


def recvlogical(server: EmbeddedPostgres, end: str) -> float:
    command = [
        str(server.binaries / "pg_recvlogical"),
        "-d",
        server.dsn(),
        "-S",
        "s",
        "--start",
        "-f",
        "/dev/null",
    ]
    command += ["-o", "proto_version=1", "-o", "publication_names=p", "-s", "1", "--endpos", end]
    started = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - started


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 450_000
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        server = EmbeddedPostgres(Path(folder) / "source", settings=SETTINGS)
        server.start()
        try:
            end = fill(server.dsn(), rows)
            commits = rows // ROWS_A_TRANSACTION
            for name, decode in (("read", False), ("read and decode", True)):
                messages, seconds, cpu_s = read_all(server.dsn(), commits, decode=decode)
                rate, each_us = messages / seconds, cpu_s / messages * 1e6
                print(f"{name:16} {rate:9,.0f} messages/s   {each_us:5.2f} µs of ours each")
            print(f"{'pg_recvlogical':16} {rows / recvlogical(server, end):9,.0f} messages/s")
        finally:
            server.crash()


if __name__ == "__main__":
    main()
