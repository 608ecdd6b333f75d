"""Comparing the tables of two snapshots, several at a time."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from connectors.postgres.digest import (
    Digest,
    KeyedRow,
    bucket_digests,
    column_names,
    keyed_rows,
    table_digest,
)
from connectors.postgres.session import connect, wrapped
from connectors.postgres.snapshot import begin_in_snapshot
from connectors.postgres.snapshot_tables import SnapshotTable
from pipeline.verify.meeting import Meeting, VerifyOptions
from pipeline.verify.result import LISTED_KEYS, Difference, DifferingKey, TableResult
from schemas.errors import KeepstreamError

BUCKETS_AT_ONCE = 32
_ROW_DIGEST = "md5 of the row"

OnTable = Callable[[TableResult], None]


def compare_tables(
    options: VerifyOptions, meeting: Meeting, keys: dict[int, tuple[str, ...]], on_table: OnTable
) -> tuple[TableResult, ...]:
    """Every table of the meeting, largest first, on `options.workers` pairs of sessions.

    `keys`: columns that identify a row, by the table's OID; () where nothing does. Raises what the
    first failing worker raised.
    """
    waiting: queue.SimpleQueue[SnapshotTable] = queue.SimpleQueue()
    for table in sorted(meeting.tables, key=lambda table: -table.size_bytes):
        waiting.put(table)
    results: list[TableResult] = []
    failures: list[KeepstreamError] = []
    lock = threading.Lock()

    def work() -> None:
        try:
            with Pair(options, meeting) as pair:
                while not failures:
                    try:
                        table = waiting.get_nowait()
                    except queue.Empty:
                        return
                    result = pair.compare(table, keys.get(table.oid, ()))
                    with lock:
                        results.append(result)
                        on_table(result)
        except KeepstreamError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, name=f"verify {i}", daemon=True) for i in range(options.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return tuple(sorted(results, key=lambda result: result.table))


class Pair:
    """A session on each side, in the meeting's snapshots."""

    def __init__(self, options: VerifyOptions, meeting: Meeting) -> None:
        purpose = f"{options.name}:verify"
        self._source = connect(options.source_conninfo, purpose=purpose)
        self._replica = connect(options.replica_conninfo, purpose=purpose)
        begin_in_snapshot(self._source, meeting.source)
        with wrapped("beginning to read in the replica's snapshot"):
            self._replica.execute("begin isolation level repeatable read, read only")
            self._replica.execute(f"set transaction snapshot '{meeting.replica_snapshot}'")

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()
        self._replica.close()

    def compare(self, table: SnapshotTable, key: Sequence[str]) -> TableResult:
        """One table; its differing keys if there are any."""
        name, columns = table.table_name, table.columns
        there = column_names(self._replica, name)
        missing = sorted(set(columns) - there) if there is not None else []
        ours = table_digest(self._source, name, columns)
        if there is None or missing:
            problem = (
                "the replica has no such table"
                if there is None
                else f"the replica has no column {', '.join(missing)}"
            )
            return TableResult(table.qualified_name, ours.rows, 0, identical=False, problem=problem)
        theirs = table_digest(self._replica, name, columns)
        if ours == theirs:
            return TableResult(table.qualified_name, ours.rows, theirs.rows, identical=True)
        found = self._differences(table, key)
        return TableResult(
            table.qualified_name,
            ours.rows,
            theirs.rows,
            identical=False,
            differing=len(found),
            differing_keys=tuple(found[:LISTED_KEYS]),
        )

    def _differences(self, table: SnapshotTable, key: Sequence[str]) -> list[DifferingKey]:
        by = tuple(key) or table.columns
        ours = bucket_digests(self._source, table.table_name, table.columns, by)
        theirs = bucket_digests(self._replica, table.table_name, table.columns, by)
        buckets = sorted(bucket for bucket in ours.keys() | theirs.keys() if _differ(ours, theirs, bucket))
        found: list[DifferingKey] = []
        for start in range(0, len(buckets), BUCKETS_AT_ONCE):
            some = buckets[start : start + BUCKETS_AT_ONCE]
            sides = [
                keyed_rows(side, table.table_name, table.columns, by, some)
                for side in (self._source, self._replica)
            ]
            found += differing_keys(*sides) if not key else differing_keys(*sides, columns=tuple(key))
        return found


def _differ(ours: dict[int, Digest], theirs: dict[int, Digest], bucket: int) -> bool:
    return ours.get(bucket) != theirs.get(bucket)


def differing_keys(
    ours: Sequence[KeyedRow], theirs: Sequence[KeyedRow], *, columns: tuple[str, ...] = ()
) -> list[DifferingKey]:
    """What differs between two sets of rows. Without key columns, rows are told apart by their digest
    alone and named by it, each as often as it differs."""
    if not columns:
        surplus = Counter(row.digest for row in ours)
        surplus.subtract(Counter(row.digest for row in theirs))
        return [
            DifferingKey({_ROW_DIGEST: digest}, Difference.MISSING if count > 0 else Difference.EXTRA)
            for digest, count in sorted(surplus.items())
            for _ in range(abs(count))
        ]
    mine = {row.key: row.digest for row in ours}
    other = {row.key: row.digest for row in theirs}
    found = []
    for key in sorted(mine.keys() | other.keys(), key=_sort_key):
        if mine.get(key) != other.get(key):
            difference = (
                Difference.MISSING
                if key not in other
                else Difference.EXTRA
                if key not in mine
                else Difference.CHANGED
            )
            found.append(DifferingKey(dict(zip(columns, key, strict=True)), difference))
    return found


def _sort_key(key: tuple[str | None, ...]) -> tuple[tuple[int, str], ...]:
    return tuple((len(value or ""), value or "") for value in key)
