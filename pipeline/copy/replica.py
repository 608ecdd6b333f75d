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
from typing import Final

import psycopg
from psycopg import sql

from connectors.failpoints import failpoint
from connectors.postgres import copy_run, leftovers, source_schema
from connectors.postgres.copy_run import CopyRun, Deferred
from connectors.postgres.part_copier import CopierSetup, PartCopier
from connectors.postgres.pgtools import find_pgtools
from connectors.postgres.prepared import find_targets, silence_triggers
from connectors.postgres.progress import wrapped
from connectors.postgres.sequences import SequenceValue, advance_sequences, read_sequences
from connectors.postgres.session import Session, connect
from connectors.postgres.snapshot import (
    Blocker,
    ExportedSnapshot,
    SnapshotLost,
    TableChanged,
    export_snapshot,
    held_back,
    lock_blockers,
    wait_until_visible,
)
from connectors.postgres.snapshot_tables import (
    Observer,
    SnapshotTable,
    TableName,
    named_tables,
    published_tables,
)
from connectors.postgres.source_schema import ForeignKey, SourceSchema
from pipeline.config import Initial
from pipeline.copy.options import CopyOptions
from pipeline.copy.plan import plan_parts
from pipeline.copy.progress import CopyMeter, CopyPhase, CopyProgress
from pipeline.copy.rows import CopyStopped, RowCopy, wait_for
from pipeline.copy.schema import DumpedSchema, SchemaTools
from pipeline.copy.toc import TocChoice, choose
from schemas.errors import KeepstreamError, OperatorNeeded, RetryLater
from schemas.lsn import Position, format_lsn

_REPORT_S: Final = 0.5
_VISIBLE_LIMIT_S: Final = 600.0
_CANCEL_EVERY_S: Final = 0.5


def copy_replica(
    options: CopyOptions, on_progress: Callable[[CopyProgress], None], stop: threading.Event
) -> Position:
    """Copy the source into the replica and return the position at which it now stands.

    Begins anew where a killed copy left the replica half made. `on_progress` is called from this thread
    about twice a second. Raises RetryLater (call again later; `copy-stopped` after `stop` was set) or
    OperatorNeeded; the replica is then empty, or marked as being copied.
    """
    with ExitStack() as resources:
        try:
            return FirstCopy(options, on_progress, stop, resources).run()
        except KeepstreamError as error:
            if stop.is_set() and not isinstance(error, CopyStopped):
                # a cancelled statement or an ended program is how our own wish came about
                raise CopyStopped("the copy was stopped", code="copy-stopped") from error
            raise


