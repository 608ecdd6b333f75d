"""Mending one differing table of a replica that stands at S: its differing rows, or all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

from connectors.postgres.copy.snapshot_reader import SnapshotReader
from connectors.postgres.digest import RowTooLong, Shape
from connectors.postgres.mend.differing import Mends, RowMender
from connectors.postgres.mend.fit import fitting_target, may_be_binary
from connectors.postgres.mend.transaction import bounded_chunks, commit_standing, prepare_session
from connectors.postgres.session import Session
from pipeline.snapshot.recopy import CopyWish, OnProgress, Recopy, lock_patiently
from pipeline.verify.compare import differing_rows
from pipeline.verify.differences import find_mends
from pipeline.verify.meeting import HOLD_S, Meeting
from pipeline.verify.pairing import Pair
from pipeline.verify.result import Repair
from pipeline.verify.standing import Standing
from schemas.errors import OperatorNeeded
from schemas.lsn import format_lsn

ACTION = "repair"


class TableMender:
    """Mends tables of one standing replica. limit: with more differing rows a table is copied anew."""

    def __init__(
        self, standing: Standing, meeting: Meeting, *, limit: int, reason: str, on_progress: OnProgress
    ) -> None:
        self._standing = standing
        self._meeting = meeting
        self._limit = limit
        self._reason = reason
        self._on_progress = on_progress
        self.lsn = format_lsn(standing.lsn)

    def mend(self, pair: Pair) -> Repair:
        """Raises TableChanged, RetryLater (`hold-lost`, `rows-moved`), Unhealthy, and OperatorNeeded or
        RefusedData where the replica's table cannot take the rows: nothing was changed then."""
        self._require_mendable(pair)
        found = self._find(pair) if pair.source.stored else None
        if found is None:
            recopy = Recopy(self._standing, [pair.source], CopyWish(self._reason), self._on_progress)
            return Repair(pair.name, self.lsn, copied_rows=recopy.copy(pair.source).rows)
        if found.count:
            self._mend_rows(pair, found)
        return Repair(pair.name, self.lsn, len(found.missing), len(found.extra), len(found.changed))

    def _require_mendable(self, pair: Pair) -> None:
        """Raises OperatorNeeded with what mends the table itself."""
        fitting_target(
            self._standing.reader,
            self._meeting.keeper,
            pair.source,
            pipeline=self._standing.options.name,
            name=self._standing.options.replica,
            replica_role=True,
        )
        if pair.problem is not None:
            raise OperatorNeeded(
                f"{pair.name}: {pair.problem}",
                code="replica-schema",
                hint="Run `keepstream check`, which prints the SQL that mends it.",
            )

    def _find(self, pair: Pair) -> Mends | None:
        """None: more than the limit."""
        try:
            return self._find_by(pair, pair.shape)
        except RowTooLong:
            return self._find_by(pair, replace(pair.shape, wide=True))

    def _find_by(self, pair: Pair, shape: Shape) -> Mends | None:
        standing, options = self._standing, self._standing.options
        with (
            standing.reading(pair.source.stored) as source,
            standing.watch.session(options.replica_conninfo, purpose=options.purpose) as session,
            SnapshotReader(
                session, self._meeting.replica_snapshot, standing.replica_observer, standing.check
            ).reading(pair.replica) as replica,
        ):
            rows = differing_rows(((source, pair.source.stored), (replica, pair.replica)), shape)
            return find_mends(*rows, limit=self._limit)

    def _mend_rows(self, pair: Pair, found: Mends) -> None:
        standing, options = self._standing, self._standing.options
        with (
            standing.watch.session(options.replica_conninfo, purpose=options.purpose) as session,
            standing.kept_awake(session),
        ):
            replica_role = prepare_session(session)
            fit = partial(
                fitting_target,
                standing.reader,
                session,
                pair.source,
                pipeline=options.name,
                name=options.replica,
                replica_role=replica_role,
            )
            lock_patiently(standing, session, fit(), truncate=False)
            target = fit()
            for table in pair.replica:
                standing.replica_observer.require_unchanged(table)
            with standing.reading(pair.source.stored) as source, bounded_chunks(session):
                RowMender(
                    source,
                    session,
                    table=pair.source,
                    target=target,
                    leaves=[table.table_name for table in pair.replica],
                    binary=may_be_binary(pair.source, target, same_major=_same_major(source, session)),
                    tick=lambda *_: standing.check(),
                ).mend(found)
            commit_standing(
                session,
                standing.found,
                action=ACTION,
                reason=self._reason,
                details=json.dumps(_details(pair, found)),
                expires_s=HOLD_S,
                check=standing.check,
            )


def _details(pair: Pair, found: Mends) -> dict[str, object]:
    return {
        "table": pair.name,
        "missing": len(found.missing),
        "extra": len(found.extra),
        "changed": len(found.changed),
    }


def _same_major(source: Session, replica: Session) -> bool:
    return source.info.server_version // 10000 == replica.info.server_version // 10000
