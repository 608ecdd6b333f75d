"""Rows a second from a directory log into a real replica, on the exact path.

    python benchmarks/apply_exact.py [ROWS]

A log of INSERTs, UPDATEs and DELETEs of one table is written first, then `run_apply` applies it as it would a
backlog: transactions of 1 row, of 1,000 rows, and one of all rows in parts. Then single transactions are
written one after the other, and the time from `append` until the replica shows each is the latency.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg

from connectors.interfaces import ChangeLog
from connectors.log.open import open_log
from connectors.postgres import progress
from connectors.postgres.session import connect
from pipeline.apply.options import ApplyOptions
from pipeline.apply.stage import run_apply
from pipeline.capture.chainwriter import ChainWriter, SourceIdentity
from pipeline.capture.packer import FramePacker
from pipeline.dev.postgres_server import EmbeddedPostgres
from pipeline.follow import find_tail
from pipeline.reports import StageReport
from schemas.avro import RowCodec
from schemas.change import UNCHANGED, Change, Operation
from schemas.changecodec import encode_change
from schemas.frame import NO_DIGEST, CaptureStart
from schemas.framecodec import FrameHeader, encode_capture_start, seal_frame
from schemas.lsn import Lsn, Position, parse_lsn
from schemas.table import Column, ReplicaIdentity, TableSchema

COLUMNS = {
    "id": (23, "integer"),
    "company": (23, "integer"),
    "name": (1043, "character varying"),
    "email": (1043, "character varying"),
    "stage": (25, "text"),
    "amount": (1700, "numeric"),
    "active": (16, "boolean"),
    "created_at": (1114, "timestamp without time zone"),
    "note": (25, "text"),
}
TABLE = TableSchema(
    "public",
    "opportunity",
    ReplicaIdentity.DEFAULT,
    tuple(Column(name, oid, -1, sql, name == "id") for name, (oid, sql) in COLUMNS.items()),
)
CODEC = RowCodec(TABLE)
START = Position(Lsn(0x1000000))


def row(number: int) -> list[bytes | None]:
    return [
        b"%d" % number,
        b"%d" % (number % 977),
        b"Company %d Ltd" % number,
        b"person%d@example.com" % number,
        b"qualified",
        b"%d.50" % (number % 100_000),
        b"t",
        b"2026-03-01 12:00:%02d.123456" % (number % 60),
        b"Called them about the renewal, will decide after the summer break.",
    ]


def insert(number: int) -> Change:
    return Change(Operation.INSERT, TABLE.id, row=CODEC.encode_row(row(number))[0])


def update(number: int) -> Change:
    encoded, absent = CODEC.encode_row([*row(number)[:4], b"won", *row(number)[5:8], UNCHANGED])
    return Change(Operation.UPDATE, TABLE.id, row=encoded, absent=absent)


def delete(number: int) -> Change:
    return Change(Operation.DELETE, TABLE.id, old_key=CODEC.encode_key(row(number)))


class Writer:
    """Writes transactions into the log as capture would."""

    def __init__(self, log: ChangeLog) -> None:
        self.stream = uuid.uuid4().bytes
        self.lsn = int(START.lsn)
        log.create()
        start = encode_capture_start(CaptureStart(bytes(16), "1", 1, 0))
        record, _ = seal_frame(FrameHeader(self.stream, 1, 0, NO_DIGEST, 0), (), start)
        self._writer = log.begin_epoch(1, record, is_ignorable=lambda _: False)
        tail = find_tail(log)
        self._chain = ChainWriter(self._writer, tail.chain, SourceIdentity("1", 1, ()))
        self._packer = FramePacker([])
        self._chain.anchor((), at=START)
        self.settle()

    def commit(self, changes: Sequence[Change]) -> None:
        now = time.time_ns() // 1000
        self._packer.begin(xid=700, commit_lsn=Lsn(self.lsn + 0x40), commit_time=now)
        self._packer.need(TABLE)
        for change in changes:
            for body in self._packer.add(encode_change(change)):
                self._chain.append(body)
        self.lsn += 0x80
        for body in self._packer.commit(end_lsn=Lsn(self.lsn)):
            self._chain.append(body)

    def settle(self) -> None:
        for body in self._packer.flush():
            self._chain.append(body)
        while not self._chain.all_durable:
            self._chain.settle(1)

    def close(self) -> None:
        self._writer.close()


def batches(make: Callable[[int], Change], rows: int, size: int) -> Iterator[list[Change]]:
    for first in range(0, rows, size):
        yield [make(number) for number in range(first, min(first + size, rows))]


def apply_until(options: ApplyOptions, lsn: int) -> float:
    """Seconds until the replica is there; includes opening and closing it."""
    stop = threading.Event()

    def report(said: StageReport) -> None:
        if said.position is not None and parse_lsn(said.position) >= lsn:
            stop.set()

    applying = threading.Thread(target=run_apply, args=[options, stop, report])
    started = time.perf_counter()
    applying.start()
    with connect(options.conninfo, purpose="benchmark") as session:
        while progress.require(session, options.name).position.lsn < lsn:
            time.sleep(0.01)
    took_s = time.perf_counter() - started
    stop.set()
    applying.join()
    return took_s


def measure_backlog(rows: int, writer: Writer, options: ApplyOptions) -> None:
    for size in (1, 1000, rows):
        for make in (insert, update, delete):
            for changes in batches(make, rows, size):
                writer.commit(changes)
            writer.settle()
            took_s = apply_until(options, writer.lsn)
            print(f"{make.__name__:6} {size:>7} rows a transaction: {rows / took_s:>9,.0f} rows/s")


def measure_latency(transactions: int, writer: Writer, options: ApplyOptions) -> None:
    stop = threading.Event()
    applying = threading.Thread(target=run_apply, args=[options, stop, lambda _: None])
    applying.start()
    latencies_ms = []
    with psycopg.connect(options.conninfo, autocommit=True) as session:
        for number in range(transactions + 20):
            writer.commit([insert(number)])
            started = time.perf_counter()
            writer.settle()
            query = "select 1 from public.opportunity where id = %s"
            while session.execute(query, [number]).fetchone() is None:
                pass
            latencies_ms.append((time.perf_counter() - started) * 1000)
    stop.set()
    applying.join()
    measured = sorted(latencies_ms[20:])
    p50, p99 = statistics.median(measured), measured[int(len(measured) * 0.99)]
    print(f"latency of single transactions: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        server = EmbeddedPostgres(folder / "replica")
        server.start()
        log = open_log(f"file://{folder}", "bench")
        writer = Writer(log)
        try:
            columns = ", ".join(f"{name} {sql}" for name, (_, sql) in COLUMNS.items())
            with connect(server.dsn(), purpose="benchmark") as session:
                session.execute(f"create table public.opportunity ({columns}, primary key (id))")
                progress.install(session)
                progress.adopt(session, "bench", stream=writer.stream, position=START)
            options = ApplyOptions("bench", "replica", server.dsn(), log)
            measure_backlog(rows, writer, options)
            measure_latency(200, writer, options)
        finally:
            writer.close()
            log.close()
            server.crash()


if __name__ == "__main__":
    main()