class FirstCopy:
    """One call of `copy_replica`: its sessions, its meter, and the steps."""

    def __init__(
        self,
        options: CopyOptions,
        on_progress: Callable[[CopyProgress], None],
        stop: threading.Event,
        resources: ExitStack,
    ) -> None:
        self._options = options
        self._on_progress = on_progress
        self._stop = stop
        self._meter = CopyMeter()
        self._reported_at = 0.0
        self._snapshot: ExportedSnapshot | None = None
        self._run: CopyRun | None = None
        self._volatile: set[TableName] = set()
        self._observer = Observer(options.source_conninfo, purpose=options.purpose)
        resources.callback(self._observer.close)
        self._replica = resources.enter_context(
            contextlib.closing(connect(options.replica_conninfo, purpose=options.purpose))
        )
        resources.enter_context(_cancelled_by(stop, [self._replica, self._observer.session]))
        self._replica_role = copy_run.may_switch_triggers_off(self._replica)

    def run(self) -> Position:
        options = self._options
        resumed = copy_run.find_unfinished(self._replica, options.pipeline, initial=options.initial.value)
        self._preflight(resumed)
        run = self._begin(resumed)
        if options.initial is Initial.NONE:
            assert options.position is not None
            return self._complete(run, options.position)
        return self._copy_until_whole(run)

    # Before anything is made.

    def _preflight(self, resumed: bool) -> None:
        """What can be known to fail later fails here, with nothing made."""
        if self._options.initial is Initial.NONE:
            return
        self._tick()
        tables = self._read_tables(self._observer.session)
        if self._options.initial is Initial.DATA:
            targets = find_targets(self._replica, tables, replica_role=self._replica_role)
            filled = [] if resumed else leftovers.filled_tables(self._replica, list(targets.values()))
            _refuse_filled(filled)
            return
        schema = source_schema.read_source_schema(self._observer.session)
        source_schema.require_extensions(self._replica, schema.extensions)
        source_schema.require_roles(self._replica, schema.policy_roles)
        find_pgtools(self._source_major(), configured=self._options.pg_bin)
        _refuse_objects([] if resumed else leftovers.user_objects(self._replica))

    def _begin(self, resumed: bool) -> CopyRun:
        """The marker, before any object. A killed copy's sessions are ended before and after it, so that
        none of them can commit once the token is ours."""
        application = self._options.application_name
        if resumed:
            copy_run.end_sessions(self._replica, application)
        run = copy_run.begin_run(
            self._replica,
            self._options.pipeline,
            stream=self._options.stream,
            initial=self._options.initial.value,
            place=self._options.place,
            resumed=resumed,
        )
        failpoint("copy.marker_written")
        if resumed:
            copy_run.end_sessions(self._replica, application)
            copy_run.end_sessions(self._observer.session, application)
        self._run = run
        return run

    # Attempts: each with a snapshot of its own.

    def _copy_until_whole(self, run: CopyRun) -> Position:
        if run.resumed:
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
            self._forget_snapshot()
            self._clear(run)

    def _clear(self, run: CopyRun) -> None:
        self._enter(CopyPhase.CLEARING)
        if self._options.initial is Initial.COPY:
            leftovers.drop_leftovers(self._replica, run, self._tick)
        else:
            tables = self._read_tables(self._observer.session)
            targets = find_targets(self._replica, tables, replica_role=self._replica_role)
            leftovers.empty_tables(self._replica, sorted(set(targets.values())), self._tick)
        copy_run.forget_parts(self._replica, run)

    def _attempt(self, run: CopyRun) -> Position:
        self._enter(CopyPhase.SNAPSHOT)
        with ExitStack() as resources:
            snapshot = resources.enter_context(self._export())
            self._snapshot = snapshot
            failpoint("copy.snapshot_taken")
            copiers = self._import_all(run, snapshot, resources)
            reader = copiers[0].source
            wait_until_visible(
                reader,
                self._options.source_conninfo,
                purpose=self._options.purpose,
                limit_s=_VISIBLE_LIMIT_S,
                tick=self._tick,
            )
            tables = self._read_tables(reader)
            sequences = read_sequences(self._observer.session)
            schema = self._begin_schema(reader, tables, snapshot, resources)
            self._copy_rows(run, tables, copiers, resources)
            failpoint("copy.data_copied")
            position = Position(snapshot.lsn)
            self._forget_snapshot(snapshot)
            self._finish_schema(run, schema)
            failpoint("copy.postdata_restored")
        self._finish(tables, sequences)
        return self._complete(run, position)

    def _export(self) -> contextlib.AbstractContextManager[ExportedSnapshot]:
        def waiting(blockers: list[Blocker]) -> None:
            self._meter.blockers = tuple(blockers)
            self._tick(look_for_locks=False)

        return export_snapshot(
            self._options.source_conninfo,
            purpose=self._options.purpose,
            observer=self._observer.session,
            limit_s=self._options.snapshot_limit_s,
            on_wait=waiting,
        )

    def _import_all(self, run: CopyRun, snapshot: ExportedSnapshot, resources: ExitStack) -> list[PartCopier]:
        """P17: all workers import at once."""
        self._meter.snapshot_lsn = format_lsn(snapshot.lsn)
        self._meter.snapshot_taken_at = snapshot.taken_at
        self._meter.blockers = ()
        setup = CopierSetup(
            source=self._options.source_conninfo,
            replica=self._options.replica_conninfo,
            purpose=self._options.purpose,
            snapshot=snapshot,
            observer=self._observer,
            run=run,
            without_triggers=self._replica_role,
        )
        self._setup = setup
        copiers = []
        for _ in range(self._options.workers):
            copiers.append(PartCopier(setup))
            resources.callback(copiers[-1].close)
        return copiers

    def _read_tables(self, reader: Session) -> list[SnapshotTable]:
        if self._options.publication is not None:
            return published_tables(reader, self._options.publication)
        return named_tables(reader, self._options.tables)

    # The steps of one attempt.

    def _begin_schema(
        self, reader: Session, tables: list[SnapshotTable], snapshot: ExportedSnapshot, resources: ExitStack
    ) -> _Schema | None:
        """Make tables, types, functions; nothing where the schema is there already."""
        if self._options.initial is not Initial.COPY:
            return None
        self._enter(CopyPhase.SCHEMA)
        facts = source_schema.read_source_schema(reader)
        tools = SchemaTools(
            tools=find_pgtools(self._source_major(), configured=self._options.pg_bin),
            source=self._options.source_conninfo,
            replica=self._options.replica_conninfo,
            application_name=self._options.application_name,
            stop=self._stop,
        )
        dumped = DumpedSchema(tools)
        resources.callback(dumped.close)
        with_lz4 = source_schema.knows_lz4(self._replica)
        self._aside(lambda: dumped.dump(snapshot, with_lz4=with_lz4))
        schema = _Schema(
            dumped, facts, tables, source_schema.existing_schemas(self._replica), self._replica_role
        )
        self._restore(schema, "pre-data", CopyPhase.SCHEMA, jobs=1)
        failpoint("copy.predata_restored")
        return schema

    def _restore(self, schema: _Schema, section: str, phase: CopyPhase, *, jobs: int) -> None:
        choice = schema.choice(section)
        self._meter.left_out = tuple(dict.fromkeys((*self._meter.left_out, *choice.left_out)))
        self._meter.begin_items(phase, len(choice.kept))

        def made(item: str) -> None:
            self._meter.items_done += 1
            self._meter.item = item

        self._aside(lambda: schema.dumped.restore(section, choice, jobs=jobs, on_item=made))

    def _copy_rows(
        self,
        run: CopyRun,
        tables: list[SnapshotTable],
        copiers: Sequence[PartCopier],
        resources: ExitStack,
    ) -> None:
        if self._options.initial is Initial.COPY:
            targets = {table.oid: table.table_name for table in tables}
        else:
            targets = find_targets(self._replica, tables, replica_role=self._replica_role)
        parts = plan_parts(
            tables,
            targets=targets,
            volatile=self._volatile,
            part_bytes=self._options.part_bytes,
            # a prepared replica may have other types under the same names, which only text survives
            same_major=self._same_major() and self._options.initial is Initial.COPY,
        )
        self._meter.plan(parts, time.monotonic())
        self._enter(CopyPhase.ROWS)
        missing = parts
        while missing:
            RowCopy(self._setup, missing, self._meter, self._stop).run(copiers, self._tick)
            # a replica that crashed may have lost commits, which were not waited for
            there = copy_run.finished_parts(self._replica, run)
            missing = [part for part in parts if part.key not in there]
            if missing:
                copiers = [PartCopier(self._setup) for _ in copiers]
                for copier in copiers:
                    resources.callback(copier.close)

    def _finish_schema(self, run: CopyRun, schema: _Schema | None) -> None:
        """Indexes, constraints, triggers; and what the replica is made without is written down."""
        if schema is None:
            return
        self._enter(CopyPhase.INDEXES)
        self._restore(schema, "post-data", CopyPhase.INDEXES, jobs=max(2, self._options.workers))
        deferred = schema.deferred_keys()
        deferred += silence_triggers(self._replica, replica_role=self._replica_role)
        copy_run.defer(self._replica, run, deferred)
        told = (f"{d.kind} {d.object}: {d.reason}" for d in deferred)
        self._meter.left_out = tuple(dict.fromkeys((*self._meter.left_out, *told)))

    def _finish(self, tables: list[SnapshotTable], sequences: list[SequenceValue]) -> None:
        missing = advance_sequences(self._replica, sequences)
        self._meter.left_out += tuple(f"sequence {s.schema}.{s.name}: not in the replica" for s in missing)
        self._enter(CopyPhase.ANALYZE)
        with ThreadPoolExecutor(self._options.workers, thread_name_prefix="analyze") as pool:
            lists = [tables[start :: self._options.workers] for start in range(self._options.workers)]
            wait_for([pool.submit(self._analyze, some) for some in lists if some], self._tick)

    def _analyze(self, tables: Sequence[SnapshotTable]) -> None:
        with connect(self._options.replica_conninfo, purpose=self._options.purpose) as session:
            for table in tables:
                if self._stop.is_set():
                    return
                with (
                    wrapped(f"analyzing {table.qualified_name}"),
                    contextlib.suppress(
                        psycopg.errors.UndefinedTable  # a partition that the replica does not have
                    ),
                ):
                    session.execute(sql.SQL("analyze {}").format(sql.Identifier(*table.table_name)))

    def _complete(self, run: CopyRun, position: Position) -> Position:
        failpoint("copy.before_completion")
        copy_run.complete_run(self._replica, run, position, place=self._options.place)
        failpoint("copy.after_completion")
        self._enter(CopyPhase.DONE)
        return position

    # What is told meanwhile.

    def _enter(self, phase: CopyPhase) -> None:
        self._meter.phase = phase
        self._reported_at = 0.0
        if phase is CopyPhase.DONE:
            self._on_progress(self._meter.progress(time.monotonic()))
        else:
            self._tick()

    def _tick(self, *, look_for_locks: bool = True) -> None:
        """Tell how far we are, at most twice a second. Raises CopyStopped, OperatorNeeded (`copy-replaced`)."""
        if self._stop.is_set():
            raise CopyStopped("the copy was stopped", code="copy-stopped")
        now = time.monotonic()
        if now - self._reported_at < _REPORT_S:
            return
        self._reported_at = now
        if self._run is not None:
            copy_run.require_ours(self._replica, self._run)
        if self._snapshot is not None:
            self._meter.held_back = held_back(self._observer.session, self._snapshot)
        if look_for_locks:
            self._meter.blockers = tuple(
                lock_blockers(self._observer.session, self._options.application_name)
            )
        self._on_progress(self._meter.progress(now))

    def _aside(self, work: Callable[[], None]) -> None:
        """Do something slow in another thread while this one goes on telling."""
        with ThreadPoolExecutor(1, thread_name_prefix="copy-aside") as pool:
            wait_for([pool.submit(work)], self._tick)

    def _forget_snapshot(self, snapshot: ExportedSnapshot | None = None) -> None:
        if snapshot is not None:
            snapshot.close()
        self._snapshot = None
        self._meter.held_back = self._meter.snapshot_taken_at = None

    def _source_major(self) -> int:
        return self._observer.session.info.server_version // 10000

    def _same_major(self) -> bool:
        return self._replica.info.server_version // 10000 == self._source_major()


