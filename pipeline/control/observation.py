"""What one look at source, log and replicas saw: values that `pipeline.control.judgement` judges.

Every part may be missing: a server that cannot be reached gives an error in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from connectors.postgres.progress import Progress
from connectors.postgres.slot import SlotOwner, SlotState, WalSpace
from pipeline.reports import NotReplicated, StageReport
from schemas.errors import KeepstreamError
from schemas.lsn import Lsn


@dataclass(frozen=True, slots=True)
class SourceSeen:
    """`clock`: the source's own, Unix time, which commit times are in. `wal_bytes_per_s` is measured
    between two readings. `left_out`: by the catalog; what a capture
    reports comes before it."""

    clock: float
    insert_lsn: Lsn
    slot: SlotState | None
    owner: SlotOwner | None
    space: WalSpace
    publication_exists: bool
    wal_bytes_per_s: float | None = None
    left_out: tuple[NotReplicated, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaSeen:
    """`moved_s`: seconds since the progress row was last written, by the replica's own clock."""

    progress: Progress | None
    moved_s: float | None


@dataclass(frozen=True, slots=True)
class LogSeen:
    """`exists`: whether there is a log at all. `reports` by key (`pipeline.board`)."""

    exists: bool
    reports: Mapping[str, StageReport]


@dataclass(frozen=True, slots=True)
class Observation:
    """One look, by the observer's clock and host. An error stands for what could not be looked at.

    dead: keys of reports whose process ran on this very host and is gone.
    """

    name: str
    at: float
    slot_name: str
    log_name: str
    source: SourceSeen | KeepstreamError
    log: LogSeen | KeepstreamError
    replicas: Mapping[str, ReplicaSeen | KeepstreamError]
    dead: frozenset[str] = frozenset()
