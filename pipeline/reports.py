"""What a stage says of itself, published beside the log for `status` on any host.

A report is a hint for people: the truth about positions is in the slot, the log and the replica's
progress row. A report that is older than `STALE_AFTER_S` says nothing about now.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import KeepstreamError

STALE_AFTER_S = 15.0
CAPTURE_STAGE = "capture"


def apply_stage(replica: str) -> str:
    """What the stage that copies and applies to this replica calls itself in its reports."""
    return f"apply:{replica}"


class StageState(StrEnum):
    """The states that `status` shows. Idle is not stuck, retrying is not failed."""

    STARTING = "starting"
    COPYING = "copying"
    CATCHING_UP = "catching_up"
    STREAMING = "streaming"
    IDLE = "idle"
    PAUSED = "paused"
    WAITING = "waiting_for_approval"
    RETRYING = "retrying"
    STALLED = "stalled"
    STOPPED = "stopped"


class ReportedError(BaseModel):
    """The last error of a stage; `at` is Unix time in seconds."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    hint: str
    at: float

    @classmethod
    def of(cls, error: KeepstreamError) -> ReportedError:
        return cls(code=error.code, message=error.message, hint=error.hint, at=time.time())


class NotReplicated(BaseModel):
    """A table that is left out, and why."""

    model_config = ConfigDict(frozen=True)

    table: str
    reason: str


class Endangered(BaseModel):
    """A table whose UPDATE and DELETE fail in the application if it is published: what was seen, and what
    mends it."""

    model_config = ConfigDict(frozen=True)

    table: str
    seen: str
    fix: str

    @property
    def left_seen(self) -> str:
        """Of one that capture took out of the publication; it follows the table's name in a sentence."""
        return (
            "is not replicated any more, so that its UPDATE and DELETE do not fail in the application:"
            f" {self.seen}"
        )


class StageReport(BaseModel):
    """One stage's newest word. Unknown figures are None. LSNs are text.

    owner: whether the slot, or the replica, is this process's now; False while it starts, stands by or
        retries.
    process: which one published it (`pipeline.processes`).
    hung_s: how long ago its loop last went round. It waits for a server then, or does something large.
    stream: the one that a capture writes, in hex; what it says of positions is of no other.
    undecided: those of `not_replicated` that are left out only until `source.keyless` or a key decides.
    endangered: published tables whose writes fail. left: those that are not published any more for that.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    state: StageState
    at: float = Field(default_factory=time.time)
    pid: int = Field(default_factory=os.getpid)
    host: str = Field(default_factory=socket.gethostname)
    process: str | None = None
    owner: bool = True
    hung_s: float = 0.0
    stream: str | None = None
    position: str | None = None
    commit_lsn: str | None = None
    commit_time: float | None = None
    changes_per_s: float | None = None
    bytes_per_s: float | None = None
    transactions: int | None = None
    changes: int | None = None
    last_error: ReportedError | None = None
    waiting_for: str | None = None
    not_replicated: tuple[NotReplicated, ...] = ()
    undecided: tuple[str, ...] = ()
    endangered: tuple[Endangered, ...] = ()
    left: tuple[Endangered, ...] = ()
    details: dict[str, Any] = Field(default_factory=dict)


Report = Callable[[StageReport], None]
"""How a stage publishes: cheap to call often; the receiver limits the rate."""
