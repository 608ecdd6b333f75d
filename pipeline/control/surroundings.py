"""What `status` warns of beside the stages themselves: the log, the slot and the tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from connectors.postgres.replication.slot import SlotState
from pipeline.capture.history.source import slot_foreign, slot_missing, slot_past_end
from pipeline.capture.history.timelines import Lineage, old_timeline
from pipeline.capture.history.witnesses import CAPTURE, reported
from pipeline.control.hearsay import Heard
from pipeline.control.observation import Observation, ReplicaSeen
from pipeline.control.status import StatusFinding, told_by, warning
from pipeline.reports import StageReport
from schemas.errors import HistoryBroken, KeepstreamError
from schemas.lsn import Lsn


def look_around(seen: Observation, capture: Heard) -> Iterator[StatusFinding]:
    """All that is found. `capture`: what it said last."""
    yield from _of_log(seen)
    yield from _of_timeline(seen)
    yield from _of_no_slot(seen) if seen.own_slot is None else _of_slot(seen, seen.own_slot)
    yield from _of_tables(capture)
    yield from _of_schema_changes(capture.report)


def _of_log(seen: Observation) -> Iterator[StatusFinding]:
    """One that nobody has begun yet is no finding."""
    slot, follows = seen.own_slot, seen.followers
    if not seen.known_log.exists and (slot is not None or follows):
        who = ", ".join([*(["the slot"] if slot else []), *(f"replica {name}" for name in follows)])
        yield warning("log-missing", "log", f"{seen.log_name} does not exist, but {who} went by it")


def _of_no_slot(seen: Observation) -> Iterator[StatusFinding]:
    """There is none of ours."""
    if seen.known_source is None:
        return
    promised = _has_log_promised(seen) or bool(seen.followers)
    if seen.known_source.slot is not None:
        yield _of_error(slot_foreign(seen.known_source.slot, promised=promised))
    elif promised and _is_promoted(seen):
        yield _of_error(slot_missing(seen.slot_name, promoted=True))
    elif promised:
        yield warning("slot-missing", "slot", f"slot {seen.slot_name} does not exist")


def _of_timeline(seen: Observation) -> Iterator[StatusFinding]:
    """A former primary that came back may answer in place of the new one."""
    now, log = _timeline(seen), Lineage.reported(seen.known_log.reports)
    if now is not None and log is not None and now < log.timeline:
        error = old_timeline(now, log.timeline)
        yield warning(error.code, "source", error.message, hint=error.hint)


def _is_promoted(seen: Observation) -> bool:
    """Whether the source has failed over since capture spoke last."""
    now, log = _timeline(seen), Lineage.reported(seen.known_log.reports)
    return now is not None and log is not None and now > log.timeline


def _timeline(seen: Observation) -> int | None:
    return None if seen.known_source is None else seen.known_source.timeline


def _has_log_promised(seen: Observation) -> bool:
    """What captures said counts only where the log itself cannot be asked."""
    end = seen.known_log.end
    return seen.known_log.captured is not None if isinstance(end, KeepstreamError) else end is not None


def _of_slot(seen: Observation, slot: SlotState) -> Iterator[StatusFinding]:
    if slot.lost:
        yield warning("slot-lost", "slot", f"slot {slot.name} was invalidated: {slot.invalidation_reason}")
    elif slot.wal_status == "unreserved":
        yield warning("slot-about-to-be-lost", "slot", f"slot {slot.name} is past max_slot_wal_keep_size")
    away = seen.known_source.standbys.away if seen.known_source is not None and slot.failover else ()
    if away:
        awaited = f"synchronized_standby_slots awaits {', '.join(away)}, and no standby reads from there"
        yield warning("standby-away", "slot", f"{awaited}: the source hands nothing on meanwhile")
    end = seen.known_log.end
    if isinstance(end, KeepstreamError):
        told = f"whether slot {slot.name} stands past the log's end cannot be said: {end.message}"
        yield warning("log-end-unknown", "log", told)
    elif end is not None:
        broken = slot_past_end(slot, end.tail, lambda: _witnesses(seen, end.stream))
        if broken is not None:
            yield _of_error(broken)


def _witnesses(seen: Observation, stream: bytes | None) -> dict[str, Lsn]:
    rows = {
        name: each.progress
        for name, each in seen.replicas.items()
        if isinstance(each, ReplicaSeen) and each.progress is not None
    }
    told = {CAPTURE: reported(seen.known_log.reports, stream)} | {
        f"replica {name}": row.logged for name, row in rows.items() if row.stream == stream
    }
    return {who: lsn for who, lsn in told.items() if lsn is not None}


def _of_tables(capture: Heard) -> Iterator[StatusFinding]:
    if capture.report is None or not capture.fresh:
        return
    for table in capture.report.undecided:
        yield warning(
            "table-undecided", "source", f"{table} is left out until source.keyless or a key decides"
        )
    for each in capture.report.endangered:
        told = f"UPDATE and DELETE of {each.table} fail in the application: {each.seen}"
        yield warning("writes-fail", "source", told, hint=each.fix)
    for each in capture.report.left:
        yield warning("table-left", "source", f"{each.table} {each.left_seen}", hint=each.fix)


def _of_schema_changes(capture: StageReport | None) -> Iterator[StatusFinding]:
    """A report of any age says it: without a capture the log does not come to another installation."""
    said = told_by(capture, "schema_changes") or {}
    if said.get("reason"):
        since = datetime.fromtimestamp(said["ended_at"], UTC)
        message = (
            f"schema changes are not tracked any more since {since:%Y-%m-%d %H:%M:%S} UTC: {said['reason']}"
        )
        yield warning("ddl-not-tracked", "capture", message)


def _of_error(error: HistoryBroken) -> StatusFinding:
    """Of the slot: what would stop capture if it began now."""
    return warning(error.code, "slot", error.message, hint=error.hint)
