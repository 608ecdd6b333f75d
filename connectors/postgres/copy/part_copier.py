"""Copies parts of tables: one session in the source's snapshot, one in the replica.

Each part is one transaction of the replica, which also records that the part is there. The source's
lock on a table is released when the copier goes on to another table (P19).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.binary.wide_copy import copy_wide
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.copystream import Tick, stream_copy
from connectors.postgres.copy.run import CopyRun, finish_part, take_part
from connectors.postgres.copy.snapshot import ExportedSnapshot, begin_in_snapshot
from connectors.postgres.copy.snapshot_tables import Observer, SnapshotTable, lock_table
from connectors.postgres.replication.walsender import TOO_LONG, VALUE_TOO_LARGE
from connectors.postgres.session import Session, connect, wrapped
from schemas.errors import RefusedData

_TARGET_SETTINGS: Final = "set synchronous_commit = off"


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of `table` whose ctid's block is in [first_block, end_block), into `target`.

    The first part of a table has no lower and the last one no upper bound, so that together they hold
    every row whatever was appended since. `of`: how many parts the table has. `wide`: it has a row that COPY
    cannot send otherwise.
    """

    table: SnapshotTable
    target: TableName
    number: int
    of: int
    first_block: int
    end_block: int
    binary: bool
    size_bytes: int
    wide: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        """What names the part in keepstream.copy_part."""
        return *self.table.table_name, self.number


class NamesMissing(Exception):
    """A value of `table` (a regclass) names a relation that the replica does not have yet: indexes are made
    behind the rows."""

    def __init__(self, table: SnapshotTable) -> None:
        super().__init__(table.qualified_name)
        self.table = table


@dataclass(frozen=True, slots=True)
class CopierSetup:
    """What every copier of one attempt shares. indexes_follow: the replica gets its indexes after the
    rows."""

    source: str
    replica: str
    purpose: str
    snapshot: ExportedSnapshot
    observer: Observer
    run: CopyRun
    without_triggers: bool
    indexes_follow: bool = False


class PartCopier:
    """One worker's pair of sessions. After any exception: `close`, and open another one."""

    def __init__(self, setup: CopierSetup) -> None:
        """Imports the snapshot at once, so that it outlives the exporting session in this worker."""
        self._setup = setup
        self._locked: SnapshotTable | None = None
        self._source = connect(setup.source, purpose=setup.purpose)
        self._replica: Session | None = None
        try:
            begin_in_snapshot(self._source, setup.snapshot)
        except BaseException:
            self._source.close()
            raise

    @property
    def source(self) -> Session:
        """The session in the snapshot, for the steps that read before the rows."""
        return self._source

    def copy(self, part: Part, tick: Tick) -> int:
        """Copy one part; returns its rows, 0 if an earlier try had brought it.

        Raises TableChanged, SnapshotLost, NamesMissing where indexes follow, OperatorNeeded
        (`copy-replaced`), RefusedData (`value-too-large`: a row is, in this form), and what the servers say.
        """
        self._lock(part.table, tick)
        replica = self._open_replica()
        with wrapped(f"copying {part.table.qualified_name}"), replica.transaction():
            if not take_part(replica, self._setup.run, part.table.table_name, part.number):
                return 0
            try:
                rows = self._stream(part, replica, tick)
            except psycopg.DataError:
                # COPY writes an enum's labels of today, which the replica has by their names of the snapshot
                self._setup.observer.require_unchanged(part.table)
                raise
            except psycopg.errors.UndefinedTable as missing:
                if not self._setup.indexes_follow:
                    raise
                raise NamesMissing(part.table) from missing
            # what a name means can change without a lock on the table: its schema may be renamed
            self._setup.observer.require_unchanged(part.table)
            finish_part(replica, self._setup.run, part.table.table_name, part.number, rows)
        return rows

    def _stream(self, part: Part, replica: Session, tick: Tick) -> int:
        try:
            if part.wide:
                return copy_wide(
                    self._source,
                    replica,
                    table=part.table.table_name,
                    target=part.target,
                    columns=part.table.columns,
                    where=block_range(part),
                    tick=tick,
                )
            read, write = copy_statements(part)
            return stream_copy(self._source, replica, read=read, write=write, tick=tick)
        except (psycopg.errors.InternalError_, psycopg.errors.ProgramLimitExceeded) as exc:
            self.close()
            if re.search(TOO_LONG, str(exc)):
                raise value_too_large(part.table.qualified_name) from exc
            raise
        except BaseException:
            self.close()  # in the middle of a COPY there is nothing else to do with them
            raise

    def _lock(self, table: SnapshotTable, tick: Tick) -> None:
        """P19: lock, then compare, and keep the lock until the next table."""
        if self._locked == table:
            return
        if self._locked is not None:
            with wrapped("going on to the next table"):
                self._source.execute("rollback")
            begin_in_snapshot(self._source, self._setup.snapshot)
        self._locked = table
        lock_table(self._source, table, tick)
        self._setup.observer.require_unchanged(table)

    def _open_replica(self) -> Session:
        if self._replica is None:
            self._replica = connect(self._setup.replica, purpose=self._setup.purpose)
            with wrapped("preparing the replica's session"):
                self._replica.execute(_TARGET_SETTINGS)
                if self._setup.without_triggers:
                    self._replica.execute("set session_replication_role = replica")
        return self._replica

    def close(self) -> None:
        self._source.close()
        if self._replica is not None:
            self._replica.close()


def value_too_large(table: str) -> RefusedData:
    return RefusedData(
        f"a row of {table} is too long for COPY, whose limit is 1 GB",
        code=VALUE_TOO_LARGE,
        hint="Exclude the table under source.tables.exclude, or shorten its longest values. Of a bytea"
        " its bytes count, of everything else its text.",
    )


def copy_statements(part: Part) -> tuple[str, str]:
    """COPY … TO STDOUT for the source, COPY … FROM STDIN for the replica."""
    columns = sql.SQL(", ").join(map(sql.Identifier, part.table.columns))
    options = sql.SQL("format binary" if part.binary else "format text")
    read = sql.SQL("copy (select {} from only {}{}) to stdout ({})").format(
        columns, sql.Identifier(*part.table.table_name), block_range(part), options
    )
    # without a list COPY takes all columns that are not generated, which is then none
    listed = sql.SQL(" ({})").format(columns) if part.table.columns else sql.SQL("")
    write = sql.SQL("copy {}{} from stdin ({})").format(sql.Identifier(*part.target), listed, options)
    return read.as_string(), write.as_string()


def block_range(part: Part) -> sql.Composable:
    """` where …` of the part's rows; nothing where it is all of them."""
    row_filter = part.table.row_filter
    bounds = [] if row_filter is None else [sql.SQL("({})").format(sql.SQL(row_filter))]
    if part.number > 0:
        bounds.append(sql.SQL("ctid >= {}::pg_catalog.tid").format(sql.Literal(f"({part.first_block},0)")))
    if part.number < part.of - 1:
        bounds.append(sql.SQL("ctid < {}::pg_catalog.tid").format(sql.Literal(f"({part.end_block},0)")))
    if not bounds:
        return sql.SQL("")
    return sql.SQL(" where ") + sql.SQL(" and ").join(bounds)
