"""What apply needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field

from connectors.interfaces import ChangeLog
from connectors.postgres.ddl.follow import Policies
from pipeline.apply.awaited import CopyTables
from schemas.ddl.kinds import DEFAULTS
from schemas.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Skip:
    """Leave out the next transaction, which must be the one that commits at `lsn`."""

    lsn: Lsn
    reason: str


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """`name`: of the pipeline, names the progress row. `replica`: its name in the configuration.

    conninfo: any libpq connection string. delay_us: apply what is older than that. until_lsn, until_time
    (µs since 1970 UTC): stop there, at most one of them. take_over: end another living applier at once.
    policies: what the replica does with each kind of schema change. copy_tables: copies tables that await
    their copy; None: an operator does.
    """

    name: str
    replica: str
    conninfo: str
    log: ChangeLog
    delay_us: int = 0
    until_lsn: Lsn | None = None
    until_time: int | None = None
    skip: Skip | None = None
    take_over: bool = False
    policies: Policies = field(default_factory=lambda: DEFAULTS)
    copy_tables: CopyTables | None = None
