"""The first copy as a stage: waits for the log's first anchor, copies, tries again when a server goes away.

Nothing happens where the replica follows the log already.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace

from connectors.interfaces import ChangeLog
from connectors.postgres.copy.snapshot import name_blockers
from connectors.postgres.replica import progress
from connectors.postgres.replica.progress import ReplicaState
from connectors.postgres.session import connect
from pipeline.capture.history.timelines import Lineage
from pipeline.config import Initial
from pipeline.copy.options import CopyOptions
from pipeline.copy.progress import CopyPhase, CopyProgress, figures
from pipeline.copy.replica import copy_replica
from pipeline.follow import Follower, find_tail, follow_from_start
from pipeline.reports import Report, ReportedError, StageReport, StageState, apply_stage
from pipeline.retries import Retries
from schemas.errors import HistoryBroken, KeepstreamError, RetryLater
from schemas.lsn import Position

logger = logging.getLogger("keepstream.copy")

_LOG_EVERY_S = 10.0
_POLL_S = 0.2
_LEFT_OUT_SHOWN = 20
_OVERTAKEN = (progress.IN_USE, progress.COPY_REPLACED)
"""Another one made the replica whole, or is about to: the next look finds it, and stands by."""


@dataclass(frozen=True, slots=True)
class FirstCopyOptions:
    """What the stage needs: `copy` is complete but for the place in the log, which is noted when it
    is time (P20)."""

    log: ChangeLog
    copy: CopyOptions
    initial: Initial


class FirstCopyStage:
    """Makes one replica follow the log, if it does not yet. `report` is called about twice a second."""

    def __init__(self, options: FirstCopyOptions, stop: threading.Event, report: Report) -> None:
        self._options = options
        self._stop = stop
        self._report = report
        self._last_error: ReportedError | None = None
        self._logged_at = 0.0
        self._phase: CopyPhase | None = None
        self._left_out: tuple[str, ...] = ()

    def run(self) -> bool:
        """Whether the replica follows the log now; False after `stop`. Raises OperatorNeeded."""
        retries = Retries()
        while not self._stop.is_set():
            try:
                if self._is_streaming():
                    return True
                self._copy()
                return True
            except KeepstreamError as error:
                if error.code in _OVERTAKEN:
                    continue
                if isinstance(error, RetryLater) and self._stop.is_set():
                    return False
                self._last_error = ReportedError.of(error)
                if not retries.outlives(error):
                    self._say(StageState.STOPPED)
                    raise
                logger.warning("copy retries", extra={"code": error.code, "error": error.message})
                self._say(StageState.RETRYING)
                if retries.wait(self._stop):
                    return False
        return False

    def _is_streaming(self) -> bool:
        copy = self._options.copy
        with connect(copy.replica_conninfo, purpose=copy.purpose) as session:
            self._options.log.expect_reader()  # if not the copy is one, then apply
            row = progress.read(session, copy.pipeline)
        return row is not None and row.state is ReplicaState.STREAMING

    def _copy(self) -> None:
        tail = self._wait_for_anchor()
        if tail is None:
            raise RetryLater("stopped", code="stopped")
        assert tail.chain.stream is not None
        none = self._options.initial is Initial.NONE
        copy = replace(
            self._options.copy,
            stream=tail.chain.stream,
            place="" if none else str(tail.anchor),
            initial=self._options.initial,
            lineage=Lineage.of(tail.last_anchor) if tail.last_anchor is not None else None,
            position=first_position(self._options.log) if none else None,
        )
        started = time.monotonic()
        position = copy_replica(copy, self._on_progress, self._stop)
        logger.info(
            "replica begins",
            extra={
                "replica": copy.replica,
                "position": str(position),
                "took_s": round(time.monotonic() - started, 1),
            },
        )

    def _wait_for_anchor(self) -> Follower | None:
        """The log's tail, once the log has promised anything (P6, P20)."""
        log, told = self._options.log, False
        while not self._stop.is_set():
            if log.exists():
                tail = find_tail(log)
                tail.close()
                if tail.chain.promised:
                    return tail
            if not told:
                logger.info("copy waits", extra={"waiting_for": "capture to begin the log"})
                told = True
            self._say(StageState.STARTING, waiting_for="capture to begin the log")
            self._stop.wait(_POLL_S)
        return None

    def _on_progress(self, seen: CopyProgress) -> None:
        waiting = name_blockers(seen.blockers) or None
        self._say(StageState.COPYING, waiting_for=waiting, details={"copy": figures(seen)})
        self._tell_of(seen.left_out)
        now = time.monotonic()
        if seen.phase is not self._phase or now - self._logged_at >= _LOG_EVERY_S:
            self._phase, self._logged_at = seen.phase, now
            logger.info("copying", extra=_log_fields(seen))

    def _tell_of(self, left_out: tuple[str, ...]) -> None:
        new = [each for each in left_out if each not in self._left_out]
        self._left_out = left_out
        if new:
            more = f"; and {len(new) - _LEFT_OUT_SHOWN} more" if len(new) > _LEFT_OUT_SHOWN else ""
            logger.warning("replica is made without", extra={"what": "; ".join(new[:_LEFT_OUT_SHOWN]) + more})

    def _say(
        self, state: StageState, *, waiting_for: str | None = None, details: dict[str, object] | None = None
    ) -> None:
        self._report(
            StageReport(
                stage=apply_stage(self._options.copy.replica),
                state=state,
                owner=state is StageState.COPYING,
                last_error=self._last_error,
                waiting_for=waiting_for,
                details=details or {},
            )
        )


def first_position(log: ChangeLog) -> Position:
    """The position of the log's oldest anchor: where a replica stands whose rows were equal when the
    pipeline began (`initial: none`). Later transactions are applied to it, none is assumed."""
    follower = follow_from_start(log)
    try:
        for _ in follower.read_to(log.bounds().end):
            if follower.first_anchor is not None:
                return follower.first_anchor.at
    finally:
        follower.close()
    raise HistoryBroken(
        f"the log {log.name} has no anchor to begin at",
        code="log-without-anchor",
        hint="Start capture first: `keepstream capture`.",
    )


def _log_fields(seen: CopyProgress) -> dict[str, object]:
    fields: dict[str, object] = {"phase": seen.phase.value}
    if seen.phase is CopyPhase.ROWS:
        fields |= {
            "tables": f"{seen.tables_done}/{seen.tables_total}",
            "rows": seen.rows_done,
            "rows_estimated": seen.rows_estimated,
            "bytes": seen.bytes_done,
            "rows_per_s": round(seen.rows_per_s or 0),
            "eta_s": None if seen.eta_s is None else round(seen.eta_s),
        }
    elif seen.items_total:
        fields |= {"items": f"{seen.items_done}/{seen.items_total}"}
    if seen.blockers:
        fields["waiting_for"] = name_blockers(seen.blockers)
    return fields
