"""Whether the source that an operator's verb asks is the one that the log follows (P10): a former primary
that was started again would answer, too, and what it says of LSNs is of another history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as NotInTime

from connectors.postgres.failover.primary import require_primary
from connectors.postgres.failover.standbys import read_timeline
from connectors.postgres.replication.slot import read_slot
from connectors.postgres.session import Session
from pipeline.background import in_background
from pipeline.capture.history.timelines import Lineage, old_timeline
from pipeline.reports import StageReport
from schemas.errors import KeepstreamError

_ANSWERS_S = 3.0


def require_followed(source: Session, slot: str, reports: Callable[[], Mapping[str, StageReport]]) -> None:
    """Raises HistoryBroken (`source-old-timeline`), RetryLater (`source-is-standby`).

    Capture streams from the slot that it follows; only where nobody does, its reports are asked for. Where
    those cannot be read in time, nothing is known.
    """
    require_primary(source)
    found = read_slot(source, slot)
    if found is not None and found.active_pid is not None:
        return
    try:
        log = Lineage.reported(in_background(reports, name="reports").result(_ANSWERS_S))
    except (KeepstreamError, NotInTime):
        return
    now = read_timeline(source)
    if log is not None and now is not None and now < log.timeline:
        raise old_timeline(now, log.timeline)
