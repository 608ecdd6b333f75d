"""One claimed replica with its place in the log: what a stage works with until something fails."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from connectors.postgres.activity import SILENCE_LIMIT_S
from connectors.postgres.apply.writer import ReplicaWriter
from connectors.postgres.replica import hold, progress
from connectors.postgres.replica.claim import Claim, replaced, silence_s, take_over
from connectors.postgres.replica.progress import HoldKind, Progress
from connectors.postgres.session import Session, connect
from pipeline import purposes
from pipeline.apply.approval import Approval
from pipeline.apply.grouping import Planner
from pipeline.apply.options import ApplyOptions
from pipeline.follow import Follower
from pipeline.reentry import follow_from
from schemas.lsn import Lsn

_RIVAL_POLL_S = 1.0


@dataclass(slots=True)
class OpenReplica:
    """`session` may be used between target transactions only. `row` is as last read."""

    session: Session
    claim: Claim
    writer: ReplicaWriter
    follower: Follower
    planner: Planner
    row: Progress
    approval: Approval
    hold: Lsn | None = field(default=None)

    def look(self) -> Progress:
        """Read the row again: what holds the replica, and whether it is still ours."""
        row = progress.require(self.session, self.claim.name)
        self.row = row
        self.hold = None if row.hold is None else row.hold.at
        return row

    def close(self) -> None:
        self.follower.close()
        self.writer.close()


def open_replica(
    options: ApplyOptions,
    stop: threading.Event,
    waits_for: Callable[[str], None],
    *,
    ours: uuid.UUID | None,
) -> OpenReplica | None:
    """Connect, wait until a living rival falls silent (unless told to take over), take over, and find the
    place in the log. `ours`: the token of our last claim, whose session may still be there. None: stopped.
    """
    session = connect(options.conninfo, purpose=purposes.apply(options.name, options.replica))
    options.log.expect_reader()
    with contextlib.ExitStack() as undo:
        undo.callback(session.close)
        claimed = _claim(session, options, stop, waits_for, ours)
        if claimed is None:
            return None
        claim, row = claimed
        if options.until_lsn is not None:
            hold.hold(session, options.name, HoldKind.UNTIL, at=options.until_lsn, replica=options.replica)
        elif options.until_time is not None:
            hold.release(session, options.name, HoldKind.UNTIL)  # an earlier end is none any more
        opened = _open_log(options, stop, session, claim, row)
        undo.pop_all()
        return opened


def _claim(
    session: Session,
    options: ApplyOptions,
    stop: threading.Event,
    waits_for: Callable[[str], None],
    ours: uuid.UUID | None,
) -> tuple[Claim, Progress] | None:
    """Wait for the replica and take it over; None: stopped."""
    while not stop.is_set():
        found = progress.require(session, options.name)
        silent_s = silence_s(session, found)
        if silent_s is not None and found.token != ours:
            if ours is not None:
                raise replaced(found.backend_pid)  # never fight back: two would end each other for ever
            if not options.take_over and silent_s <= SILENCE_LIMIT_S:
                other = f"another applier of {options.replica} (server process {found.backend_pid})"
                waits_for(f"{other} to end")
                stop.wait(_RIVAL_POLL_S)
                continue
        claimed = take_over(session, found, should_stop=stop.is_set)
        if claimed is not None:
            return claimed
    return None


def _open_log(
    options: ApplyOptions, stop: threading.Event, session: Session, claim: Claim, row: Progress
) -> OpenReplica:
    follower = follow_from(options.log, stream=row.stream, position=row.position, hint=row.place, stop=stop)
    with contextlib.ExitStack() as undo:
        undo.callback(follower.close)
        writer = ReplicaWriter(
            session,
            claim,
            follower.tables,
            replica=options.replica,
            policies=options.policies,
            should_stop=stop.is_set,
        )
        approval = Approval(session, options.name, options.policies)
        planner = Planner(row.position, row.place)
        opened = OpenReplica(session, claim, writer, follower, planner, row, approval)
        opened.look()
        undo.pop_all()
        return opened
