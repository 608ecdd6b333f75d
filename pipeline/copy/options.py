"""What a first copy is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.ddl.follow import Policies
from pipeline import purposes
from pipeline.capture.history.timelines import Lineage
from pipeline.config import Initial
from schemas.ddl.kinds import DEFAULTS
from schemas.errors import InternalError
from schemas.lsn import Position


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """Everything `copy_replica` needs.

    pipeline, replica: their names in the configuration. stream: the log's uuid, 16 bytes. place: the
    log's end, noted *before* this call (P20); the replica's reader starts there. publication: what is
    in it at the snapshot has its rows copied, or, where that is None, `tables`; all else gets its
    schema only. lineage: which source the log follows; None: it is not compared. position: for
    `initial: none`, the position at which the replica is declared equal.
    attempts: snapshots taken before giving up because tables change. part_bytes: how much of a table
    (heap and TOAST) one worker copies in one transaction. policies: what the replica does with each kind of
    schema change: whether it gets owners and privileges.
    """

    pipeline: str
    replica: str
    source_conninfo: str
    replica_conninfo: str
    stream: bytes
    place: str
    publication: str | None = None
    tables: tuple[TableName, ...] = ()
    initial: Initial = Initial.COPY
    position: Position | None = None
    lineage: Lineage | None = None
    workers: int = 4
    pg_bin: Path | None = None
    attempts: int = 5
    part_bytes: int = 128 * 1024 * 1024
    snapshot_limit_s: float = 3600.0
    policies: Policies = field(default_factory=lambda: DEFAULTS)

    def __post_init__(self) -> None:
        if self.workers < 1 or self.part_bytes < 1 or self.attempts < 1:
            raise InternalError(
                "workers, attempts and part_bytes of a copy must be at least 1", code="copy-options-invalid"
            )
        if (self.initial is Initial.NONE) != (self.position is not None):
            raise InternalError(
                "a position is given for initial: none, and only there", code="copy-options-invalid"
            )

    @property
    def purpose(self) -> str:
        """Names the copy's sessions on both servers."""
        return purposes.copy(self.pipeline, self.replica)

    @property
    def application_name(self) -> str:
        """What `session.connect` makes of `purpose`."""
        return f"keepstream:{self.purpose}"
