"""P10: which timeline of its cluster the source is on, and whether that one holds what the log does.

A standby that is promoted begins a new timeline at the point up to which it has the old one's WAL. Capture
takes the log over to it if the log ends at or before that point; everybody else goes only by a source that is
on the log's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from connectors.postgres.replication.walsender import SystemIdentity, TimelineSwitch
from pipeline.board import captures_in
from pipeline.reports import StageReport
from schemas.errors import BEGIN_ANEW, IF_MEANT, HistoryBroken, RetryLater
from schemas.frame import Anchor
from schemas.lsn import Position, format_lsn

OTHER_CLUSTER: Final = "source-other-cluster"
MAKE_IT_PRIMARY = (
    "If the former primary is whole, make that one the primary again, without what was written to this one,"
    f" and the pipeline goes on. Else {BEGIN_ANEW}."
)
_SYSTEM_ID: Final = "system_id"
_TIMELINE: Final = "timeline"
_RULED_OUT = (
    "To rule it out, let synchronized_standby_slots on the primary name the slot of each standby that may be"
    " promoted."
)


@dataclass(frozen=True, slots=True)
class Lineage:
    """Cluster and timeline of the source that the log follows, by its last ANCHOR."""

    system_id: str
    timeline: int

    @classmethod
    def of(cls, anchor: Anchor) -> Lineage:
        return cls(anchor.system_id, anchor.timeline)

    @classmethod
    def reported(cls, reports: Mapping[str, StageReport]) -> Lineage | None:
        """As the capture said last that owned the slot; None where none did."""
        said = [each for each in captures_in(reports) if {_SYSTEM_ID, _TIMELINE} <= each.details.keys()]
        newest = max(said, key=lambda report: report.at, default=None)
        if newest is None:
            return None
        return cls(str(newest.details[_SYSTEM_ID]), int(newest.details[_TIMELINE]))

    def to_details(self) -> dict[str, object]:
        """As capture's report has it."""
        return {_SYSTEM_ID: self.system_id, _TIMELINE: self.timeline}


def check_timeline(anchor: Anchor, tail: Position, timeline: int, switches: Iterable[TimelineSwitch]) -> None:
    """A new timeline is accepted only if the log ends at or before the point where it left the old; an older
    one never. Raises HistoryBroken (`source-other-timeline`, `source-old-timeline`)."""
    if timeline == anchor.timeline:
        return
    if timeline < anchor.timeline:
        raise old_timeline(timeline, anchor.timeline)
    left_at = {switch.parent: switch.switch_lsn for switch in switches}.get(anchor.timeline)
    if left_at is not None and tail.lsn <= left_at:
        return
    place = format_lsn(left_at) if left_at is not None else "an unknown place"
    lacked = "lacked the last transactions" if left_at is not None else "had left that timeline before"
    raise HistoryBroken(
        f"the source is on timeline {timeline}, which left timeline {anchor.timeline} at {place};"
        f" the log holds it up to {tail}",
        code="source-other-timeline",
        hint=f"A standby was promoted that {lacked}; the log, and replicas, may hold transactions that it"
        f" never got. {MAKE_IT_PRIMARY} {_RULED_OUT}",
    )


def require_lineage(log: Lineage, seen: SystemIdentity) -> None:
    """For who reads the source beside the log: else its LSNs would name places in two histories.

    Raises HistoryBroken (`source-other-cluster`, `source-old-timeline`), and RetryLater (`source-promoted`)
    where capture has not taken the log over yet, or has stopped because it cannot.
    """
    require_cluster(log.system_id, seen)
    if seen.timeline < log.timeline:
        raise old_timeline(seen.timeline, log.timeline)
    if seen.timeline > log.timeline:
        raise RetryLater(
            f"the source was promoted to timeline {seen.timeline}, and the log is still on {log.timeline}",
            code="source-promoted",
            hint="Capture has to go on there first: `keepstream status` says what it does.",
        )


def require_cluster(system_id: str, seen: SystemIdentity) -> None:
    """Raises HistoryBroken (`source-other-cluster`)."""
    if seen.system_id != system_id:
        raise HistoryBroken(
            f"the source is cluster {seen.system_id}, the log came from cluster {system_id}",
            code=OTHER_CLUSTER,
            hint="Point `source` at the database that the log came from. If it went through pg_upgrade while"
            " nothing wrote, and all replicas had caught up: `keepstream teardown --yes`, `initial: none` for"
            f" each replica, `keepstream run`, and `keepstream verify` for each. {IF_MEANT}",
        )


def old_timeline(timeline: int, log: int) -> HistoryBroken:
    """What it means that the source is on an older timeline than the log."""
    return HistoryBroken(
        f"the source is on timeline {timeline}, and the log went on to timeline {log} after a failover",
        code="source-old-timeline",
        hint="This is a former primary that was started again: what is written to it is lost. Stop it, and"
        " make it a standby of the present primary (pg_rewind, or a new pg_basebackup); if source.url does"
        " not name that primary, let it.",
    )
