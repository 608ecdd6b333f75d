"""What capture needs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from connectors.interfaces import ChangeLog
from pipeline.config.model import Initial, Keyless, Partitions, Tables


@dataclass(frozen=True, slots=True)
class FollowingReplica:
    """A configured replica, as far as capture is concerned: tables join only if it can make them, and the log
    is kept for it. `delay_s`: how far it stays behind on purpose."""

    conninfo: str = field(repr=False)
    initial: Initial
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TrimOptions:
    """`open_log` gives a log of the trimming thread's own, which it closes. `retain`: how long an anchor is
    kept at least."""

    open_log: Callable[[], ChangeLog]
    retain: timedelta


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """`source`: any libpq connection string. `take_over`: end another capture that owns the slot.
    `failover`: standbys are to have a copy of the slot.
    `replicas`: all that are configured, by name. `trim`: how the log is trimmed; None: it is not."""

    name: str
    source: str
    log: ChangeLog
    publication: str
    slot: str
    tables: Tables
    keyless: Keyless
    replicas: Mapping[str, FollowingReplica] = field(default_factory=dict)
    pg_bin: Path | None = None
    take_over: bool = False
    failover: bool = False
    partitions: Partitions = Partitions.LEAVES
    trim: TrimOptions | None = None
