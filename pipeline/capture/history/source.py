"""P10: whether cluster and slot are the ones whose history the log holds.

Comparisons; each raises HistoryBroken and says what was expected, what was seen, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable

from connectors.postgres.replication.slot import SlotState
from connectors.postgres.replication.walsender import SystemIdentity, Walsender
from pipeline.capture.history.timelines import MAKE_IT_PRIMARY, check_timeline, require_cluster
from pipeline.capture.history.witnesses import Witnesses
from schemas.errors import BEGIN_ANEW, IF_MEANT, HistoryBroken
from schemas.frame import Anchor
from schemas.lsn import Position, format_lsn


def check_cluster(walsender: Walsender, anchor: Anchor, tail: Position) -> SystemIdentity:
    """P10: this is the cluster that the log came from, on a timeline that holds all that the log does."""
    system = walsender.identify_system()
    if system.system_id == anchor.system_id and system.timeline != anchor.timeline:
        check_timeline(anchor, tail, system.timeline, walsender.timeline_history(system.timeline))
    check_system(anchor, tail, system)
    return system


def check_system(anchor: Anchor, tail: Position, seen: SystemIdentity) -> None:
    """The cluster is the one that the log came from and has all that the log has."""
    require_cluster(anchor.system_id, seen)
    if seen.xlogpos < tail.lsn:
        raise HistoryBroken(
            f"the source's WAL ends at {format_lsn(seen.xlogpos)}, the log already holds it up to {tail}",
            code="source-went-back",
            hint="The source was rolled back to an earlier state; replicas may hold more than it does."
            f" {IF_MEANT}",
        )


def check_slot(
    name: str,
    slot: SlotState | None,
    *,
    tail: Position | None,
    witnesses: Callable[[], Witnesses] = dict,
    promoted: bool = False,
) -> None:
    """The slot is ours, alive, and not past the log's tail: START_REPLICATION would skip silently.

    `tail` None: its position is not compared, because another capture may be moving it. `witnesses`: asked
    only where the slot is past the tail. `promoted`: the source is a standby that was promoted since.
    """
    if slot is None:
        raise slot_missing(name, promoted=promoted)
    if slot.foreign:
        raise slot_foreign(slot, promised=True)
    if slot.lost:
        copied = "'s copy on the promoted standby" if promoted else ""
        kept = " Both hold for a standby's copies of slots, too." if promoted else ""
        raise HistoryBroken(
            f"slot {name}{copied} was invalidated: {slot.invalidation_reason or 'its WAL was removed'}",
            code="slot-invalidated",
            hint="The source removed WAL that the log does not have. Raise max_slot_wal_keep_size and"
            f" idle_replication_slot_timeout on the source.{kept} {IF_MEANT}",
        )
    past_end = None if tail is None else slot_past_end(slot, tail, witnesses)
    if past_end is not None:
        raise past_end


def slot_missing(name: str, *, promoted: bool) -> HistoryBroken:
    """What it means that there is no slot beside a log that holds changes of it."""
    if not promoted:
        return HistoryBroken(
            f"slot {name} is missing and the log holds changes that came from it",
            code="slot-missing",
            hint=f"It was dropped, so changes since then are lost to the log. {IF_MEANT}",
        )
    return HistoryBroken(
        f"slot {name} is missing on the standby that was promoted",
        code="slot-missing",
        hint="It had no copy of the slot, or none that was ready, so what was committed since the log's end"
        f" cannot be decoded there. {MAKE_IT_PRIMARY} With `failover: true` under source (PostgreSQL 17 on)"
        " standbys have a copy; `keepstream check` names what else the servers need.",
    )


def check_leftover(slot: SlotState, log: str, *, begun: bool) -> None:
    """P6: a slot beside a log that has promised nothing is one that a capture made, which `begun` the log
    and was killed before its first ANCHOR."""
    if slot.foreign:
        raise slot_foreign(slot, promised=False)
    if not begun:
        raise HistoryBroken(
            f"slot {slot.name} exists and the log {log} is empty",
            code="slot-without-log",
            hint="The slot belongs to a log that is gone, or to another pipeline of this name. Bring the log"
            f" back; or, if it is gone, drop the slot (select pg_drop_replication_slot('{slot.name}');) and"
            f" {BEGIN_ANEW}.",
        )


def slot_foreign(slot: SlotState, *, promised: bool) -> HistoryBroken:
    """A slot that is not ours bears our name. `promised`: the log holds changes that came from ours."""
    temporary = ", temporary" if slot.temporary else ""
    of = f"plugin {slot.plugin}, database {slot.database}{temporary}" if slot.plugin else "a physical one"
    anew = f", and as ours is gone, {BEGIN_ANEW}" if promised else ""
    return HistoryBroken(
        f"slot {slot.name} is another one: {of}",
        code="slot-foreign",
        hint="Somebody else made a slot of this name. Rename one of the two pipelines (`name` in"
        " keepstream.yaml). Only if nobody needs that slot, drop it (select"
        f" pg_drop_replication_slot('{slot.name}');){anew}.",
    )


def slot_past_end(
    slot: SlotState, tail: Position, witnesses: Callable[[], Witnesses]
) -> HistoryBroken | None:
    """What it means that the slot stands past the log's tail; None if it does not. A witness that went by the
    log further than that proves that the log went further, too."""
    confirmed = slot.confirmed_flush_lsn
    if confirmed is None or confirmed <= tail.lsn:
        return None
    stands = f"slot {slot.name} stands at {format_lsn(confirmed)}"
    lost_by = "a broker without it became leader, or a disk was restored from an older copy"
    for who, lsn in witnesses().items():
        if lsn > tail.lsn:
            return HistoryBroken(
                f"{stands} and {who} at {format_lsn(lsn)}, but the log ends at {tail}",
                code="log-end-lost",
                hint=f"The log lost its end: {lost_by}. Bring back the copy of the log that has it. If there"
                f" is none, {BEGIN_ANEW}.",
            )
    return HistoryBroken(
        f"{stands}, the log ends at {tail}",
        code="slot-advanced",
        hint="Somebody else read from the slot, advanced it, or made it anew: what lies between is lost"
        f" to the log. Or the log lost its end ({lost_by}): then bring back the copy of the log that has it."
        f" {IF_MEANT}",
    )
