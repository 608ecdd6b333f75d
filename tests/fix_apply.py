"""A change log written by hand, and an apply stage that follows it: what tests of apply work with.

`made_log` is written with capture's own packer and chain, without a source. `applying` runs the real
stage in a thread against the `replica` database.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.interfaces import ChangeLog
from connectors.log.open import open_log
from connectors.postgres.replica import progress
from connectors.postgres.replica.progress import Progress
from connectors.postgres.session import Session, connect
from pipeline.apply.options import ApplyOptions
from pipeline.apply.stage import ApplyStage
from pipeline.capture.writing.chainwriter import ChainWriter, SourceIdentity
from pipeline.capture.writing.packer import FramePacker, PackedBody
from pipeline.dev.process import require
from pipeline.follow import find_tail
from pipeline.reports import StageReport
from schemas.avro import RowCodec
from schemas.change import UNCHANGED, Change, Operation, TextValue
from schemas.changecodec import encode_change
from schemas.entries import Entries
from schemas.errors import KeepstreamError
from schemas.frame import NO_DIGEST, CaptureStart
from schemas.framecodec import FrameHeader, encode_capture_start, seal_frame
from schemas.lsn import Lsn, Position
from schemas.table import Column, ReplicaIdentity, TableSchema
from schemas.validity import ignorable
from tests.fix_postgres import Database

PIPELINE = "crm"
REPLICA = "standby"
FIRST_LSN = Lsn(0x1000000)
DEADLINE_S = 20.0
_BIG = 1 << 40


@dataclass(frozen=True)
class Made:
    """A transaction as it was written."""

    xid: int
    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time: int


class MadeLog:
    """Writes epochs of valid frames. Positions go up by themselves."""

    def __init__(self, log: ChangeLog, stream: bytes | None = None) -> None:
        self.log = log
        self.stream = stream or uuid.uuid4().bytes
        self.epoch = 0
        self.lsn = FIRST_LSN
        self.xid = 700
        self.packer = FramePacker([])
        self.chain: ChainWriter
        log.create()
        self.begin_epoch(at=Position(FIRST_LSN))

    def begin_epoch(self, *, at: Position | None = None) -> None:
        """CAPTURE_START and ANCHOR, after which frames of earlier epochs count no more."""
        self.epoch += 1
        start = CaptureStart(os.urandom(16), "7000000000000000001", 1, self.now())
        header = FrameHeader(self.stream, self.epoch, 0, NO_DIGEST, 0)
        record, _ = seal_frame(header, (), encode_capture_start(start))
        self.writer = self.log.begin_epoch(
            self.epoch, record, is_ignorable=ignorable(stream=self.stream, epoch=self.epoch)
        )
        tail = find_tail(self.log)
        tail.close()
        self.chain = ChainWriter(self.writer, tail.chain, SourceIdentity("7000000000000000001", 1, Entries()))
        self.packer = FramePacker(self.packer.live_tables)
        self.anchor(at=at)

    def anchor(self, *, at: Position | None = None) -> None:
        self.chain.anchor(self.packer.live_tables, at=at)
        self.settle()

    def heartbeat(self, lsn: int | None = None) -> Position:
        """Nothing was committed up to `lsn`, by default a little further on."""
        self.lsn = Lsn(lsn or self.lsn + 0x100)
        last = self.chain.position
        position = Position(self.lsn, last.xid, last.commit_time)
        self.chain.heartbeat(position)
        self.settle()
        return position

    def commit(
        self, *changes: Change, tables: Sequence[TableSchema] = (), commit_time: int | None = None
    ) -> Made:
        """One transaction in a frame of its own."""
        made = self.add(*changes, tables=tables, commit_time=commit_time)
        self.flush()
        return made

    def add(
        self, *changes: Change, tables: Sequence[TableSchema] = (), commit_time: int | None = None
    ) -> Made:
        """One transaction into the frame that `flush` writes."""
        made = self._next(commit_time)
        self._begin(made, tables)
        for change in changes:
            self._write(self.packer.add(encode_change(change)))
        self._write(self.packer.commit(end_lsn=made.end_lsn))
        return made

    def flush(self) -> None:
        self._write(self.packer.flush())
        self.settle()

    def open_parts(
        self,
        *changes: Change,
        tables: Sequence[TableSchema] = (),
        commit_time: int | None = None,
        part_bytes: int = 1,
    ) -> Made:
        """Parts 1 … k of a transaction that `close_parts` or a new epoch ends: a part for each change, or as
        many changes as `part_bytes` hold."""
        made = self._next(commit_time)
        self.packer._target_bytes = part_bytes
        self._begin(made, tables)
        for change in changes:
            self._write(self.packer.add(encode_change(change)))
        self.settle()
        return made

    def close_parts(self, made: Made) -> None:
        self._write(self.packer.commit(end_lsn=made.end_lsn))
        self.settle()
        self.packer._target_bytes = _BIG

    def settle(self) -> None:
        """Wait until everything is durable."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.chain.all_durable:
            assert time.monotonic() < deadline
            self.chain.settle(0.1)

    def now(self) -> int:
        return time.time_ns() // 1000

    def _begin(self, made: Made, tables: Sequence[TableSchema]) -> None:
        self.packer.begin(xid=made.xid, commit_lsn=made.commit_lsn, commit_time=made.commit_time)
        for table in tables:
            self.packer.need(table)

    def _next(self, commit_time: int | None) -> Made:
        self.xid += 1
        commit_lsn, self.lsn = Lsn(self.lsn + 0x40), Lsn(self.lsn + 0x80)
        return Made(self.xid, commit_lsn, self.lsn, self.now() if commit_time is None else commit_time)

    def _write(self, bodies: Iterable[PackedBody]) -> None:
        for body in bodies:
            self.chain.append(body)


