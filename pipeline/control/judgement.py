"""What `status` says: one pure function from what was seen (`Observation`) to a `Status`.

States and figures are documented in docs/operating.md. The rules:

    stopped   no process: its report is old, or its process is gone, and slot or session are free
    stalled   a process with work to do whose position does not move, or that is not heard of
    idle      a process without work to do
    None      cannot be known from here; findings say why

Positions come from slot and progress row, which are the truth; reports, which are hints, say what a
stage does and how far what it has *seen* is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from connectors.postgres.progress import HoldKind, Progress, ReplicaState
from connectors.postgres.slot import SILENCE_LIMIT_S, SlotState, time_to_full_s
from pipeline.control.hints import hint_for
from pipeline.control.observation import LogSeen, Observation, ReplicaSeen, SourceSeen
from pipeline.control.status import Replica, Stage, Status, StatusFinding
from pipeline.reports import STALE_AFTER_S, NotReplicated, StageReport, StageState
from schemas.errors import KeepstreamError
from schemas.lsn import Lsn, format_lsn, parse_lsn

STALL_S = 30.0
"""A position that did not move for this long although there is work to do is stuck."""
CAUGHT_UP_S = 1.5
"""A live stage that, when it reported, was this close behind is no further behind now."""
LOOP_S = 0.3
"""How often a stage without work looks for some: closer than this it lacked nothing."""

_WORST_FIRST = (
    StageState.STOPPED,
    StageState.STALLED,
    StageState.RETRYING,
    None,
    StageState.STARTING,
    StageState.COPYING,
    StageState.CATCHING_UP,
    StageState.PAUSED,
    StageState.STREAMING,
    StageState.IDLE,
)
_COPY = {
    "phase": "phase",
    "attempt": "attempt",
    "tables": "tables_done",
    "tables_total": "tables_total",
    "rows": "rows_done",
    "rows_estimated": "rows_estimated",
    "bytes": "bytes_done",
    "bytes_estimated": "bytes_estimated",
    "rows_per_s": "rows_per_s",
    "bytes_per_s": "bytes_per_s",
    "eta_s": "eta_s",
    "items": "items_done",
    "items_total": "items_total",
    "snapshot_lsn": "snapshot_lsn",
    "snapshot_age_s": "snapshot_age_s",
    "source_wal_bytes": "source_wal_bytes",
    "source_xmin_age": "source_xmin_age",
    "restart_reason": "restart_reason",
}
"""The figures of a copy as `status` calls them, and as `CopyProgress` does."""
_WORKING = frozenset({StageState.STREAMING, StageState.IDLE, StageState.CATCHING_UP, StageState.PAUSED})


def judge_status(seen: Observation) -> Status:
    """The whole judgement. Total: whatever is missing, there is a Status."""
    return _Judge(seen).status()


class _Judge:
    """Holds the observation and what is read out of it once."""

    def __init__(self, seen: Observation) -> None:
        self._seen = seen
        self._source = seen.source if isinstance(seen.source, SourceSeen) else None
        self._slot = self._source.slot if self._source else None
        self._reports = seen.log.reports if isinstance(seen.log, LogSeen) else {}
        self._findings: list[StatusFinding] = list(_unreachable(seen))

    def status(self) -> Status:
        capture = self._capture()
        replicas = {name: self._replica(name, capture) for name in self._seen.replicas}
        self._look_at_slot(self._slot)
        self._look_at_tables(capture)
        stages = [capture, *(replica.stage for replica in replicas.values())]
        return Status(
            name=self._seen.name,
            at=self._seen.at,
            state=worst(stage.state for stage in stages),
            capture=capture,
            replicas=replicas,
            slot=self._slot_json(),
            source=self._source_json(),
            log=_log_json(self._seen),
            not_replicated=self._not_replicated(capture),
            findings=tuple(self._findings),
        )

    # capture

    def _capture(self) -> Stage:
        report = self._reports.get("capture")
        age_s = self._age_s(report)
        lag_s = self._capture_lag_s(report)
        state = self._capture_state(report, age_s, lag_s)
        done = max((lsn for lsn in (_lsn(report, "complete_lsn"), self._confirmed()) if lsn), default=None)
        return Stage(
            state=state,
            end_lsn=_text(self._captured(report)),
            commit_lsn=report.commit_lsn if report else None,
            lag_bytes=self._behind(done, lag_s),
            lag_s=lag_s,
            report=report,
            report_age_s=age_s,
        )

    def _confirmed(self) -> Lsn | None:
        return self._slot.confirmed_flush_lsn if self._slot else None

    def _captured(self, report: StageReport | None) -> Lsn | None:
        """Where the log stands, as far as is known."""
        known = [lsn for lsn in (_position(report), self._confirmed()) if lsn is not None]
        return max(known, default=None)

    def _capture_lag_s(self, report: StageReport | None) -> float | None:
        """How long ago the oldest commit may have been made that is not in the log; None: not known."""
        if self._source is None:
            return None
        done = max(_lsn(report, "complete_lsn") or 0, self._confirmed() or 0)
        if done >= self._source.insert_lsn:
            return 0.0
        return self._since_complete_s(report, self._is_live_capture(report))

    def _is_live_capture(self, report: StageReport | None) -> bool:
        if report is None or report.state is StageState.STOPPED or "capture" in self._seen.dead:
            return False
        slot_is_free = self._source is not None and (self._slot is None or self._slot.active_pid is None)
        return self._is_fresh(report) and not slot_is_free

    def _capture_state(
        self, report: StageReport | None, age_s: float | None, lag_s: float | None
    ) -> StageState | None:
        slot = self._slot
        active = slot is not None and slot.active_pid is not None
        if report is None:
            if isinstance(self._seen.log, KeepstreamError):
                return None if active or self._source is None else StageState.STOPPED
            return StageState.STARTING if active else StageState.STOPPED
        fresh, dead = self._is_fresh(report), "capture" in self._seen.dead
        if report.state is StageState.STOPPED or (dead and not active) or not (fresh or active):
            unknown = self._source is None and not dead and report.state is not StageState.STOPPED
            return None if unknown and not fresh else StageState.STOPPED
        if not fresh:
            self._warn("capture-silent", "capture", f"its last report is {age_s or 0:.0f} s old")
            return StageState.STALLED if self._is_log_behind() else report.state
        if report.state not in _WORKING:
            return report.state
        if self._source is not None and not active:
            return StageState.RETRYING  # it lost the slot and has not said so yet
        return self._working_capture(report, lag_s)

    def _working_capture(self, report: StageReport, lag_s: float | None) -> StageState:
        owner = self._source.owner if self._source else None
        if owner is not None and owner.silent_s is not None and owner.silent_s > SILENCE_LIMIT_S:
            self._warn(
                "walsender-silent", "capture", f"the source last heard of it {owner.silent_s:.0f} s ago"
            )
            return StageState.STALLED
        if lag_s is not None and lag_s > STALL_S and _unchanged_s(report) > STALL_S:
            self._warn("capture-stuck", "capture", f"it wrote nothing for {_unchanged_s(report):.0f} s")
            return StageState.STALLED
        if lag_s is not None and lag_s > STALE_AFTER_S:
            return StageState.CATCHING_UP
        return report.state

    def _is_log_behind(self) -> bool:
        confirmed = self._confirmed()
        return self._source is not None and confirmed is not None and confirmed < self._source.insert_lsn

    # replicas

    def _replica(self, name: str, capture: Stage) -> Replica:
        seen, report = self._seen.replicas[name], self._reports.get(f"apply:{name}")
        row = seen.progress if isinstance(seen, ReplicaSeen) else None
        moved_s = seen.moved_s if isinstance(seen, ReplicaSeen) else None
        copying = report is not None and report.state is StageState.COPYING and self._is_fresh(report)
        streaming = row is not None and row.state is ReplicaState.STREAMING and not copying
        held_s = self._apply_lag_s(row, report, moved_s) if streaming else None
        lag_s = None if held_s is None or capture.lag_s is None else max(held_s, capture.lag_s)
        state = self._replica_state(name, seen, report, held_s)
        position = row.position.lsn if row is not None and streaming else None
        stage = Stage(
            state=state,
            end_lsn=_text(position),
            commit_lsn=report.commit_lsn if report else None,
            lag_bytes=self._behind(position, lag_s),
            lag_s=lag_s,
            report=report,
            report_age_s=self._age_s(report),
            hold=_hold(row),
        )
        return Replica(stage, _copy(report))

    def _apply_lag_s(
        self, row: Progress | None, report: StageReport | None, moved_s: float | None
    ) -> float | None:
        """How long ago the oldest commit may have been made that is in the log and not applied."""
        assert row is not None
        captured = self._captured(self._reports.get("capture"))
        if captured is not None and row.position.lsn >= captured:
            return 0.0
        live = self._is_fresh(report) and row.alive
        return self._since_complete_s(report, live, at_least=row.position.commit_time / 1e6)

    def _replica_state(
        self,
        name: str,
        seen: ReplicaSeen | KeepstreamError,
        report: StageReport | None,
        behind_s: float | None,
    ) -> StageState | None:
        fresh = self._is_fresh(report) and f"apply:{name}" not in self._seen.dead
        if isinstance(seen, KeepstreamError):
            return report.state if report is not None and fresh else None
        row = seen.progress
        alive = row is not None and row.alive and row.state is ReplicaState.STREAMING
        if report is None or not (fresh or alive) or (fresh and report.state is StageState.STOPPED):
            unknown = report is None and isinstance(self._seen.log, KeepstreamError)
            return None if unknown and alive else StageState.STOPPED
        if not fresh:
            if seen.moved_s is not None and seen.moved_s < STALE_AFTER_S:
                return report.state
            self._warn(
                "apply-silent", f"replica {name}", f"its last report is {self._age_s(report):.0f} s old"
            )
            return StageState.STALLED
        if row is None or not alive or report.state not in _WORKING:
            return _not_yet(report, row)
        return self._working_replica(name, row, report, behind_s, seen.moved_s)

    def _working_replica(
        self,
        name: str,
        row: Progress,
        report: StageReport,
        behind_s: float | None,
        moved_s: float | None,
    ) -> StageState:
        if row.hold is not None and row.hold.kind is HoldKind.PAUSE and row.position.lsn >= row.hold.at:
            return StageState.PAUSED
        if report.state is StageState.PAUSED or report.details.get("blocked") == "delayed":
            return report.state
        quiet_s = min(_unchanged_s(report), moved_s or 0.0)
        if behind_s is not None and min(behind_s, quiet_s) > STALL_S:
            self._warn("apply-stuck", f"replica {name}", f"its position has not moved for {quiet_s:.0f} s")
            return StageState.STALLED
        if report.state is StageState.CATCHING_UP and behind_s is not None and behind_s <= CAUGHT_UP_S:
            return StageState.STREAMING  # it groups what came in at once, and keeps up
        return report.state

    # figures

    def _since_complete_s(
        self, report: StageReport | None, live: bool, *, at_least: float = 0.0
    ) -> float | None:
        """Everything upstream before `complete_at` is done. Of a live stage that kept up: how far behind
        it was at its last word."""
        complete_at = max(_number(report, "complete_at") or 0.0, at_least)
        if report is None or not complete_at:
            return None
        behind_s = report.at - complete_at
        if live and behind_s <= CAUGHT_UP_S:
            return behind_s if behind_s > LOOP_S else 0.0
        clock = self._source.clock if self._source else self._seen.at
        return max(0.0, clock - complete_at)

    def _behind(self, position: Lsn | None, lag_s: float | None) -> int | None:
        """WAL written on the source after a position; 0 where nothing published is missing."""
        if position is None or self._source is None:
            return None
        return 0 if lag_s == 0 else max(0, self._source.insert_lsn - position)

    def _age_s(self, report: StageReport | None) -> float | None:
        return None if report is None else max(0.0, self._seen.at - report.at)

    def _is_fresh(self, report: StageReport | None) -> bool:
        age_s = self._age_s(report)
        return age_s is not None and age_s <= STALE_AFTER_S

    def _not_replicated(self, capture: Stage) -> tuple[NotReplicated, ...]:
        if self._is_fresh(capture.report) and capture.report is not None and capture.report.not_replicated:
            return capture.report.not_replicated
        return self._source.left_out if self._source else ()

    # slot

    def _slot_json(self) -> dict[str, Any]:
        slot, source = self._slot, self._source
        rate = source.wal_bytes_per_s if source else None
        return {
            "name": self._seen.slot_name,
            "exists": None if source is None else slot is not None,
            "active": None if slot is None else slot.active_pid is not None,
            "restart_lsn": _text(slot.restart_lsn) if slot else None,
            "confirmed_lsn": _text(slot.confirmed_flush_lsn) if slot else None,
            "retained_bytes": slot.retained_bytes if slot else None,
            "safe_wal_bytes": slot.safe_wal_bytes if slot else None,
            "wal_status": slot.wal_status if slot else None,
            "wal_bytes_per_s": None if rate is None else round(rate),
            "time_to_full_s": _rounded(time_to_full_s(slot.safe_wal_bytes, rate or 0.0)) if slot else None,
            "catalog_xmin_age": slot.catalog_xmin_age if slot else None,
        }

    def _source_json(self) -> dict[str, Any]:
        source = self._source
        return {
            "reachable": source is not None,
            "insert_lsn": _text(source.insert_lsn) if source else None,
            "wal_directory_bytes": source.space.directory_bytes if source else None,
            "keep_limit_bytes": source.space.keep_limit_bytes if source else None,
            "publication_exists": source.publication_exists if source else None,
        }

    def _look_at_slot(self, slot: SlotState | None) -> None:
        if slot is None:
            if self._source is not None and "capture" in self._reports:
                self._warn("slot-missing", "slot", f"slot {self._seen.slot_name} does not exist")
            return
        if slot.lost:
            self._warn("slot-lost", "slot", f"slot {slot.name} was invalidated: {slot.invalidation_reason}")
        elif slot.wal_status == "unreserved":
            self._warn("slot-about-to-be-lost", "slot", f"slot {slot.name} is past max_slot_wal_keep_size")

    def _look_at_tables(self, capture: Stage) -> None:
        if capture.report is None or not self._is_fresh(capture.report):
            return
        for table in capture.report.undecided:
            self._warn(
                "table-undecided", "source", f"{table} is left out until source.keyless or a key decides"
            )
        for each in capture.report.endangered:
            seen = f"UPDATE and DELETE of {each.table} fail in the application: {each.seen}"
            self._warn("writes-fail", "source", seen, hint=each.fix)

    def _warn(self, code: str, where: str, message: str, *, hint: str = "") -> None:
        hint = hint or hint_for(code, replica=where.removeprefix("replica "))
        self._findings.append(StatusFinding("warning", code, where, message, hint))


def worst(states: Iterable[StageState | None]) -> StageState | None:
    """The state of the whole: the one that most wants attention (stopped first, idle last)."""
    return min(states, key=_WORST_FIRST.index)


def _not_yet(report: StageReport, row: Progress | None) -> StageState:
    """What a live stage says before it streams; one that says it streams over a dead session retries."""
    if report.state in _WORKING:
        return StageState.RETRYING if row is not None else StageState.STARTING
    return report.state


def _unreachable(seen: Observation) -> Iterator[StatusFinding]:
    places: list[tuple[str, object]] = [("source", seen.source), ("log", seen.log)]
    places += [(f"replica {name}", replica) for name, replica in seen.replicas.items()]
    for where, result in places:
        if isinstance(result, KeepstreamError):
            yield StatusFinding("error", result.code, where, result.message, result.hint)


def _log_json(seen: Observation) -> dict[str, Any]:
    reachable = isinstance(seen.log, LogSeen)
    return {
        "name": seen.log_name,
        "reachable": reachable,
        "exists": seen.log.exists if isinstance(seen.log, LogSeen) else None,
    }


def _hold(row: Progress | None) -> dict[str, Any] | None:
    if row is None or row.hold is None:
        return None
    hold = row.hold
    return {
        "at": format_lsn(hold.at),
        "kind": hold.kind.value,
        "expires": hold.expires.isoformat() if hold.expires else None,
    }


def _copy(report: StageReport | None) -> dict[str, Any] | None:
    """How far a first copy is and what it holds back on the source; None unless the report is of one."""
    copy = report.details.get("copy") if report is not None else None
    return {name: copy.get(told) for name, told in _COPY.items()} if isinstance(copy, dict) else None


def _position(report: StageReport | None) -> Lsn | None:
    return parse_lsn(report.position) if report is not None and report.position else None


def _lsn(report: StageReport | None, name: str) -> Lsn | None:
    text = report.details.get(name) if report is not None else None
    return parse_lsn(text) if isinstance(text, str) else None


def _number(report: StageReport | None, name: str) -> float | None:
    value = report.details.get(name) if report is not None else None
    return float(value) if isinstance(value, (int, float)) else None


def _unchanged_s(report: StageReport) -> float:
    return _number(report, "unchanged_s") or 0.0


def _text(lsn: Lsn | None) -> str | None:
    return None if lsn is None else format_lsn(lsn)


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