class _Schema:
    """A dump and what of it the replica gets."""

    def __init__(
        self,
        dumped: DumpedSchema,
        facts: SourceSchema,
        tables: Sequence[SnapshotTable],
        existing: frozenset[str],
        replica_role: bool,
    ) -> None:
        self.dumped = dumped
        self._facts = facts
        self._existing = existing
        filled = {table.table_name for table in tables}.union(*(table.ancestors for table in tables))
        self._omitted = {
            key.oid: (key, reason)
            for key in facts.foreign_keys
            if (reason := _reason_to_omit(key, filled, replica_role))
        }

    def choice(self, section: str) -> TocChoice:
        return choose(
            self.dumped.entries(section),
            existing_schemas=frozenset(
                oid for oid, name in self._facts.schemas.items() if name in self._existing
            ),
            existing_schema_names=self._existing,
            unavailable=self._facts.foreign,
            foreign_keys=frozenset(self._omitted),
        )

    def deferred_keys(self) -> list[Deferred]:
        return [
            Deferred("foreign key", str(key), reason, key.statement) for key, reason in self._omitted.values()
        ]


def _reason_to_omit(key: ForeignKey, filled: set[TableName], replica_role: bool) -> str:
    """Why the replica is made without this foreign key; empty if it gets it."""
    if key.table in filled and key.referenced not in filled:
        return f"it refers to {'.'.join(key.referenced)}, whose rows are not replicated"
    if not replica_role:
        return "our role may not set session_replication_role, so it would act on rows being applied"
    return ""


