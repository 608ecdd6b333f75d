"""Who may write to a replica (P13, P14): taking it over, and the compare-and-set that proves it.

A `Claim` is the token that this applier wrote into the progress row. Every target transaction begins
with `ADVANCE`, which updates one row only if the replica is still ours and where we think it is.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from connectors.failpoints import failpoint
from connectors.postgres.activity import SEE_WAITS
from connectors.postgres.replica.progress import (
    Progress,
    ReplicaState,
    missing,
    require,
    to_timestamp,
)
from connectors.postgres.session import Session, wrapped
from schemas.errors import HistoryBroken, KeepstreamError, OperatorNeeded, RetryLater
from schemas.lsn import Lsn, Position, format_lsn

_END_TIMEOUT_S: Final = 30.0

ADVANCE: Final = b"""
    update keepstream.progress
       set position = $1::pg_lsn, xid = $2::bigint, commit_time = $3::timestamptz, place = $4,
           updated_at = clock_timestamp()
     where name = $5 and stream = $6::uuid and token = $7::uuid and position = $8::pg_lsn
       and state = 'streaming'
       and (hold_at is null or hold_expires <= clock_timestamp() or $1::pg_lsn <= hold_at)
"""
"""P13. Parameters are PostgreSQL's text, made by `Claim.advance`."""

TOUCH: Final = b"""
    update keepstream.progress set updated_at = clock_timestamp() where name = $1 and token = $2::uuid
"""
"""An empty write, whose synchronous commit makes everything before it durable."""


@dataclass(frozen=True, slots=True)
class Claim:
    """This applier's right to move the row `name`."""

    name: str
    stream: bytes
    token: uuid.UUID

    def advance(self, old: Lsn, new: Position, *, place: str) -> list[bytes | None]:
        """Parameters of ADVANCE."""
        commit_time = to_timestamp(new.commit_time)
        return [
            format_lsn(new.lsn).encode(),
            str(new.xid).encode(),
            None if commit_time is None else commit_time.encode(),
            place.encode(),
            self.name.encode(),
            uuid.UUID(bytes=self.stream).hex.encode(),
            self.token.hex.encode(),
            format_lsn(old).encode(),
        ]

    def touch(self) -> list[bytes]:
        """Parameters of TOUCH."""
        return [self.name.encode(), self.token.hex.encode()]


class PositionLost(RetryLater):
    """The compare-and-set touched no row: nothing was changed. `explain` says why."""


_SILENCE: Final = """
    select case when state = 'active' and wait_event_type is distinct from 'Client' then 0.0
                else extract(epoch from clock_timestamp() - greatest(query_start, state_change))
           end::float8
      from pg_catalog.pg_stat_activity where pid = %s and backend_start = %s and pid <> pg_backend_pid()
"""

_TERMINATE: Final = """
    select pg_terminate_backend(a.pid) from pg_catalog.pg_stat_activity a
     where a.pid = %s and a.backend_start = %s and a.pid <> pg_backend_pid()
"""

_CLAIM: Final = """
    update keepstream.progress p
       set token = %(new)s, backend_pid = a.pid, backend_start = a.backend_start,
           updated_at = clock_timestamp()
      from pg_catalog.pg_stat_activity a
     where p.name = %(name)s and p.token = %(old)s and a.pid = pg_backend_pid()
"""


def silence_s(conn: Session, found: Progress) -> float | None:
    """How long the applier that `found` records has said nothing; None if its session is gone. One that
    works on a statement is not silent; one whose server process waits for its client is."""
    with wrapped("looking for another applier"):
        row = conn.execute(_SILENCE, [found.backend_pid, found.backend_start]).fetchone()
    return None if row is None else row[0] or 0.0


def take_over(
    conn: Session, found: Progress, *, should_stop: Callable[[], bool] = lambda: False
) -> tuple[Claim, Progress] | None:
    """Make the replica ours: end the session that `found` records, wait until it is gone, write a new
    token (P14).

    Whoever calls has decided that this one may be ended. None if another applier has claimed the replica
    since, as it may while this process is frozen: that one was not asked about, and lives on. Only when
    the session is gone is the returned row's position final: until then a frozen applier holds row locks,
    and a COMMIT of unknown outcome may still be running. `conn` becomes the recorded session. Raises
    HistoryBroken (`progress-missing`), OperatorNeeded (`copy-unfinished`), RetryLater (`take-over-slow`,
    also when `should_stop`).
    """
    _refuse_unfinished_copy(found)
    _end(conn, found, time.monotonic() + _END_TIMEOUT_S, should_stop)
    failpoint("apply.take_over")
    values = {"name": found.name, "old": found.token, "new": (token := uuid.uuid4())}
    with wrapped("taking the replica over"):
        if conn.execute(_CLAIM, values).rowcount != 1:
            return None
    return Claim(found.name, found.stream, token), require(conn, found.name)


def _refuse_unfinished_copy(found: Progress) -> None:
    if found.state is ReplicaState.COPYING:
        raise OperatorNeeded(
            f"the first copy of {found.name!r} has not been completed",
            code="copy-unfinished",
            hint="Start `keepstream run`: it clears away what that copy made and begins anew.",
        )


def _end(conn: Session, found: Progress, deadline: float, should_stop: Callable[[], bool]) -> None:
    while found.backend_pid is not None:
        with wrapped("ending the replaced applier's session"):
            row = conn.execute(_TERMINATE, [found.backend_pid, found.backend_start]).fetchone()
        if row is None:
            return
        time.sleep(0.02)
        if should_stop() or time.monotonic() > deadline:
            raise RetryLater(
                f"session {found.backend_pid} of the replaced applier does not end",
                code="take-over-slow",
                hint=f"On the replica: {SEE_WAITS}",
            )


class Loss(Enum):
    """Why a compare-and-set touched no row."""

    HELD = "held"
    MOVED = "moved"


def explain(claim: Claim, row: Progress | None, *, old: Position) -> Loss:
    """Why ADVANCE from `old` touched nothing, from the row as it is now.

    HELD: a hold stands in the way, or did a moment ago, as a verification's does. MOVED: the replica is
    elsewhere (a commit of unknown outcome had worked, or a fail-over lost the last commits): read on from
    where it is. Raises OperatorNeeded (`applier-replaced`) and HistoryBroken where somebody has to look.
    """
    error = _fatal_loss(claim, row)
    if error is not None:
        raise error
    assert row is not None
    return Loss.HELD if row.position == old else Loss.MOVED


def replaced(pid: int | None) -> OperatorNeeded:
    """The error that ends an applier which another one has replaced."""
    return OperatorNeeded(
        f"another applier has taken the replica over (server process {pid})",
        code="applier-replaced",
        hint="Nothing is wrong if that was meant; run only one `keepstream apply` or `run` per replica.",
    )


def _fatal_loss(claim: Claim, row: Progress | None) -> KeepstreamError | None:
    if row is None:
        return missing(claim.name)
    if row.stream != claim.stream:
        return HistoryBroken(
            f"the replica now follows stream {uuid.UUID(bytes=row.stream)}",
            code="other-stream",
            hint="It was copied anew from another log. Start this applier again with that log.",
        )
    if row.token != claim.token:
        return replaced(row.backend_pid)
    if row.state is ReplicaState.COPYING:
        return OperatorNeeded(
            "a first copy into this replica has begun",
            code="copy-unfinished",
            hint="Let it finish: `keepstream status` shows how far it is. Then start this applier again.",
        )
    return None
