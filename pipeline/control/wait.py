"""`wait`: until a replica holds all that was committed on the source when it was called (P22)."""

from __future__ import annotations

import time
from dataclasses import dataclass

from connectors.postgres.progress import Progress, ReplicaState, read
from connectors.postgres.session import Session, connect, wrapped
from pipeline.backoff import Backoff
from schemas.errors import RetryLater, Unhealthy
from schemas.lsn import Lsn, format_lsn, parse_lsn

MESSAGE_PREFIX = "keepstream.wait"
POLL_FIRST_S = 0.01
POLL_LONGEST_S = 0.25


@dataclass(frozen=True, slots=True)
class Waited:
    """The replica holds everything below `lsn`."""

    lsn: Lsn
    position: Lsn
    took_s: float


def mark_now(source: Session) -> Lsn:
    """The source's insert LSN, with a transaction behind it that brings the log past it at once.

    The flush LSN would miss asynchronous commits (P22).
    """
    message = "select pg_catalog.pg_logical_emit_message(true, %s::text, ''::text)"
    with wrapped("writing a message into the source's WAL"):
        source.execute("set synchronous_commit = on")
        source.execute(message, [MESSAGE_PREFIX])
        row = source.execute("select pg_catalog.pg_current_wal_insert_lsn()::text").fetchone()
        source.execute(message, [MESSAGE_PREFIX])
    assert row is not None
    return parse_lsn(row[0])


def wait_for_replica(
    *, name: str, replica: str, source_conninfo: str, replica_conninfo: str, timeout_s: float | None
) -> Waited:
    """Returns once the replica holds what was committed before the call.

    A copy that is still running counts as not there yet. A server that goes away meanwhile is tried
    again. Raises Unhealthy (`wait-timeout`).
    """
    started = time.monotonic()
    with connect(source_conninfo, purpose=f"{name}:wait") as source:
        target = mark_now(source)
    deadline = None if timeout_s is None else started + timeout_s
    backoff = Backoff()
    while True:
        try:
            with connect(replica_conninfo, purpose=f"{name}:wait") as session:
                position = _poll(session, name, replica, target, deadline)
                return Waited(target, position, time.monotonic() - started)
        except RetryLater:
            if deadline is not None and time.monotonic() > deadline:
                raise
            time.sleep(backoff.next_s())


def _poll(session: Session, name: str, replica: str, target: Lsn, deadline: float | None) -> Lsn:
    pause_s = POLL_FIRST_S
    while True:
        progress = read(session, name)
        if (
            progress is not None
            and progress.state is ReplicaState.STREAMING
            and progress.position.lsn >= target
        ):
            return progress.position.lsn
        if deadline is not None and time.monotonic() > deadline:
            raise _timeout(replica, target, progress)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.2, POLL_LONGEST_S)


def _timeout(replica: str, target: Lsn, progress: Progress | None) -> Unhealthy:
    if progress is None:
        seen = "has no progress row yet"
    elif progress.state is ReplicaState.COPYING:
        seen = "is still being copied"
    else:
        held = (
            f", held at {format_lsn(progress.hold.at)} ({progress.hold.kind.value})" if progress.hold else ""
        )
        seen = f"is at {progress.position}{held}"
    return Unhealthy(
        f"replica {replica} did not reach {format_lsn(target)} in time: it {seen}",
        code="wait-timeout",
        hint="Look at `keepstream status`; a paused replica goes on with `keepstream resume`.",
    )
