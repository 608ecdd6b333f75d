"""`copy_replica`: the first copy, step by step.

The marker comes before any object and the position after everything else, so that at every moment the
replica is empty, marked as being copied, or a prefix of the source (P20). A copy that was killed is
never continued, because its snapshot died with it: what it made is cleared away first.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from psycopg import sql

from connectors.failpoints import failpoint
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.catalog.source_schema import existing_schemas, knows_lz4, read_source_schema
from connectors.postgres.catalog.tables import count_large_objects
from connectors.postgres.copy import run as copy_run
from connectors.postgres.copy.part_copier import CopierSetup, PartCopier
from connectors.postgres.copy.run import CopyRun
from connectors.postgres.copy.snapshot import ExportedSnapshot, SnapshotLost, TableChanged, export_snapshot
from connectors.postgres.copy.snapshot_tables import Observer, SnapshotTable
from connectors.postgres.copy.visibility import wait_until_visible
from connectors.postgres.ddl import left_out, rights_now
from connectors.postgres.ddl.rights_now import Rights
from connectors.postgres.failover.primary import require_primary
from connectors.postgres.large_objects.writing import require_none
from connectors.postgres.limits.keys import read_unmakeable
from connectors.postgres.limits.relaxing import relax
from connectors.postgres.replica import leftovers
from connectors.postgres.replica.deferred import defer, forget
from connectors.postgres.replica.prepared import find_targets, silence_triggers
from connectors.postgres.replica.row_security import lift_forced, read_policed
from connectors.postgres.sequences.reading import read_all
from connectors.postgres.sequences.setting import advance_sequences
from connectors.postgres.session import Session, connect, wrapped
from pipeline.cancelling import cancelled_by
from pipeline.capture.history.timelines import require_lineage
from pipeline.config import Initial
from pipeline.copy.choice import SchemaChoice, choose_schema
from pipeline.copy.large_objects import clear_large_objects, copy_large_objects
from pipeline.copy.options import CopyOptions
from pipeline.copy.plan import plan_parts
from pipeline.copy.preflight import major_of, require_copyable, require_empty, tables_to_copy, tools_for
from pipeline.copy.progress import CopyMeter, CopyPhase, CopyProgress
from pipeline.copy.rows import RowCopy, wait_for
from pipeline.copy.schema import DumpedSchema, SchemaTools
from pipeline.copy.stopping import CopyStopped
from pipeline.copy.watch import CopyWatch
from schemas.errors import KeepstreamError, OperatorNeeded, RetryLater
from schemas.identifiers import qualified
from schemas.lsn import Position
from schemas.sequence import SequenceValue

_VISIBLE_LIMIT_S: Final = 600.0


def copy_replica(
    options: CopyOptions, on_progress: Callable[[CopyProgress], None], stop: threading.Event
) -> Position:
    """Copy the source into the replica and return the position at which it now stands.

    Begins anew where a killed copy left the replica half made. `on_progress` is called from this thread
    about twice a second. Raises RetryLater (call again later; `copy-stopped` after `stop` was set) or
    OperatorNeeded; the replica is then as it was, or marked as being copied.
    """
    with ExitStack() as resources:
        try:
            return _FirstCopy(options, on_progress, stop, resources).run()
        except KeepstreamError as error:
            if stop.is_set() and not isinstance(error, CopyStopped):
                raise CopyStopped from error  # a cancelled statement or ended program was our own wish
            raise


@dataclass(frozen=True, slots=True)
class _Schema:
    dumped: DumpedSchema
    choice: SchemaChoice
    tables: Sequence[SnapshotTable]
    rights: Rights | None


class _FirstCopy:
    """One call of `copy_replica`: its sessions and its steps."""

    def __init__(
        self,
        options: CopyOptions,
        on_progress: Callable[[CopyProgress], None],
        stop: threading.Event,
        resources: ExitStack,
    ) -> None:
        self._options = options
        self._stop = stop
        self._volatile: set[TableName] = set()
        self._awaiting: set[TableName] = set()
        self._observer = Observer(options.source_conninfo, purpose=options.purpose)
        resources.callback(self._observer.close)
        replica = connect(options.replica_conninfo, purpose=options.purpose)
        self._replica = resources.enter_context(contextlib.closing(replica))
        resources.enter_context(cancelled_by(stop, [replica, self._observer.session]))
        self._replica_role = copy_run.may_switch_triggers_off(replica)
        self._meter = CopyMeter()
        self._watch = CopyWatch(
            self._meter,
            application=options.application_name,
            replica=replica,
            observer=self._observer,
            on_progress=on_progress,
            stop=stop,
        )

    def run(self) -> Position:
        options = self._options
        copy_run.require_free(self._replica, options.pipeline, initial=options.initial.value)
        self._watch.enter(CopyPhase.PREPARING)
        run = self._begin(self._preflight())
        if options.position is not None:  # initial: none
            return self._complete(run, options.position)
        return self._copy_until_whole(run)

    def _preflight(self) -> list[TableName]:
        targets: list[TableName] = []
        # looking at a table waits for DDL on it: in a session of its own, which `stop` cancels
        with self._reader() as reader:
            self._watch.aside(
                lambda: targets.extend(
                    require_copyable(
                        self._options,
                        source=reader,
                        replica=self._replica,
                        replica_role=self._replica_role,
                    )
                )
            )
        return targets

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Session]:
        """A session on the source, besides the observer's, that `stop` cancels."""
        with (
            connect(self._options.source_conninfo, purpose=self._options.purpose) as reader,
            cancelled_by(self._stop, [reader]),
        ):
            yield reader

    def _begin(self, targets: Sequence[TableName]) -> CopyRun:
        """Write the marker, before any object. A killed copy's sessions are ended before and after it, so
        that none of them can commit once the token is ours."""
        application = self._options.application_name
        run = copy_run.begin_run(
            self._replica,
            self._options.pipeline,
            stream=self._options.stream,
            initial=self._options.initial.value,
            place=self._options.place,
            application=application,
            require_empty=lambda: self._require_empty(targets),
        )
        self._watch.guard(run)
        failpoint("copy.marker_written")
        if run.has_leftovers:
            copy_run.end_sessions(self._replica, application)
            copy_run.end_sessions(self._observer.session, application)
        return run

    def _require_empty(self, targets: Sequence[TableName]) -> None:
        require_empty(self._options, self._replica, targets)
        if self._options.initial is not Initial.NONE and count_large_objects(self._observer.session):
            require_none(self._replica)

    def _copy_until_whole(self, run: CopyRun) -> Position:
        """Attempts, each with a snapshot of its own, until one of them outlives its copy."""
        if run.has_leftovers:
            self._clear(run)
        while True:
            try:
                return self._attempt(run)
            except (TableChanged, SnapshotLost) as error:
                if self._meter.attempt == self._options.attempts:
                    raise
                self._meter.attempt += 1
                self._meter.restart_reason = error.message
                if isinstance(error, TableChanged):
                    self._volatile.add(error.table)
            self._watch.hold(None)
            self._clear(run)

    def _clear(self, run: CopyRun) -> None:
        self._watch.enter(CopyPhase.CLEARING)
        clear_large_objects(self._replica, run, self._watch)
        if self._options.initial is Initial.COPY:
            leftovers.drop_leftovers(self._replica, run, self._watch.tick, given_away=self._given_away())
        else:
            with self._reader() as reader:
                targets = self._targets(self._tables(reader))
            leftovers.empty_tables(self._replica, sorted(set(targets.values())), self._watch.tick)
        copy_run.forget_parts(self._replica, run)

    def _given_away(self) -> frozenset[tuple[str, str]]:
        """Objects that an earlier attempt may have given to others than our role."""
        if not rights_now.owns(self._options.policies):
            return frozenset()
        with self._reader() as reader:
            return frozenset((each.kind, each.identity) for each in leftovers.user_objects(reader))

    def _attempt(self, run: CopyRun) -> Position:
        self._watch.enter(CopyPhase.SNAPSHOT)
        with ExitStack() as resources:
            snapshot = resources.enter_context(self._export())
            self._watch.hold(snapshot)
            failpoint("copy.snapshot_taken")
            setup = self._setup(run, snapshot)
            copiers = _open_copiers(setup, self._options.workers, resources)
            reader = self._wait_until_visible(copiers)
            resources.enter_context(cancelled_by(self._stop, [reader]))
            tables = self._tables(reader)
            sequences = read_all(self._observer.session)
            schema = self._begin_schema(run, reader, tables, snapshot, resources)
            self._copy_rows(setup, tables, copiers)
            self._copy_large_objects(setup)
            failpoint("copy.data_copied")
            self._watch.hold(None)
            snapshot.close()
            self._finish_schema(run, schema)
            failpoint("copy.postdata_restored")
        self._finish(tables, sequences)
        return self._complete(run, Position(snapshot.lsn))

    def _export(self) -> ExportedSnapshot:
        """Of the log's own source: after a failover S would name a place in another history."""
        require_primary(self._observer.session)
        snapshot = export_snapshot(
            self._options.source_conninfo,
            purpose=self._options.purpose,
            observer=self._observer.session,
            limit_s=self._options.snapshot_limit_s,
            on_wait=self._watch.tick_waiting,
        )
        if self._options.lineage is not None:
            with ExitStack() as undo:
                undo.callback(snapshot.close)
                require_lineage(self._options.lineage, snapshot.system)
                undo.pop_all()
        return snapshot

    def _setup(self, run: CopyRun, snapshot: ExportedSnapshot) -> CopierSetup:
        return CopierSetup(
            source=self._options.source_conninfo,
            replica=self._options.replica_conninfo,
            purpose=self._options.purpose,
            snapshot=snapshot,
            observer=self._observer,
            run=run,
            without_triggers=self._replica_role,
            indexes_follow=self._options.initial is Initial.COPY,
        )

    def _wait_until_visible(self, copiers: Sequence[PartCopier]) -> Session:
        """P18; returns a session that may then read in the snapshot."""
        reader = copiers[0].source
        wait_until_visible(
            reader,
            self._options.source_conninfo,
            purpose=self._options.purpose,
            limit_s=_VISIBLE_LIMIT_S,
            tick=self._watch.tick,
        )
        return reader

    def _tables(self, reader: Session) -> list[SnapshotTable]:
        found: list[SnapshotTable] = []
        self._watch.aside(lambda: found.extend(tables_to_copy(self._options, reader)))
        return found

    def _begin_schema(
        self,
        run: CopyRun,
        reader: Session,
        tables: list[SnapshotTable],
        snapshot: ExportedSnapshot,
        resources: ExitStack,
    ) -> _Schema | None:
        """Make tables, types, functions; nothing where the schema is there already."""
        if self._options.initial is not Initial.COPY:
            return None
        self._watch.enter(CopyPhase.SCHEMA)
        tools = SchemaTools(
            tools=tools_for(self._options, reader),
            source=self._options.source_conninfo,
            replica=self._options.replica_conninfo,
            application_name=self._options.application_name,
            stop=self._stop,
        )
        dumped = resources.enter_context(contextlib.closing(DumpedSchema(tools)))
        with_lz4 = knows_lz4(self._replica)
        self._watch.aside(lambda: dumped.dump(snapshot, with_lz4=with_lz4))
        choice = choose_schema(
            read_source_schema(reader),
            tables,
            existing=existing_schemas(self._replica),
            replica_role=self._replica_role,
            unmakeable=read_unmakeable(reader, tables),
        )
        follows_rights = rights_now.wanted(self._options.policies)
        there = rights_now.read_rights(reader) if follows_rights else None
        schema = _Schema(dumped, choice, tables, there)
        self._restore(schema, "pre-data", CopyPhase.SCHEMA, jobs=1)
        self._relax(tables)
        copy_run.flush(self._replica, run)  # workers outlive a crash of the replica, its tables must, too
        failpoint("copy.predata_restored")
        return schema

    def _relax(self, tables: Sequence[SnapshotTable]) -> None:
        for table in tables:
            if table.has_list:
                with self._replica.transaction():
                    columns = relax(self._replica, table.table_name, table.columns)
                self._meter.leave_out(
                    f"values of {table.qualified_name}.{column}: the publication does not list it"
                    for column in columns
                )

    def _restore(self, schema: _Schema, section: str, phase: CopyPhase, *, jobs: int) -> None:
        choice = schema.choice.of(schema.dumped.entries(section))
        self._meter.leave_out(choice.left_out)
        self._meter.begin_items(phase, len(choice.kept))
        try:
            self._watch.aside(
                lambda: schema.dumped.restore(section, choice, jobs=jobs, on_item=self._meter.made_item)
            )
        except OperatorNeeded:
            for table in schema.tables:  # pg_dump writes an enum's label of today into a default
                self._observer.require_unchanged(table)
            raise

    def _copy_rows(self, setup: CopierSetup, tables: list[SnapshotTable], copiers: list[PartCopier]) -> None:
        parts = plan_parts(
            tables,
            targets=self._targets(tables),
            volatile=self._volatile,
            part_bytes=self._options.part_bytes,
            # a prepared replica may have other types under the same names, which only text survives
            may_be_binary=self._options.initial is Initial.COPY
            and major_of(self._replica) == major_of(self._observer.session),
        )
        self._meter.plan(parts, time.monotonic())
        self._watch.enter(CopyPhase.ROWS)
        rows = RowCopy(setup, parts, self._meter, self._stop)
        rows.run(copiers, self._watch.tick)
        self._awaiting = rows.left
        leftovers.empty_tables(self._replica, sorted(self._awaiting), self._watch.tick)
        self._meter.leave_out(
            f"rows of {qualified(*table)}, which name what is made behind them: they are copied after that"
            for table in sorted(self._awaiting)
        )
        copy_run.flush(self._replica, setup.run)
        wanted = {part.key for part in parts if part.table.table_name not in self._awaiting}
        missing = wanted - copy_run.finished_parts(self._replica, setup.run)
        if missing:
            # a replica that crashed loses commits that were not waited for
            raise RetryLater(
                f"the replica has lost {len(missing)} copied parts",
                code="copy-incomplete",
                hint="Look into the replica's log for a crash; the copy is begun anew.",
            )

    def _copy_large_objects(self, setup: CopierSetup) -> None:
        count = count_large_objects(self._observer.session)
        if count:
            self._watch.enter(CopyPhase.LARGE_OBJECTS)
            self._meter.begin_items(CopyPhase.LARGE_OBJECTS, count)
        # also where there are none any more: the snapshot tells
        self._watch.aside(lambda: copy_large_objects(setup, self._meter, self._stop))

    def _targets(self, tables: Sequence[SnapshotTable]) -> dict[int, TableName]:
        """Where each table's rows go, by its OID."""
        if self._options.initial is Initial.COPY:
            return {table.oid: table.table_name for table in tables}
        return find_targets(self._observer.session, self._replica, tables, replica_role=self._replica_role)

    def _finish_schema(self, run: CopyRun, schema: _Schema | None) -> None:
        """Indexes, constraints, triggers; what the replica is made without is written down there."""
        if schema is None:
            return
        self._watch.enter(CopyPhase.INDEXES)
        late = [table for table in schema.tables if table.table_name in self._awaiting]
        schema = replace(schema, choice=schema.choice.without_rows(late))
        self._restore(schema, "post-data", CopyPhase.INDEXES, jobs=max(2, self._options.workers))
        deferred = schema.choice.deferred()
        deferred += silence_triggers(self._replica, replica_role=self._replica_role)
        deferred += lift_forced(self._replica, read_policed(self._replica))
        forget(self._replica, run.name)  # of an earlier life of this pipeline
        defer(self._replica, run.name, deferred)
        self._meter.leave_out(f"{d.kind} {d.object}: {d.reason}" for d in deferred)
        if schema.rights is not None:
            options = self._options
            rights_now.level(self._replica, schema.rights, options.policies, replica=options.replica)

    def _finish(self, tables: list[SnapshotTable], sequences: list[SequenceValue]) -> None:
        behind = advance_sequences(self._replica, sequences)
        self._meter.leave_out(
            f"sequence {value.qualified_name}: the replica does not have it" for value in behind.missing
        )
        self._meter.leave_out(
            f"value {setting.value.last_value} of sequence {setting.value.qualified_name}: our role may not"
            " set it there, or it ends before"
            for setting in behind.refused
        )
        self._watch.enter(CopyPhase.ANALYZE)
        names = sorted(set(self._targets(tables).values()))
        workers = self._options.workers
        with ThreadPoolExecutor(workers, thread_name_prefix="copy-analyze") as pool:
            shares = [names[start::workers] for start in range(workers)]
            wait_for([pool.submit(self._analyze, share) for share in shares if share], self._watch.tick)

    def _analyze(self, tables: Sequence[TableName]) -> None:
        with (
            connect(self._options.replica_conninfo, purpose=self._options.purpose) as session,
            cancelled_by(self._stop, [session]),
        ):
            for table in tables:
                if self._stop.is_set():
                    return
                with wrapped(f"analyzing {qualified(*table)}"):
                    session.execute(sql.SQL("analyze {}").format(sql.Identifier(*table)))

    def _complete(self, run: CopyRun, position: Position) -> Position:
        failpoint("copy.before_completion")
        is_snapshot = self._options.position is None
        copy_run.complete_run(
            self._replica,
            run,
            position,
            place=self._options.place,
            is_snapshot=is_snapshot,
            on_complete=self._await_copies,
        )
        failpoint("copy.after_completion")
        self._watch.done()
        return position

    def _await_copies(self) -> None:
        """Of tables whose rows could not be taken, as if they had joined without them (decision 017)."""
        for table in sorted(self._awaiting):
            left_out.await_copy(self._replica, self._options.pipeline, table, replica=self._options.replica)


def _open_copiers(setup: CopierSetup, count: int, resources: ExitStack) -> list[PartCopier]:
    """P17: all of them import the snapshot at once."""
    copiers = []
    for _ in range(count):
        copiers.append(PartCopier(setup))
        resources.callback(copiers[-1].close)
    return copiers
