"""Publishing a stage's reports beside the log, at most about once a second.

The process that owns slot or replica and one that does not have a key each: a second process, which stands
by, never writes over what the first one says. Who becomes the owner, or is none any more, says so under both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping

from connectors.interfaces import ChangeLog
from pipeline.processes import own_process
from pipeline.reports import CAPTURE_STAGE, StageReport, StageState
from schemas.errors import KeepstreamError, RetryLater

logger = logging.getLogger("keepstream.report")

EVERY_S = 1.0
IDLE_EVERY_S = 5.0
NEW_LOG_S = 10.0
"""So soon after a stage began, the log may only not have been made yet: all stages of a new pipeline start at
once, and capture makes it."""
AWAY_S = 30.0
"""For so long a log that cannot be reached loses reports without a word here."""


class Board:
    """Takes every report and publishes the newest one when it is due: at once when what it is changed.

    A log that cannot be reached loses reports, nothing else; `status` then sees that they are old.
    """

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        self._process = own_process()
        self._made_at = time.monotonic()
        self._published_at = 0.0
        self._last: tuple[StageState, bool] | None = None
        self._told_owner = False
        self._failing_since: float | None = None
        self._refused: str | None = None

    def publish(self, report: StageReport) -> None:
        """Never raises: reports are hints."""
        every_s = IDLE_EVERY_S if report.state is StageState.IDLE else EVERY_S
        now, is_now = time.monotonic(), (report.state, report.owner)
        if is_now == self._last and now - self._published_at < every_s * 0.9:
            return
        self._published_at, self._last = now, is_now
        content = report.model_copy(update={"process": self._process}).model_dump_json().encode()
        try:
            self._log.put_report(report_key(report.stage, owner=report.owner), content)
            if self._told_owner is not report.owner:
                self._log.put_report(report_key(report.stage, owner=not report.owner), content)
                self._told_owner = report.owner
            self._failing_since = self._refused = None
        except KeepstreamError as error:
            self._say(error, now)

    def _say(self, error: KeepstreamError, now: float) -> None:
        """What needs an operator is warned of, and what lasts, once until it works again."""
        self._failing_since = now if self._failing_since is None else self._failing_since
        is_new = error.code == "log-missing" and now - self._made_at < NEW_LOG_S
        is_short = isinstance(error, RetryLater) and now - self._failing_since < AWAY_S
        if is_new or is_short:
            logger.debug("report not published", extra={"code": error.code})
        elif error.code != self._refused:
            self._refused = error.code
            logger.warning(
                "report not published: `status` does not see this stage",
                extra={"code": error.code, "error": error.message, "fix": error.hint},
            )


def report_key(stage: str, *, owner: bool) -> str:
    """Under which key a stage's report stands."""
    return stage if owner else f"standby:{stage}"


def captures_of(stream: bytes | None, reports: Mapping[str, StageReport]) -> Iterator[StageReport]:
    """What captures said of this stream. Those of an earlier log may have outlived it."""
    return (each for each in captures_in(reports) if stream is not None and each.stream == stream.hex())


def captures_in(reports: Mapping[str, StageReport]) -> Iterator[StageReport]:
    """The newest words of a capture that owns the slot, and of one that does not."""
    keys = [report_key(CAPTURE_STAGE, owner=owner) for owner in (True, False)]
    return (reports[key] for key in keys if key in reports)


def read_reports(log: ChangeLog) -> dict[str, StageReport]:
    """The newest report of each key (`report_key`); one that this version cannot read is left out."""
    found = {}
    for key, report in log.reports().items():
        try:
            found[key] = StageReport.model_validate_json(report)
        except ValueError:
            logger.debug("report not understood", extra={"key": key})
    return found
