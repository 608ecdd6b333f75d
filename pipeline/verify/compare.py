"""Comparing the tables of a meeting: digests of all of them first, then what differs where they do."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.snapshot_reader import SnapshotReader
from connectors.postgres.copy.snapshot_tables import Observer, SnapshotTable
from connectors.postgres.digest import (
    KeyedRow,
    RowTooLong,
    Shape,
    bucket_digests,
    column_digests,
    rows_in_order,
    table_digest,
)
from connectors.postgres.session import Session
from pipeline.verify.differences import Differences, find_differences, name_columns, name_keys
from pipeline.verify.jobs import Job, Jobs, Part, Side
from pipeline.verify.meeting import Meeting, VerifyOptions
from pipeline.verify.pairing import Pair
from pipeline.verify.progress import Meter, VerifyProgress
from pipeline.verify.result import Difference, DifferingKey, TableResult
from pipeline.verify.watch import Watch
from schemas.errors import RetryLater
from schemas.lsn import format_lsn

_LOOK_S: Final = 0.2

OnProgress = Callable[[VerifyProgress], None]


@dataclass(frozen=True, slots=True)
class Compared:
    """changed: tables, by the source's OIDs, that were truncated or altered after the meeting."""

    results: tuple[TableResult, ...]
    changed: frozenset[int]


class Comparison:
    """One comparison of what met. `run` it once."""

    def __init__(
        self, options: VerifyOptions, watch: Watch, meeting: Meeting, on_progress: OnProgress
    ) -> None:
        self._options = options
        self._watch = watch
        self._on_progress = on_progress
        self._lsn = format_lsn(meeting.lsn)
        self._own = {Side.SOURCE: meeting.reader, Side.REPLICA: meeting.keeper} if meeting.locked else {}
        self._workers = 1 if meeting.locked else options.workers
        self._snapshots = {Side.SOURCE: meeting.source.name, Side.REPLICA: meeting.replica_snapshot}
        self._conninfos = {Side.SOURCE: options.source_conninfo, Side.REPLICA: options.replica_conninfo}
        self._observers = {
            side: Observer(conninfo, purpose=options.purpose) for side, conninfo in self._conninfos.items()
        }
        self._failures: list[BaseException] = []

    def run(self, pairs: Sequence[Pair]) -> Compared:
        """Raises what the first failing session raised."""
        total = sum(table.size_bytes for pair in pairs for table in (*pair.source.stored, *pair.replica))
        self._meter = Meter(len(pairs), total, time.monotonic())
        jobs = Jobs(pairs, self._on_done)
        try:
            self._read_all(jobs)
            results = [self._result(job) for job in jobs.jobs if not job.changed]
        finally:
            for observer in self._observers.values():
                observer.close()
        return Compared(
            tuple(result for result in results if result is not None),
            frozenset(job.pair.source.oid for job in jobs.jobs if job.changed),
        )

    def _read_all(self, jobs: Jobs) -> None:
        threads = [
            threading.Thread(target=self._read_parts, args=[jobs, side], name=f"verify {side.value} {i}")
            for side in Side
            for i in range(min(self._workers, jobs.parts(side)))
        ]
        for thread in threads:
            thread.daemon = True
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_LOOK_S)
                self._on_progress(self._meter.look(time.monotonic()))
        if self._failures:
            raise self._failures[0]

    def _read_parts(self, jobs: Jobs, side: Side) -> None:
        """One thread: reads parts of one side until all jobs are done, which another may have to do again."""
        try:
            with self._reader(side) as reader:
                while jobs.open and not self._failures:
                    part = jobs.take(side)
                    if part is None:
                        self._watch.pause(_LOOK_S / 10)
                    else:
                        self._read(jobs, part, reader)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that asked for it
            self._failures.append(error)

    def _read(self, jobs: Jobs, part: Part, reader: SnapshotReader) -> None:
        self._watch.check()
        shape = part.job.pair.shape
        try:
            with reader.reading([part.table]) as session:
                digest = table_digest(
                    session, part.table.table_name, shape, part.blocks, row_filter=part.table.row_filter
                )
        except RowTooLong:
            if not jobs.widen(part):
                raise
        except RetryLater as error:
            if error.code != "table-changed":
                raise
            jobs.changed(part)
        else:
            self._meter.read(digest.rows, part.size_bytes)
            jobs.read(part, digest)

    def _on_done(self, job: Job) -> None:
        self._meter.table_done()
        if job.changed:
            self._watch.tell(f"{job.pair.name} was truncated or altered meanwhile: it will be compared again")
        elif not job.equal and job.pair.replica:
            self._watch.tell(f"{job.pair.name} differs: looking for the rows")

    def _result(self, job: Job) -> TableResult | None:
        """None: the table changed before its rows could be looked at."""
        pair = job.pair
        result = TableResult(
            table=pair.name,
            lsn=self._lsn,
            rows=job.digests[Side.SOURCE].rows,
            replica_rows=job.digests[Side.REPLICA].rows,
            identical=job.equal and pair.problem is None,
            problem=pair.problem,
            left_out=pair.left_out,
        )
        if job.equal or not pair.replica or not pair.source.stored:
            return result
        try:
            found, keys = self._look_for_rows(pair)
        except RetryLater as error:
            if error.code != "table-changed":
                raise
            job.changed = True
            return None
        return replace(result, differing=found.count, differing_keys=keys)

    def _look_for_rows(self, pair: Pair) -> tuple[Differences, tuple[DifferingKey, ...]]:
        self._watch.check()
        with (
            self._reader(Side.SOURCE) as ours,
            self._reader(Side.REPLICA) as theirs,
            ours.reading(pair.source.stored) as source,
            theirs.reading(pair.replica) as replica,
        ):
            sides = ((source, pair.source.stored), (replica, pair.replica))
            found = find_differences(*differing_rows(sides, pair.shape))
            return found, _with_columns(name_keys(found, pair.shape.key), pair, sides)

    @contextlib.contextmanager
    def _reader(self, side: Side) -> Iterator[SnapshotReader]:
        observer, check = self._observers[side], self._watch.check
        if side in self._own:
            yield SnapshotReader(self._own[side], None, observer, check)
            return
        with self._watch.session(self._conninfos[side], purpose=self._options.purpose) as session:
            yield SnapshotReader(session, self._snapshots[side], observer, check)


