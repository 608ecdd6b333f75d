"""What one look at source, log and replicas saw: values that `pipeline.control.judgement` judges.

Every part may be missing: a server that cannot be reached gives an error in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.failover.standbys import NO_STANDBYS, Standbys
from connectors.postgres.replica.progress import Progress
from connectors.postgres.replication.slot import SlotOwner, SlotState, WalSpace
from pipeline.board import captures_in, captures_of
from pipeline.reports import NotReplicated, StageReport
from schemas.errors import KeepstreamError
from schemas.lsn import ZERO, Lsn, parse_lsn
from schemas.validity import Chain


@dataclass(frozen=True, slots=True)
class SourceSeen:
    """`clock`: the source's own, Unix time, which commit times are in. `wal_bytes_per_s` is measured
    between two readings. `left_out`: by the catalog; what a capture
    reports comes before it. `standbys`: as the source knows them."""

    clock: float
    insert_lsn: Lsn
    slot: SlotState | None
    owner: SlotOwner | None
    space: WalSpace
    publication_exists: bool
    wal_bytes_per_s: float | None = None
    left_out: tuple[NotReplicated, ...] = ()
    timeline: int | None = None
    standbys: Standbys = NO_STANDBYS

    @property
    def own_slot(self) -> SlotState | None:
        """The slot, unless it only bears our name: what it says is then of another pipeline."""
        return None if self.slot is None or self.slot.foreign else self.slot


@dataclass(frozen=True, slots=True)
class ReplicaSeen:
    """By the replica's clock. `moved_s`: seconds since a copy or an applier last wrote the progress row.
    `session_s`: since the session that the row names began; None without one. `awaiting`: tables that joined
    without their rows and are still to be copied."""

    progress: Progress | None
    moved_s: float | None
    session_s: float | None = None
    awaiting: tuple[TableName, ...] = ()


@dataclass(frozen=True, slots=True)
class LogSeen:
    """`exists`: whether there is a log at all. `reports` by key (`pipeline.board`). `end`: the chain at
    the log's end, as read after the slot was; None: it was not read (`is_end_needed`), or has promised
    nothing."""

    exists: bool
    reports: Mapping[str, StageReport]
    end: Chain | KeepstreamError | None = None

    @property
    def captured(self) -> Lsn | None:
        """How far the log went when a capture last spoke of it; it holds at least that."""
        end, all_said = self.end, captures_in(self.reports)
        reports = captures_of(end.stream, self.reports) if isinstance(end, Chain) else all_said
        known = [parse_lsn(report.position) for report in reports if report.position]
        return max(known, default=None)


@dataclass(frozen=True, slots=True)
class Observation:
    """One look, by the observer's clock and host. An error stands for what could not be looked at.

    dead, running: keys of reports whose process is known to have ended, or to live, which can be seen only
    on its own host.
    """

    name: str
    at: float
    slot_name: str
    log_name: str
    source: SourceSeen | KeepstreamError
    log: LogSeen | KeepstreamError
    replicas: Mapping[str, ReplicaSeen | KeepstreamError]
    dead: frozenset[str] = frozenset()
    running: frozenset[str] = frozenset()

    @property
    def known_source(self) -> SourceSeen | None:
        """None where it could not be looked at."""
        return self.source if isinstance(self.source, SourceSeen) else None

    @property
    def own_slot(self) -> SlotState | None:
        """None where there is none, too, or it could not be looked for."""
        return self.known_source.own_slot if self.known_source else None

    @property
    def known_log(self) -> LogSeen:
        """One without a word where it could not be looked at."""
        return self.log if isinstance(self.log, LogSeen) else LogSeen(exists=True, reports={})

    @property
    def followers(self) -> list[str]:
        """The replicas that went by the log."""
        return [
            name
            for name, seen in self.replicas.items()
            if isinstance(seen, ReplicaSeen) and seen.progress is not None
        ]

    @property
    def is_torn(self) -> bool:
        """Whether the log seems to be there without the slot, or what goes by it without the log. A beginning
        makes the log first, `teardown` removes it last: a look that begins after this one tells what is
        missing from what was then being made or removed."""
        if not isinstance(self.log, LogSeen):
            return False
        if self.log.exists:
            return self.known_source is not None and self.own_slot is None
        return self.own_slot is not None or bool(self.followers)


def is_end_needed(source: SourceSeen, log: LogSeen) -> bool:
    """Whether only the log itself can say how far it goes. What its owner confirms to the slot is in the
    log; a slot that nobody owns may have been advanced, or made anew, unless capture went as far. Without a
    slot, whether the log has promised anything: what captures said may be of an earlier one."""
    slot = source.own_slot
    if slot is None:
        return log.exists
    if slot.active_pid is not None or slot.confirmed_flush_lsn is None:
        return False
    return log.exists and slot.confirmed_flush_lsn > (log.captured or ZERO)