def adopt(conn: Session, name: str, *, stream: bytes, position: Position, place: str = "") -> None:
    """Make the row of a replica whose rows are there already and equal, as a copy with `initial: none`."""
    token = progress.write_copying_marker(conn, name, stream=stream, place=place)
    progress.complete_copy(conn, name, token=token, position=position, place=place)


class Applying:
    """An apply stage in a thread, and what became of it."""

    def __init__(self, options: ApplyOptions) -> None:
        self.stop = threading.Event()
        self.reports: list[StageReport] = []
        self.error: KeepstreamError | None = None
        self.stage = ApplyStage(options, self.stop, self.reports.append)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.stage.run()
        except KeepstreamError as error:
            self.error = error

    @property
    def standing(self) -> int:
        """The LSN up to which it read that nothing more was committed; 0 if that is not past its position."""
        opened = getattr(self.stage, "_applier", None)
        standing = opened.opened.planner.standing if opened is not None else None
        return standing.lsn if standing is not None else 0

    @property
    def unapplied(self) -> int:
        """How many items it has read and not applied yet."""
        opened = getattr(self.stage, "_applier", None)
        return 0 if opened is None else len(opened.opened.planner.backlog.items)

    def end(self) -> None:
        self.stop.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def finished(self) -> None:
        """It ended by itself, without an error."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def ended_with(self) -> KeepstreamError:
        """The error that ended it by itself."""
        self._thread.join(DEADLINE_S)
        assert self.error is not None
        return self.error


class Replicating:
    """The replica of one test: its progress row, and stages that apply `made` to it."""

    def __init__(self, replica: Database, made: MadeLog) -> None:
        self.replica = replica
        self.made = made
        self._applying: Applying | None = None
        with connect(replica.dsn, purpose="test") as session:
            progress.install(session)
            adopt(session, PIPELINE, stream=made.stream, position=Position(FIRST_LSN))

    def options(self, **changed: object) -> ApplyOptions:
        values = {"name": PIPELINE, "replica": REPLICA, "conninfo": self.replica.dsn, "log": self.made.log}
        return ApplyOptions(**(values | changed))  # type: ignore[arg-type]

    @contextlib.contextmanager
    def running(self, **changed: object) -> Iterator[Applying]:
        """Ends it at the end; an error that it met is raised."""
        applying = self._applying = Applying(self.options(**changed))
        try:
            yield applying
        finally:
            applying.end()
            self._applying = None
        if applying.error is not None:
            raise applying.error

    def start(self, **changed: object) -> Applying:
        """A stage that the test expects to end by itself."""
        return Applying(self.options(**changed))

    def row(self) -> Progress:
        with connect(self.replica.dsn, purpose="test") as session:
            return progress.require(session, PIPELINE)

    def wait_for(self, lsn: int) -> None:
        """Until the replica's position is there."""
        self.wait(lambda: self.row().position.lsn >= lsn, f"position {lsn:#x}")

    def catch_up(self) -> None:
        """Apply everything that the log has, and stop."""
        with self.running():
            self.wait_for(self.made.lsn)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """With a deadline, and not longer than the stage that runs goes on without an error."""

        def met() -> bool:
            if self._applying is not None and self._applying.error is not None:
                raise self._applying.error
            return condition()

        require(met, DEADLINE_S, what=what)


