"""One table of a replica that stands at S, copied anew from the source's snapshot: all of it, or nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from connectors.failpoints import failpoint
from connectors.postgres.apply.catalog import TargetTable
from connectors.postgres.binary.wide_copy import copy_wide
from connectors.postgres.copy.part_copier import Part, block_range, copy_statements
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.mend.bringing import Copying, bring
from connectors.postgres.mend.fit import (
    columns_left_out,
    fitting_target,
    may_be_binary,
    own_columns,
    require_nothing_lost,
)
from connectors.postgres.mend.transaction import (
    begin_locked,
    bounded_chunks,
    clear_leftovers,
    commit_standing,
    empty_table,
    end_awaiting,
    prepare_session,
    users_of,
)
from connectors.postgres.session import Session
from pipeline.control.lineage import require_followed
from pipeline.copy.plan import plan_parts
from pipeline.copy.progress import CopyMeter, CopyPhase, CopyProgress
from pipeline.verify.meeting import HOLD_S
from pipeline.verify.standing import Standing
from schemas.errors import RetryLater
from schemas.lsn import Lsn

ACTION = "snapshot"
PART_BYTES = 128 * 1024 * 1024
"""So much of a table at a time: so long does an application's TRUNCATE or ALTER TABLE wait for us at most."""
_TELL_S = 0.5
_LET_PASS_S = 0.1

OnProgress = Callable[[CopyProgress], None]


@dataclass(frozen=True, slots=True)
class CopyWish:
    """reason: for keepstream.audit. truncate: where nothing refers to a table, empty it so, at its readers'
    expense."""

    reason: str = ""
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class Copied:
    """A table that was copied anew. own_columns: only the replica has them; they have their defaults now."""

    table: str
    lsn: Lsn
    rows: int
    own_columns: tuple[str, ...]
    took_s: float


class Recopy:
    """Copies tables of one standing replica, each in a transaction of its own. `tables`: all that will be."""

    def __init__(
        self,
        standing: Standing,
        tables: Sequence[SnapshotTable],
        wanted: CopyWish,
        on_progress: OnProgress,
    ) -> None:
        self._standing = standing
        self._wanted = wanted
        self._on_progress = on_progress
        self._meter = CopyMeter(phase=CopyPhase.ROWS)
        self._meter.plan([part for table in tables for part in _parts(table)], time.monotonic())
        self._told_at = 0.0

    def copy(self, table: SnapshotTable) -> Copied:
        """Raises TableChanged, RetryLater (`hold-lost`), Unhealthy, and OperatorNeeded where the replica's
        table cannot take the rows: the replica has its old rows then."""
        standing, started = self._standing, time.monotonic()
        options = standing.options
        with (
            standing.watch.session(options.replica_conninfo, purpose=options.purpose) as session,
            standing.kept_awake(session),
        ):
            replica_role = prepare_session(session)
            target = self._fit(session, table, replica_role=replica_role)
            if options.automatic:
                clear_leftovers(session, table.table_name, lambda *_: standing.check())
            truncate = lock_patiently(standing, session, target, truncate=self._wanted.truncate)
            target = self._fit(session, table, replica_role=replica_role)
            table = table.without(columns_left_out(target))
            require_nothing_lost(session, table, target)
            empty_table(session, target, truncate=truncate, tick=lambda *_: standing.check())
            failpoint("mend.emptied")
            rows = self._write(session, table, target)
            details = {"table": table.qualified_name, "rows": rows}
            end_awaiting(
                session, options.name, table.table_name, replica_role=replica_role, check=standing.check
            )
            require_followed(standing.reader, options.slot, options.reports)
            commit_standing(
                session,
                standing.found,
                action=ACTION,
                reason=self._wanted.reason,
                details=json.dumps(details | ({"automatic": True} if options.automatic else {})),
                expires_s=HOLD_S,
                check=standing.check,
            )
        self._show()
        own = own_columns(table, target)
        return Copied(table.qualified_name, standing.lsn, rows, own, time.monotonic() - started)

    def _fit(self, session: Session, table: SnapshotTable, *, replica_role: bool) -> TargetTable:
        options = self._standing.options
        return fitting_target(
            self._standing.reader,
            session,
            table,
            pipeline=options.name,
            name=options.replica,
            replica_role=replica_role,
        )

    def _write(self, session: Session, table: SnapshotTable, target: TargetTable) -> int:
        """All rows of the table. Between two parts the source's lock on it is let go; what came in between is
        found out."""
        ours, theirs = (each.info.server_version // 10000 for each in (self._standing.reader, session))
        binary = may_be_binary(table, target, same_major=ours == theirs)
        rows = 0
        with bounded_chunks(session):
            for part in _parts(table, may_be_binary=binary):
                rows += self._write_part(session, part)
        return rows

    def _write_part(self, session: Session, part: Part) -> int:
        name = part.table.qualified_name
        with self._standing.moving(name) as moved:
            return self._write_moving(session, part, name, moved)

    def _write_moving(self, session: Session, part: Part, name: str, moved: Callable[[], None]) -> int:
        def tick(rows: int, size: int) -> None:
            if size:
                moved()
            self._standing.check()
            self._meter.moved(part, rows, size)
            if time.monotonic() - self._told_at >= _TELL_S:
                self._show()

        copying = Copying(*copy_statements(part), part.binary)
        with self._standing.reading([part.table]) as source:

            def wide() -> int:
                self._meter.failed(part)
                return copy_wide(
                    source,
                    session,
                    table=part.table.table_name,
                    target=part.target,
                    columns=part.table.columns,
                    where=block_range(part),
                    tick=tick,
                    in_chunks=True,
                )

            try:
                rows = bring(source, session, copying, table=name, wide=wide, tick=tick)
            except BaseException:
                source.close()  # in the middle of a COPY there is nothing else to do with it
                raise
        self._meter.finished(part, rows)
        return rows

    def _show(self) -> None:
        self._told_at = time.monotonic()
        self._on_progress(self._meter.progress(self._told_at))


def _parts(table: SnapshotTable, *, may_be_binary: bool = False) -> list[Part]:
    return plan_parts(
        table.stored,
        targets={stored.oid: table.table_name for stored in table.stored},
        volatile=(),
        part_bytes=PART_BYTES,
        may_be_binary=may_be_binary,
    )


def lock_patiently(standing: Standing, session: Session, target: TargetTable, *, truncate: bool) -> bool:
    """`begin_locked`, again and again while others on the replica use the table, which get their turn
    between. Raises Unhealthy when that takes too long."""
    deadline = time.monotonic() + standing.options.patience_s
    while True:
        try:
            return begin_locked(session, target, truncate=truncate, tick=lambda *_: standing.check())
        except RetryLater as error:
            if error.code != "lock-timeout":
                raise
        name, users = target.qualified_name, users_of(session, target)
        waiting = f"the lock on {name} of the replica, which is used by {users or 'others'}"
        if time.monotonic() > deadline:
            raise standing.too_late(waiting)
        standing.watch.tell(f"waiting for {waiting}")
        standing.watch.pause(_LET_PASS_S)
