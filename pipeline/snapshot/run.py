"""`keepstream snapshot`: one table after the other, while the replica stands at S."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from connectors.postgres.catalog.publication import TableName, is_via_root
from connectors.postgres.catalog.tables import list_tables
from connectors.postgres.copy.run import may_switch_triggers_off
from connectors.postgres.copy.snapshot import TableChanged
from connectors.postgres.copy.snapshot_tables import SnapshotTable, published_tables
from connectors.postgres.ddl import left_out
from connectors.postgres.ddl.tracking import triggers_act
from connectors.postgres.mend.fit import fitting_target
from connectors.postgres.mend.transaction import clear_leftovers
from connectors.postgres.session import Session
from pipeline.quantities import human_seconds
from pipeline.snapshot.recopy import Copied, CopyWish, OnProgress, Recopy
from pipeline.verify.meeting import VerifyOptions
from pipeline.verify.rounds import in_rounds
from pipeline.verify.scope import Scope, choose_tables
from pipeline.verify.standing import Standing
from pipeline.verify.watch import Tell, Watch
from schemas.errors import KeepstreamError, OperatorNeeded, Unhealthy
from schemas.lsn import format_lsn


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """held_s: how long the replica stood still in all."""

    replica: str
    tables: tuple[Copied, ...]
    held_s: float
    took_s: float

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def to_json(self) -> dict[str, Any]:
        return {
            "replica": self.replica,
            "rows": self.rows,
            "tables": [
                {
                    "table": table.table,
                    "lsn": format_lsn(table.lsn),
                    "rows": table.rows,
                    "own_columns": list(table.own_columns),
                    "took_s": round(table.took_s, 3),
                }
                for table in self.tables
            ],
            "held_s": round(self.held_s, 3),
            "took_s": round(self.took_s, 3),
        }


def snapshot(
    options: VerifyOptions,
    scope: Scope,
    wanted: CopyWish,
    *,
    stop: threading.Event,
    tell: Tell,
    on_progress: OnProgress,
) -> SnapshotResult:
    """Copy the tables of `scope` anew, each in one transaction of the replica.

    Refuses, before the replica is held, what cannot be copied. Raises what `in_rounds` and `Recopy.copy`
    raise: tables that were done before stay done, and are written down in keepstream.audit.
    """
    watch, started = Watch(stop, tell), time.monotonic()
    copying = _Copying(options, scope, watch, wanted, on_progress)
    with watch.watching():
        copying.require_copyable()
        try:
            in_rounds(options, watch, copying.go_on)
        except KeepstreamError:
            copying.clear_away()
            raise
    copied = tuple(copying.copied[name] for name in sorted(copying.copied))
    return SnapshotResult(options.replica, copied, copying.held_s, time.monotonic() - started)


class _Copying:
    """What is done already, from one standing to the next."""

    def __init__(
        self,
        options: VerifyOptions,
        scope: Scope,
        watch: Watch,
        wanted: CopyWish,
        on_progress: OnProgress,
    ) -> None:
        self._options = options
        self._scope = scope
        self._watch = watch
        self._wanted = wanted
        self._on_progress = on_progress
        self._trying: TableName | None = None
        self.copied: dict[TableName, Copied] = {}
        self.held_s = 0.0

    def require_copyable(self) -> None:
        """Raises OperatorNeeded for what can be known to fail. A replica that follows schema changes may be
        about to come to one: whether its tables fit is looked at where it stands."""
        options, watch = self._options, self._watch
        with (
            watch.session(options.source_conninfo, purpose=options.purpose) as source,
            watch.session(options.replica_conninfo, purpose=options.purpose) as replica,
            watch.deadline(options.timeout_s, self._too_late),
        ):
            replica_role = may_switch_triggers_off(replica)
            follows = triggers_act(source)
            for table in self._tables(source):
                with _misfits_put_off() if follows else nullcontext():
                    fitting_target(
                        source,
                        replica,
                        table,
                        pipeline=options.name,
                        name=options.replica,
                        replica_role=replica_role,
                    )

    def _too_late(self) -> Unhealthy:
        return Unhealthy(
            f"tables could not be looked at within {human_seconds(self._options.timeout_s)}",
            code=self._options.late_code,
            hint="Somebody has them locked, on source or replica: wait for that, or end it.",
        )

    def _tables(self, source: Session) -> Sequence[SnapshotTable]:
        published = published_tables(source, self._options.publication)
        catalog = list_tables(source, publication=self._options.publication)
        by_root = is_via_root(source, self._options.publication)
        return choose_tables(published, catalog, self._scope, by_root=by_root)

    def go_on(self, standing: Standing) -> list[TableName]:
        """Copy what is not copied yet; returns the tables that changed before they were."""
        try:
            return self._go_on(standing)
        finally:
            self.held_s += standing.held_s

    def _go_on(self, standing: Standing) -> list[TableName]:
        with standing.patience("tables of the source that somebody has locked"):
            left = [t for t in self._tables(standing.reader) if t.table_name not in self.copied]
        if self._options.automatic:
            left = self._still_awaiting(left)
        self._watch.tell(f"copying {len(left)} tables at {format_lsn(standing.lsn)}")
        recopy = Recopy(standing, left, self._wanted, self._on_progress)
        changed: list[TableName] = []
        for table in left:
            self._trying = table.table_name
            try:
                self.copied[table.table_name] = recopy.copy(table)
                self._trying = None
            except TableChanged as error:
                self._watch.tell(f"{error.message}: it will be copied at a later LSN")
                changed.append(table.table_name)
        return changed

    def clear_away(self) -> None:
        """What a copy that failed has left, so that a full disk is free again before the next attempt. An
        operator's may have old rows beside it, which it takes long to look through: autovacuum does."""
        options, watch = self._options, self._watch
        if self._trying is None or not options.automatic:
            return
        with (
            contextlib.suppress(KeepstreamError),
            watch.session(options.replica_conninfo, purpose=options.purpose) as replica,
        ):
            clear_leftovers(replica, self._trying, lambda *_: watch.check())

    def _still_awaiting(self, tables: Sequence[SnapshotTable]) -> list[SnapshotTable]:
        """Without those that somebody else has copied, or dropped, before the replica stood."""
        options = self._options
        with self._watch.session(options.replica_conninfo, purpose=options.purpose) as replica:
            awaiting = left_out.read(replica, options.name).awaiting
        return [table for table in tables if table.table_name in awaiting]


@contextmanager
def _misfits_put_off() -> Iterator[None]:
    try:
        yield
    except OperatorNeeded as error:
        if error.code != "replica-schema":
            raise
