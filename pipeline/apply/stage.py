"""Apply as a stage: open the replica, apply, and when a server goes away begin again with back-off.

Only what an operator must mend ends it, or the end that was asked for.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid

from connectors.postgres.replica.progress import HoldKind
from pipeline.apply.applier import Applier
from pipeline.apply.approval import ReadAgain
from pipeline.apply.awaited import AwaitedCopies
from pipeline.apply.counters import Counters
from pipeline.apply.grouping import Blocked
from pipeline.apply.opened import OpenReplica, open_replica
from pipeline.apply.options import ApplyOptions, Skip
from pipeline.apply.skipping import skip_next
from pipeline.quantities import counted
from pipeline.reports import Report, ReportedError, StageReport, StageState, apply_stage
from pipeline.retries import Retries
from schemas.errors import KeepstreamError
from schemas.lsn import format_lsn

logger = logging.getLogger("keepstream.apply")

IDLE_AFTER_S = 3.0
_REPORT_EVERY_S = 1.0
_SWITCH_S = 0.0005
"""The thread that writes sets mostly waits for the replica: its answers must not lie for Python's 5 ms, until
the thread that decodes gives way."""
_SHOWN = {
    Blocked.HELD: StageState.PAUSED,
    Blocked.END_TIME: StageState.PAUSED,
    Blocked.DELAYED: StageState.STREAMING,  # what waits for its time is work to do
    Blocked.UNAPPROVED: StageState.WAITING,
}


def run_apply(options: ApplyOptions, stop: threading.Event, report: Report) -> bool:
    """Apply the log to one replica until `stop`, or until the end that `options` name is reached durably;
    returns whether it was.

    `report` is called about once a second from a thread of its own. Raises OperatorNeeded (Divergence,
    HistoryBroken and others), RefusedData, InternalError; never RetryLater. Sets the interpreter's switch
    interval.
    """
    sys.setswitchinterval(_SWITCH_S)
    return ApplyStage(options, stop, report).run()


class ApplyStage:
    """One replica's apply stage."""

    def __init__(self, options: ApplyOptions, stop: threading.Event, report: Report) -> None:
        self._options = options
        self._stop = stop
        self._report = report
        self._counters = Counters()
        self._state = StageState.STARTING
        self._waiting_for: str | None = None
        self._last_error: ReportedError | None = None
        self._applier: Applier | None = None
        self._awaited = AwaitedCopies(options.copy_tables)
        self._token: uuid.UUID | None = None

    def run(self) -> bool:
        """See `run_apply`."""
        ended = threading.Event()
        reporting = threading.Thread(
            target=self._report_always, args=[ended], name="apply report", daemon=True
        )
        reporting.start()
        try:
            return self._run_always()
        except KeepstreamError as error:
            self._last_error = ReportedError.of(error)
            raise
        finally:
            ended.set()
            reporting.join()
            self._state = StageState.STOPPED
            self._report(self.snapshot())

    def _run_always(self) -> bool:
        retries = Retries()
        while not self._stop.is_set():
            try:
                if self._run_once(retries):
                    return True
            except ReadAgain:
                continue
            except KeepstreamError as error:
                if not retries.outlives(error):
                    raise
                self._note(error)
                if retries.wait(self._stop):
                    break
        return False

    def _run_once(self, retries: Retries) -> bool:
        opened = open_replica(self._options, self._stop, self._wait_for, ours=self._token)
        if opened is None:
            return False
        self._token = opened.claim.token
        logger.info(
            "apply begins", extra={"replica": self._options.replica, "position": str(opened.row.position)}
        )
        try:
            if self._options.skip is not None:
                return self._skip(opened, self._options.skip)
            self._applier = Applier(opened, self._options, self._stop, self._counters, self._awaited)
            self._counters.beat_at = time.monotonic()
            self._state, self._waiting_for = StageState.STREAMING, None
            with retries.trying(lambda: self._counters.transactions):
                return self._applier.run()
        finally:
            self._awaited.end()
            opened.close()

    def _skip(self, opened: OpenReplica, skip: Skip) -> bool:
        end = self._options.log.bounds().end
        return skip_next(opened, skip, self._stop, end=end, replica=self._options.replica)

    def _note(self, error: KeepstreamError) -> None:
        self._state, self._waiting_for = StageState.RETRYING, None
        self._last_error = ReportedError.of(error)
        logger.warning("apply retries", extra={"code": error.code, "error": error.message})

    def _wait_for(self, what: str) -> None:
        if what != self._waiting_for:
            logger.info("apply waits", extra={"waiting_for": what})
        self._waiting_for = what

    def snapshot(self) -> StageReport:
        """What the stage says of itself now."""
        changes_per_s, bytes_per_s = self._counters.take_rates()
        applier = self._applier
        position = applier.opened.planner.position if applier is not None else None
        commit_lsn = self._counters.last_commit_lsn
        return StageReport(
            stage=apply_stage(self._options.replica),
            state=self._shown_state(),
            owner=(owner := self._state is StageState.STREAMING),
            hung_s=round(time.monotonic() - self._counters.beat_at, 1) if owner else 0.0,
            position=format_lsn(position.lsn) if position is not None else None,
            commit_lsn=format_lsn(commit_lsn) if commit_lsn is not None else None,
            commit_time=position.commit_time / 1e6 or None if position is not None else None,
            changes_per_s=changes_per_s,
            bytes_per_s=bytes_per_s,
            transactions=self._counters.transactions,
            changes=self._counters.changes,
            last_error=self._last_error,
            waiting_for=self._shown_wait(),
            details=self._details(),
        )

    def _shown_state(self) -> StageState:
        applier = self._applier
        if self._state is not StageState.STREAMING or applier is None:
            return self._state
        if self._is_copying(applier):
            return StageState.COPYING
        if applier.blocked in _SHOWN:
            return _SHOWN[applier.blocked]
        now = time.monotonic()
        if self._lacks_rest(applier) or self._broken_s(applier):
            return StageState.CATCHING_UP
        if applier.blocked is None and now - self._counters.behind_at < IDLE_AFTER_S:
            return StageState.CATCHING_UP
        idle = applier.blocked is not None and now - self._counters.last_change_at > IDLE_AFTER_S
        return StageState.IDLE if idle else StageState.STREAMING

    def _is_copying(self, applier: Applier) -> bool:
        """Whether a copy of its own keeps the replica at a position."""
        held = applier.opened.row.hold
        return self._awaited.is_running and held is not None and held.kind is HoldKind.VERIFY

    def _lacks_rest(self, applier: Applier) -> bool:
        """Whether it is inside of a transaction whose rest the log does not have."""
        return applier.blocked is Blocked.LOG_END and applier.opened.planner.inside

    def _broken_s(self, applier: Applier) -> float:
        """For how long nothing has counted for it, because the log's epoch broke; 0 where it did not."""
        return applier.opened.follower.broken_s if applier.blocked is Blocked.LOG_END else 0.0

    def _shown_wait(self) -> str | None:
        applier = self._applier
        if applier is None or self._state is not StageState.STREAMING:
            return self._waiting_for
        row = applier.opened.row
        if self._is_copying(applier):
            return self._awaited.waiting_for
        if applier.blocked is Blocked.HELD and row.hold is not None:
            return f"the hold at {format_lsn(row.hold.at)} ({row.hold.kind.value}) to end"
        if applier.blocked is Blocked.DELAYED:
            return f"its delay of {self._options.delay_us / 1e6:g} s"
        waiting = applier.opened.approval.waiting
        if applier.blocked is Blocked.UNAPPROVED and waiting is not None:
            return f"approval of the schema changes at {format_lsn(waiting.lsn)}"
        unfinished = applier.opened.planner.unfinished
        if unfinished is not None and self._lacks_rest(applier):
            return f"the rest of transaction {unfinished.xid}, {counted(applier.ordinal, 'change')} so far"
        return "capture to begin a new epoch" if self._broken_s(applier) else None

    def _details(self) -> dict[str, object]:
        applier = self._applier
        if applier is None:
            return {}
        return {
            "complete_at": self._complete_at(applier),
            "unchanged_s": round(time.monotonic() - self._counters.last_change_at, 1),
            "blocked": applier.blocked.value if applier.blocked is not None else None,
            "epoch_broken_s": round(self._broken_s(applier), 1),
            "inside": applier.opened.planner.inside,
            "set_changes": applier.paths.set_changes,
            "single_changes": applier.paths.single_changes,
            "sets_refused": applier.paths.refused,
            "sequences_set": self._counters.sequences,
        } | self._awaited.details()

    def _complete_at(self, applier: Applier) -> float | None:
        """Unix time: what the log held by then is applied; None if not known."""
        planner = applier.opened.planner
        unfinished = planner.unfinished
        if unfinished is not None:
            return unfinished.commit_time / 1e6
        oldest = planner.backlog.oldest_commit_time()
        if oldest is not None:
            return oldest / 1e6
        return max(self._counters.log_end_at, planner.position.commit_time / 1e6) or None

    def _report_always(self, ended: threading.Event) -> None:
        while not ended.wait(_REPORT_EVERY_S):
            self._report(self.snapshot())