ReadTables = tuple[Session, Sequence[SnapshotTable]]
Sides = Sequence[ReadTables]
"""The source's session with its table, the replica's with those that stand for it; both in a transaction."""


def differing_rows(sides: Sides, shape: Shape) -> tuple[Iterator[KeyedRow], Iterator[KeyedRow]]:
    """The rows of both sides in order, without most of those that are equal."""
    with ThreadPoolExecutor(len(sides), thread_name_prefix="verify rows") as pool:
        mine, other = pool.map(
            lambda side: bucket_digests(*_named(side), shape, row_filter=_filter(side)), sides
        )
        buckets = sorted(n for n in mine.keys() | other.keys() if mine.get(n) != other.get(n))
        if not buckets:
            return iter(()), iter(())
        ours, theirs = pool.map(
            lambda side: _begun(rows_in_order(*_named(side), shape, buckets, row_filter=_filter(side))), sides
        )
        return ours, theirs


def _named(side: ReadTables) -> tuple[Session, list[TableName]]:
    return side[0], [table.table_name for table in side[1]]


def _filter(side: ReadTables) -> str | None:
    """The publication's, of the source's table; a replica's tables have none."""
    return side[1][0].row_filter if side[1] else None


def _begun(rows: Iterator[KeyedRow]) -> Iterator[KeyedRow]:
    """The same rows once the server has sorted them: to let both servers do that at the same time."""
    first = list(itertools.islice(rows, 1))
    return itertools.chain(first, rows)


def _with_columns(keys: tuple[DifferingKey, ...], pair: Pair, sides: Sides) -> tuple[DifferingKey, ...]:
    """Say of rows that both sides have which columns differ."""
    changed = [tuple(key.key.values()) for key in keys if key.difference is Difference.CHANGED]
    if not changed or not pair.shape.key:
        return keys
    ours, theirs = (column_digests(*_named(side), pair.shape, changed) for side in sides)
    columns = [column.name for column in pair.shape.columns]
    differing = {
        key: tuple(
            column
            for column, mine, other in zip(columns, ours[key], theirs[key], strict=True)
            if mine != other
        )
        for key in ours.keys() & theirs.keys()
    }
    return name_columns(keys, differing)
