"""`keepstream verify --repair`: what differs is mended at one LSN, and compared again there.

The comparison holds the replica for a moment only; the repair looks at the differing tables once more while
the replica stands, so that it stands no longer than these take.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.snapshot import TableChanged
from pipeline.snapshot.recopy import OnProgress as OnCopyProgress
from pipeline.verify.compare import Comparison, OnProgress
from pipeline.verify.meeting import Meeting, VerifyOptions
from pipeline.verify.mend import TableMender
from pipeline.verify.pairing import Pair
from pipeline.verify.result import Repair, TableResult, VerifyResult
from pipeline.verify.rounds import in_rounds
from pipeline.verify.run import describe, verify
from pipeline.verify.scope import Scope
from pipeline.verify.standing import Standing
from pipeline.verify.watch import Tell, Watch
from schemas.errors import OperatorNeeded, RefusedData
from schemas.lsn import format_lsn

REPAIR_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """limit: a table with more differing rows is copied anew. reason: for keepstream.audit."""

    limit: int = REPAIR_LIMIT
    reason: str = ""


def verify_and_repair(
    options: VerifyOptions,
    scope: Scope,
    wanted: RepairOptions,
    *,
    stop: threading.Event,
    tell: Tell,
    on_progress: OnProgress,
    on_copy_progress: OnCopyProgress,
) -> VerifyResult:
    """Compare, mend what differs, and compare that again. Raises what `verify` and `in_rounds` raise; tables
    that were mended before stay so, and are written down in keepstream.audit."""
    started = time.monotonic()
    found = verify(options, scope, stop=stop, tell=tell, on_progress=on_progress)
    differing = {table.table for table in found.tables if not table.identical}
    if not differing:
        return replace(found, repairs=())
    watch = Watch(stop, tell)
    repairing = _Repairing(options, watch, wanted, differing, on_progress, on_copy_progress)
    with watch.watching():
        in_rounds(options, watch, repairing.go_on)
    results = {table.table: table for table in found.tables} | repairing.results
    return replace(
        found,
        tables=tuple(results[name] for name in sorted(results)),
        repairs=tuple(repairing.repairs[name] for name in sorted(repairing.repairs)),
        held_s=max(found.held_s, repairing.held_s),
        took_s=time.monotonic() - started,
    )


class _Repairing:
    """What is mended already, from one standing to the next. left: tables that are not compared again yet."""

    def __init__(
        self,
        options: VerifyOptions,
        watch: Watch,
        wanted: RepairOptions,
        left: set[str],
        on_progress: OnProgress,
        on_copy_progress: OnCopyProgress,
    ) -> None:
        self._options = options
        self._watch = watch
        self._wanted = wanted
        self._left = left
        self._on_progress = on_progress
        self._on_copy_progress = on_copy_progress
        self.repairs: dict[str, Repair] = {}
        self.results: dict[str, TableResult] = {}
        self.held_s = 0.0

    def go_on(self, standing: Standing) -> list[TableName]:
        """Mend and compare what is left; returns the tables that changed before that was done."""
        self._watch.tell(f"repairing {len(self._left)} tables at {format_lsn(standing.lsn)}")
        with standing.meeting() as meeting:
            mender = TableMender(
                standing,
                meeting,
                limit=self._wanted.limit,
                reason=self._wanted.reason,
                on_progress=self._on_copy_progress,
            )
            changed = [
                pair.source.table_name
                for pair in self._pairs(standing, meeting)
                if not self._mend(mender, pair)
            ]
        with standing.meeting() as meeting:
            standing.let_go()
            pairs = [p for p in self._pairs(standing, meeting) if p.source.table_name not in changed]
            compared = Comparison(self._options, self._watch, meeting, self._on_progress).run(pairs)
        self.results |= {result.table: result for result in compared.results}
        self._left -= self.results.keys()
        changed += [pair.source.table_name for pair in pairs if pair.source.oid in compared.changed]
        self.held_s = max(self.held_s, standing.held_s)
        return changed

    def _pairs(self, standing: Standing, meeting: Meeting) -> Sequence[Pair]:
        with standing.patience("tables that somebody has locked"):
            _, _, pairs = describe(self._options, meeting)
        return [pair for pair in pairs if pair.name in self._left]

    def _mend(self, mender: TableMender, pair: Pair) -> bool:
        """False: it changed meanwhile."""
        try:
            done = mender.mend(pair)
        except TableChanged as error:
            self._watch.tell(f"{error.message}: it will be repaired at a later LSN")
            return False
        except (OperatorNeeded, RefusedData) as error:
            done = Repair(pair.name, mender.lsn, problem=f"{error.message} ({error.code})", remedy=error.hint)
        self._note(done)
        return True

    def _note(self, done: Repair) -> None:
        """Add it to what was done to the table at an earlier LSN."""
        before = self.repairs.get(done.table)
        if before is not None and before.problem is None and done.problem is None:
            done = replace(
                done,
                missing=before.missing + done.missing,
                extra=before.extra + done.extra,
                changed=before.changed + done.changed,
                copied_rows=before.copied_rows if done.copied_rows is None else done.copied_rows,
            )
        self.repairs[done.table] = done
        self._watch.tell(f"{done.table}: {done}")
