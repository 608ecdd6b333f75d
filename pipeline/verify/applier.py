"""Whether anybody brings the replica on, so that it is worth waiting for.

No session on the replica is no proof: an applier may start, retry, or be started again by `run`. Only its
own word that it stopped, or a silence in which none of that can be, is one. Where the log is away, nothing is
known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from connectors.postgres.replica.progress import Progress
from pipeline.background import in_background
from pipeline.control.hearsay import Heard, hear
from pipeline.obstacles import replica_obstacle
from pipeline.reports import STALE_AFTER_S, ReportedError, StageReport, StageState, apply_stage
from schemas.errors import KeepstreamError, OperatorNeeded

GONE_S = 5.0
"""How long nobody may be connected to the replica before its applier's reports are asked for."""
SILENT_S = 2 * STALE_AFTER_S
"""Longer than `run` waits before it starts a stage again, with the time that this takes."""

Reports = Callable[[], Mapping[str, StageReport]]
"""Reads the stages' newest reports; may hang, and raise KeepstreamError."""


class ApplierWatch:
    """Of one replica. Call `require` again and again while waiting for it."""

    def __init__(self, replica: str, reports: Reports, done_to: str = "compared") -> None:
        """`done_to`: what cannot be done to a replica that nobody brings on, for messages."""
        self._replica = replica
        self._reports = reports
        self._done_to = done_to
        self._gone_at: float | None = None
        self._asked: Future[Mapping[str, StageReport]] | None = None

    def require(self, progress: Progress) -> None:
        """Raises OperatorNeeded (`applier-not-running`)."""
        if progress.alive:
            self._gone_at = self._asked = None
            return
        if self._gone_at is None:
            self._gone_at = time.monotonic()
        if time.monotonic() - self._gone_at < GONE_S:
            return
        if self._asked is None:
            self._asked = in_background(self._reports, name="reports")
        if self._asked.done():
            self._judge(self._asked, progress)
            self._gone_at, self._asked = time.monotonic(), None

    def _judge(self, asked: Future[Mapping[str, StageReport]], progress: Progress) -> None:
        try:
            reports = asked.result()
        except KeepstreamError:
            return
        heard = hear(apply_stage(self._replica), reports, frozenset(), at=time.time(), session=False)
        if is_gone(heard):
            raise self._not_running(progress, heard)

    def _not_running(self, progress: Progress, heard: Heard) -> OperatorNeeded:
        obstacle = replica_obstacle(self._replica, progress)
        assert obstacle is not None  # it is not alive
        error = _ended_by(heard)
        return OperatorNeeded(
            f"replica {self._replica} cannot be {self._done_to}: it {obstacle.seen}"
            + (f"; the last one ended: {error.message} ({error.code})" if error else ""),
            code="applier-not-running",
            hint=(error.hint if error else "") or obstacle.hint,
        )


def is_gone(heard: Heard) -> bool:
    """Whether no applier runs, and none is about to."""
    report, age_s = heard.report, heard.age_s
    return report is None or age_s is None or report.state is StageState.STOPPED or age_s > SILENT_S


def _ended_by(heard: Heard) -> ReportedError | None:
    report = heard.report
    return report.last_error if report is not None and report.state is StageState.STOPPED else None
