"""Whose word counts for a stage, where more than one process reports for it.

A process that owns slot or replica and one that starts, stands by or retries report under a key each
(`pipeline.board`). The owner speaks for the stage as long as it may live; a process that changed from the
one to the other speaks with its newest word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.board import report_key
from pipeline.reports import STALE_AFTER_S, StageReport, StageState


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of one stage by its processes' own words.

    report: of the process that counts; None if none ever reported. age_s: how old it is.
    fresh: not older than `STALE_AFTER_S`. dead: its process ran on this host and is gone.
    standby: another living process that waits for its turn.
    """

    report: StageReport | None = None
    age_s: float | None = None
    fresh: bool = False
    dead: bool = False
    standby: StageReport | None = None


def hear(
    stage: str, reports: Mapping[str, StageReport], dead: frozenset[str], *, at: float, session: bool
) -> Heard:
    """`session`: whether slot or replica is somebody's now, so that a silent owner may still live."""
    keys = [report_key(stage, owner=owner) for owner in (True, False)]
    owner, other = (_Word(reports[key], key in dead, at) if key in reports else None for key in keys)
    if owner is None or other is None:
        word = owner or other
        return Heard() if word is None else word.heard()
    may_own = owner.report.owner and (owner.lives or (session and not owner.ended))
    if owner.is_same_process(other):
        return max(owner, other, key=lambda word: word.report.at).heard()
    if not may_own:
        return max(owner, other, key=lambda word: (word.lives, word.report.at)).heard()
    return owner.heard(standby=other.report if other.lives else None)


@dataclass(frozen=True, slots=True)
class _Word:
    report: StageReport
    dead: bool
    at: float

    @property
    def age_s(self) -> float:
        return max(0.0, self.at - self.report.at)

    @property
    def ended(self) -> bool:
        return self.dead or self.report.state is StageState.STOPPED

    @property
    def lives(self) -> bool:
        return not self.ended and self.age_s <= STALE_AFTER_S

    def is_same_process(self, other: _Word) -> bool:
        return (self.report.host, self.report.pid) == (other.report.host, other.report.pid)

    def heard(self, standby: StageReport | None = None) -> Heard:
        return Heard(self.report, self.age_s, self.age_s <= STALE_AFTER_S, self.dead, standby)
