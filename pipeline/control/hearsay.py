"""Whose word counts for a stage, where more than one process reports for it.

A process that owns slot or replica and one that starts, stands by or retries report under a key each
(`pipeline.board`). The owner speaks for the stage as long as it may live; a process that changed from the
one to the other speaks with its newest word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.board import report_key
from pipeline.reports import STALE_AFTER_S, StageReport, StageState


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of one stage by its processes' own words.

    report: of the process that counts; None if none ever reported. age_s: how old it is.
    dead: its process ran on this host and is gone. running: it can be seen to live here.
    standby: another living process that waits for its turn.
    """

    report: StageReport | None = None
    age_s: float | None = None
    dead: bool = False
    running: bool = False
    standby: StageReport | None = None

    @property
    def fresh(self) -> bool:
        """Whether it says anything about now."""
        return self.age_s is not None and self.age_s <= STALE_AFTER_S

    @property
    def ended(self) -> bool:
        """Whether its process is known to be no more."""
        return self.dead or (self.report is not None and self.report.state is StageState.STOPPED)

    @property
    def lives(self) -> bool:
        return self.fresh and not self.ended


def hear(
    stage: str,
    reports: Mapping[str, StageReport],
    dead: frozenset[str],
    running: frozenset[str] = frozenset(),
    *,
    at: float,
    session: bool,
) -> Heard:
    """`dead`, `running`: as of `Observation`. `session`: whether slot or replica is somebody's now, so that a
    silent owner may still live."""
    keys = [report_key(stage, owner=owner) for owner in (True, False)]
    owner, other = (_heard(reports.get(key), at, dead=key in dead, running=key in running) for key in keys)
    if owner.report is None or other.report is None:
        return other if owner.report is None else owner
    newer = owner if owner.report.at >= other.report.at else other
    if _who(owner.report) == _who(other.report):
        return newer
    may_own = owner.report.owner and (owner.lives or (session and not owner.ended))
    if not may_own:
        return max(owner, other, key=lambda heard: (heard.lives, heard is newer))
    return replace(owner, standby=other.report if other.lives else None)


def _who(report: StageReport) -> tuple[str, int, str | None]:
    return report.host, report.pid, report.process


def _heard(report: StageReport | None, at: float, *, dead: bool, running: bool) -> Heard:
    return Heard() if report is None else Heard(report, max(0.0, at - report.at), dead, running)