class Taken:
    """Applies transactions and tells which path they took."""

    def __init__(self, made_log: MadeLog, replicating: Replicating) -> None:
        self.made_log = made_log
        self.replicating = replicating
        self.sets = self.singles = self.refused = 0

    def apply(self, rows: Rows, *changes: Change, more: Sequence[Rows] = ()) -> None:
        self.made_log.commit(*changes, tables=[rows.table, *(other.table for other in more)])
        self.catch_up()

    def catch_up(self) -> None:
        with self.replicating.running() as applying:
            self.replicating.wait_for(self.made_log.lsn)
            details = applying.stage.snapshot().details
        self.sets += int(str(details["set_changes"]))
        self.singles += int(str(details["single_changes"]))
        self.refused += int(str(details["sets_refused"]))

    @property
    def counts(self) -> tuple[int, int, int]:
        """(as sets, one by one, refusals)"""
        return self.sets, self.singles, self.refused


@pytest.fixture
def change_log(tmp_path: Path) -> Iterator[ChangeLog]:
    log = open_log(f"file://{tmp_path}", PIPELINE, replication=None, client={})
    yield log
    log.close()


@pytest.fixture
def made_log(change_log: ChangeLog) -> Iterator[MadeLog]:
    made = MadeLog(change_log)
    yield made
    made.writer.close()


@pytest.fixture
def replicating(replica: Database, made_log: MadeLog) -> Replicating:
    return Replicating(replica, made_log)


@pytest.fixture
def taken(made_log: MadeLog, replicating: Replicating) -> Taken:
    return Taken(made_log, replicating)


# Changes of a table that the replica has.


class Rows:
    """Makes changes of one table version out of PostgreSQL's texts."""

    def __init__(self, table: TableSchema) -> None:
        self.table = table
        self.codec = RowCodec(table)

    def insert(self, *values: str | None) -> Change:
        row, _ = self.codec.encode_row(_texts(values))
        return Change(Operation.INSERT, self.table.id, row=row)

    def update(
        self,
        *values: str | TextValue,
        key: Sequence[str | None] | None = None,
        old: Sequence[str | None] | None = None,
    ) -> Change:
        """`key`: the old row in full width, of which the key is sent; `old`: all of it is."""
        row, absent = self.codec.encode_row(_texts(values))
        return Change(
            Operation.UPDATE,
            self.table.id,
            old_key=None if key is None else self.codec.encode_key(_texts(key)),
            old_row=None if old is None else self.codec.encode_row(_texts(old))[0],
            row=row,
            absent=absent,
        )

    def delete(self, *values: str | None) -> Change:
        """`values`: the old row in full width."""
        if self.table.replica_identity is ReplicaIdentity.FULL:
            return Change(Operation.DELETE, self.table.id, old_row=self.codec.encode_row(_texts(values))[0])
        return Change(Operation.DELETE, self.table.id, old_key=self.codec.encode_key(_texts(values)))


def _texts(values: Sequence[str | TextValue]) -> list[TextValue]:
    return [value.encode() if isinstance(value, str) else value for value in values]


def rows_of(
    database: Database,
    name: str,
    *,
    identity: ReplicaIdentity = ReplicaIdentity.DEFAULT,
    columns: Sequence[str] | None = None,
    named: str | None = None,
) -> Rows:
    """The version of a table as pgoutput would describe it, read from a catalog that has the same table.

    `columns`: only these, in this order. `named`: another name for it in the log.
    """
    found = database.execute(
        """
        select a.attname, a.atttypid::bigint, a.atttypmod, format_type(a.atttypid, a.atttypmod),
               exists (select from pg_index i where i.indrelid = a.attrelid and i.indisprimary
                                                and a.attnum = any(i.indkey::int2[]))
          from pg_attribute a
         where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
         order by a.attnum
        """,
        [name],
    )
    full = identity is ReplicaIdentity.FULL
    by_name = {
        column: Column(column, oid, modifier, type_name, full or key)
        for column, oid, modifier, type_name, key in found
    }
    chosen = tuple(by_name[column] for column in columns or by_name)
    schema, _, table = (named or (name if "." in name else f"public.{name}")).partition(".")
    return Rows(TableSchema(schema, table, identity, chosen))


__all__ = ["UNCHANGED", "Applying", "Made", "MadeLog", "Replicating", "Rows", "Taken", "rows_of"]