def _refuse_objects(objects: Sequence[leftovers.UserObject]) -> None:
    if objects:
        more = f" and {len(objects) - 1} more objects" if len(objects) > 1 else ""
        raise OperatorNeeded(
            f"the replica is not empty: it has {objects[0]}{more}",
            code="replica-not-empty",
            hint="Name an empty database, or drop what is there; or set `initial: data` if only rows are "
            "missing, `initial: none` if all is there and equal.",
        )


def _refuse_filled(tables: Sequence[TableName]) -> None:
    if tables:
        more = f" and {len(tables) - 1} more" if len(tables) > 1 else ""
        raise OperatorNeeded(
            f"the replica has rows in {'.'.join(tables[0])}{more}",
            code="replica-not-empty",
            hint="With `initial: data` the tables to be replicated must be empty: truncate them; or set "
            "`initial: none` if they are equal to the source's.",
        )


@contextlib.contextmanager
def _cancelled_by(stop: threading.Event, sessions: Sequence[Session]) -> Iterator[None]:
    """While the context lasts, `stop` cancels what these sessions run, again and again: a statement may
    begin just after a cancel."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_CANCEL_EVERY_S):
            if not stop.is_set():
                continue
            for session in sessions:
                with contextlib.suppress(psycopg.Error):
                    if not session.closed:
                        session.cancel_safe(timeout=2.0)

    watcher = threading.Thread(target=watch, name="copy-stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
