"""Leaving one whole transaction out: an operator's explicit act, written down where it took effect."""

from __future__ import annotations

import json
import threading
import time

from connectors.postgres.replica.claim import PositionLost
from pipeline.apply.grouping import ApplyPart, Blocked, Brakes, Group, Limits, Planner, RollBack
from pipeline.apply.opened import OpenReplica
from pipeline.apply.options import Skip
from schemas.errors import OperatorNeeded
from schemas.frame import Part, Transaction
from schemas.lsn import Position, format_lsn

PATIENCE_S = 10.0
"""For so long more is waited for at the log's end."""
ACTION = "skip-transaction"
_READ_S = 0.5


def skip_next(opened: OpenReplica, skip: Skip, stop: threading.Event, *, end: int, replica: str) -> bool:
    """Move over the next transaction without applying it, audited in the same target transaction.

    `end`: of the log as it is now (`Bounds`). What stands before it, and the parts of the transaction, may
    take as long as they take to be read; nothing else that is written meanwhile is worth more patience.

    Returns False if `stop` came first. Raises OperatorNeeded: `skip-not-next` if the next transaction is
    another one or the log has none, `replica-held` if the replica is held before it.
    """
    planner = opened.planner
    planner.one_by_one(1)
    came_at, changes = time.monotonic(), 0
    while not stop.is_set():
        step = planner.next(Brakes(), Limits())
        if isinstance(step, Blocked):
            _refuse_passed(planner, skip)
            if time.monotonic() - came_at > PATIENCE_S:
                raise _not_next(skip, f"the log has no whole transaction after {planner.position}")
            if _read(opened, end):
                came_at = time.monotonic()
            continue
        if isinstance(step, RollBack):
            changes = 0
        if isinstance(step, (Group, ApplyPart)):
            subject = step.transactions[0].transaction if isinstance(step, Group) else step.part
            _check(subject, skip)
            changes += subject.change_count + _ends_fragment(subject)
            if subject.position is not None:
                try:
                    _move_over(opened, skip, subject, subject.position, changes)
                except PositionLost:
                    opened.writer.rollback()
                    if opened.look().hold is None:
                        raise
                    raise _held(opened, replica) from None
                planner.done(step)
                return True
            came_at = time.monotonic()
        planner.done(step)
    return False


def _refuse_passed(planner: Planner, skip: Skip) -> None:
    """Where replica or log is past it already: what commits below that came before (P1)."""
    position, standing = planner.position, planner.standing
    if skip.lsn < position.lsn:
        raise _not_next(skip, f"the replica is past it, at {format_lsn(position.lsn)}")
    if standing is not None and skip.lsn < standing.lsn:
        here, there = format_lsn(position.lsn), format_lsn(standing.lsn)
        raise _not_next(skip, f"the log has no transaction between {here} and {there}")


def _read(opened: OpenReplica, end: int) -> bool:
    """Whether anything before `end` came, be it ignored."""
    before = opened.follower.next_place
    for followed in opened.follower.read(_READ_S):
        opened.planner.backlog.feed(followed)
    return before < min(opened.follower.next_place, end)


def _ends_fragment(subject: Transaction | Part) -> bool:
    return isinstance(subject, Part) and subject.fragment is not None and subject.fragment.last


def _check(subject: Transaction | Part, skip: Skip) -> None:
    if skip.lsn != subject.commit_lsn:  # where one ends the next may commit (P1)
        commit_lsn = format_lsn(subject.commit_lsn)
        raise _not_next(skip, f"the next transaction commits at {commit_lsn} (xid {subject.xid})")


def _not_next(skip: Skip, seen: str) -> OperatorNeeded:
    return OperatorNeeded(
        f"cannot skip the transaction at {format_lsn(skip.lsn)}: {seen}",
        code="skip-not-next",
        hint="Only the next transaction can be left out: name the LSN that the stopped apply's error names.",
    )


def _move_over(
    opened: OpenReplica, skip: Skip, subject: Transaction | Part, position: Position, changes: int
) -> None:
    planner, writer = opened.planner, opened.writer
    details = {
        "commit_lsn": format_lsn(subject.commit_lsn),
        "end_lsn": format_lsn(position.lsn),
        "changes": changes,
        "stream": opened.claim.stream.hex(),
    }
    writer.begin(planner.position.lsn, position, place=planner.hint)
    writer.audit(ACTION, reason=skip.reason, at=position, details=json.dumps(details))
    writer.commit()
    writer.flush()


def _held(opened: OpenReplica, replica: str) -> OperatorNeeded:
    return OperatorNeeded(
        f"the replica is held at {format_lsn(opened.hold or 0)}",
        code="replica-held",
        hint=f"Release it first: `keepstream resume {replica}`.",
    )
