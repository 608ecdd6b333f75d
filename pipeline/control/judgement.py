"""What `status` says: one pure function from what was seen (`Observation`) to a `Status`.

States and figures are documented in docs/operating.md. The rules:

    stopped   no process: it is gone; or, where it cannot be seen, its report is old, and slot or session
              are free
    stalled   a process with work to do whose position does not move, that is not heard of, or whose loop
              hangs at a server that does not answer here either
    idle      a process without work to do, and without an open target transaction
    None      cannot be known from here; findings say why. Reports stand in the log: with it out of reach,
              or with a stage's reports gone, nobody knows what it does

Positions come from slot, log and progress row, which are the truth; reports, which are hints, say what a
stage does and how far what it has *seen* is done. A slot that only bears our name says nothing, and one that
nobody owns says where the log stands only as far as capture or the log itself says so, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

from connectors.postgres.activity import SILENCE_LIMIT_S
from connectors.postgres.replica.progress import HoldKind, Progress, ReplicaState
from pipeline.control import figures
from pipeline.control.awaiting import Copying
from pipeline.control.hearsay import Heard, hear
from pipeline.control.observation import Observation, ReplicaSeen, is_end_needed
from pipeline.control.status import Replica, Stage, Status, StatusFinding, told_by, warning
from pipeline.control.surroundings import look_around
from pipeline.reports import CAPTURE_STAGE, STALE_AFTER_S, NotReplicated, StageReport, StageState, apply_stage
from schemas.errors import KeepstreamError
from schemas.identifiers import qualified
from schemas.lsn import Lsn, parse_lsn
from schemas.validity import Chain

STALL_S = 30.0
"""A position that did not move for this long although there is work to do is stuck."""
CAUGHT_UP_S = 1.5
"""A live stage that, when it reported, was this close behind is no further behind now."""
HEARD_S, IDLE_HEARD_S = 4.0, 8.0
"""For so long a stage's last report says what is now: there is one a second, of an idle stage every five."""
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
    StageState.WAITING,
    StageState.PAUSED,
    StageState.STREAMING,
    StageState.IDLE,
)
_KEPT = frozenset({StageState.PAUSED, StageState.WAITING})
_WORKING = _KEPT | {StageState.STREAMING, StageState.IDLE, StageState.CATCHING_UP}


class _Life(Enum):
    """Of a process that says nothing now. UNHEARD: somebody has a session and has not said anything yet.
    MUTE: for so long that it should have. SILENT: somebody said something, and does no more, who has a
    session or can be seen to live."""

    ENDED = "ended"
    UNKNOWN = "unknown"
    UNHEARD = "unheard"
    MUTE = "mute"
    SILENT = "silent"


_WITHOUT_REPORT = {
    _Life.ENDED: StageState.STOPPED,
    _Life.UNKNOWN: None,
    _Life.UNHEARD: StageState.STARTING,
    _Life.MUTE: None,
}


def judge_status(seen: Observation) -> Status:
    """The whole judgement. Total: whatever is missing, there is a Status."""
    return _Judge(seen).status()


class _Judge:
    """Holds the observation and what is read out of it once."""

    def __init__(self, seen: Observation) -> None:
        self._seen = seen
        self._source, self._log = seen.known_source, seen.known_log
        self._slot = seen.own_slot
        self._findings: list[StatusFinding] = list(_unreachable(seen))
        self._capture_heard = self._hear(CAPTURE_STAGE, session=self._is_slot_active)

    def status(self) -> Status:
        capture = self._capture()
        replicas = {name: self._replica(name, capture) for name in self._seen.replicas}
        self._findings += look_around(self._seen, capture.heard)
        stages = [capture, *(replica.stage for replica in replicas.values())]
        return Status(
            name=self._seen.name,
            at=self._seen.at,
            state=worst(stage.state for stage in stages),
            capture=capture,
            replicas=replicas,
            slot=figures.slot_json(self._seen),
            source=figures.source_json(self._source),
            log=figures.log_json(self._seen),
            not_replicated=self._not_replicated(capture),
            findings=(*self._findings, *_unread_sequences(capture)),
        )

    def _hear(self, stage: str, *, session: bool) -> Heard:
        seen = self._seen
        return hear(stage, self._log.reports, seen.dead, seen.running, at=seen.at, session=session)

    # capture

    @property
    def _is_slot_active(self) -> bool:
        return self._slot is not None and self._slot.active_pid is not None

    def _capture(self) -> Stage:
        heard = self._capture_heard
        lag_s = self._capture_lag_s()
        done = max((lsn for lsn in (_lsn(heard.report, "complete_lsn"), self._held()) if lsn), default=None)
        return Stage(
            state=self._capture_state(lag_s),
            end_lsn=figures.lsn_text(self._captured()),
            lag_bytes=self._behind(done, lag_s),
            lag_s=lag_s,
            heard=heard,
        )

    def _confirmed(self) -> Lsn | None:
        return self._slot.confirmed_flush_lsn if self._slot else None

    def _held(self) -> Lsn | None:
        """How far the log goes by the slot, or, where that proves nothing, by the log itself."""
        if self._source is None or not self._log.exists:
            return None
        if is_end_needed(self._source, self._log):
            return self._log.end.tail.lsn if isinstance(self._log.end, Chain) else None
        return self._confirmed()

    def _captured(self) -> Lsn | None:
        """Where the log stands, as far as is known."""
        return max((lsn for lsn in (self._log.captured, self._held()) if lsn is not None), default=None)

    def _capture_lag_s(self) -> float | None:
        """How long ago the oldest commit may have been made that is not in the log; None: not known."""
        if self._source is None:
            return None
        report = self._capture_heard.report
        done = max(_lsn(report, "complete_lsn") or 0, self._held() or 0)
        if done >= self._source.insert_lsn:
            return 0.0
        return self._since_complete_s(report, self._is_live_capture())

    def _is_live_capture(self) -> bool:
        slot_is_free = self._source is not None and not self._is_slot_active
        return self._capture_heard.lives and not slot_is_free

    def _capture_state(self, lag_s: float | None) -> StageState | None:
        heard, active = self._capture_heard, self._is_slot_active
        owner = self._source.owner if self._source else None
        session_s = owner.session_s if owner else None
        life = self._life(heard, session=None if self._source is None else active, session_s=session_s)
        if life is _Life.MUTE:
            return self._mute_capture(session_s)
        if not isinstance(life, StageReport):
            return self._silent_capture(heard) if life is _Life.SILENT else _WITHOUT_REPORT[life]
        if life.state not in _WORKING:
            return life.state
        if self._source is None:
            return self._hung("capture-hangs", "capture", life)
        if not active:
            return StageState.RETRYING  # it lost the slot and has not said so yet
        return self._working_capture(life, lag_s)

    def _mute_capture(self, session_s: float | None) -> StageState | None:
        """It owns the slot. Only the source can say whether it lives."""
        self._warn_of_no_report("capture", session_s)
        owner = self._source.owner if self._source else None
        is_frozen = owner is not None and owner.silent_s is not None and owner.silent_s > STALE_AFTER_S
        return StageState.STALLED if is_frozen else None

    def _warn_of_no_report(self, where: str, session_s: float | None) -> None:
        seen = f"its session has been there for {session_s or 0:.0f} s, and the log has no report of it"
        self._warn("reports-missing", where, seen)

    def _silent_capture(self, heard: Heard) -> StageState:
        """If it owns the slot and the source hears of it, it works: its clock or its reports are off."""
        assert heard.report is not None
        self._warn("capture-silent", "capture", f"its last report is {heard.age_s or 0:.0f} s old")
        owner = self._source.owner if self._source else None
        is_heard = owner is not None and owner.silent_s is not None and owner.silent_s <= STALE_AFTER_S
        return heard.report.state if is_heard and not self._is_log_behind() else StageState.STALLED

    def _working_capture(self, report: StageReport, lag_s: float | None) -> StageState:
        owner = self._source.owner if self._source else None
        if owner is not None and owner.silent_s is not None and owner.silent_s > SILENCE_LIMIT_S:
            self._warn(
                "walsender-silent", "capture", f"the source last heard of it {owner.silent_s:.0f} s ago"
            )
            return StageState.STALLED
        is_reading = report.details.get("reads_wal") is True  # what was done to partitions: it may take long
        if lag_s is not None and lag_s > STALL_S and _unchanged_s(report) > STALL_S and not is_reading:
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
        seen = self._seen.replicas[name]
        row = seen.progress if isinstance(seen, ReplicaSeen) else None
        if row is not None and row.awaits is not None:
            waits = f"it waits before {figures.lsn_text(row.awaits)} for approval of schema changes"
            self._warn("schema-waits", f"replica {name}", waits)
        heard = self._hear(apply_stage(name), session=row is not None and row.alive)
        awaiting = seen.awaiting if isinstance(seen, ReplicaSeen) else ()
        copying = Copying(name, row, heard, self._seen.at)
        self._findings += [copying.finding(table) for table in awaiting]
        report = heard.report
        holding = row if row is not None and row.state is ReplicaState.STREAMING else None
        held_s = self._apply_lag_s(holding, heard) if holding is not None else None
        lag_s = None if held_s is None or capture.lag_s is None else max(held_s, capture.lag_s)
        position = holding.position.lsn if holding is not None else None
        stage = Stage(
            state=self._replica_state(name, seen, heard, held_s, capture),
            end_lsn=figures.lsn_text(position),
            lag_bytes=self._behind(position, lag_s),
            lag_s=lag_s,
            heard=heard,
            hold=figures.hold_json(row),
        )
        return Replica(stage, figures.copy_json(report), tuple(qualified(*table) for table in awaiting))

    def _apply_lag_s(self, row: Progress, heard: Heard) -> float | None:
        """How long ago the oldest commit may have been made that is in the log and not applied."""
        captured = self._captured()
        live = heard.fresh and row.alive
        inside = live and _is_inside(heard.report)
        if captured is not None and row.position.lsn >= captured and not inside:
            return 0.0
        return self._since_complete_s(heard.report, live, at_least=row.position.commit_time / 1e6)

    def _replica_state(
        self,
        name: str,
        seen: ReplicaSeen | KeepstreamError,
        heard: Heard,
        behind_s: float | None,
        capture: Stage,
    ) -> StageState | None:
        row = seen.progress if isinstance(seen, ReplicaSeen) else None
        session = None if isinstance(seen, KeepstreamError) else row is not None and row.alive
        session_s = seen.session_s if isinstance(seen, ReplicaSeen) else None
        life = self._life(heard, session=session, session_s=session_s)
        if life is _Life.MUTE:
            self._warn_of_no_report(f"replica {name}", session_s)
        if not isinstance(life, StageReport):
            return self._silent_replica(name, seen, heard) if life is _Life.SILENT else _WITHOUT_REPORT[life]
        if life.state not in _WORKING and not _copies_awaited(life):
            return life.state
        if isinstance(seen, KeepstreamError):
            return self._hung("apply-hangs", f"replica {name}", life)
        if row is None or not row.alive or row.state is not ReplicaState.STREAMING:
            return StageState.RETRYING if row is not None else StageState.STARTING
        broken_s = _number(life, "epoch_broken_s") or 0.0
        if broken_s:
            self._look_at_broken_epoch(name, broken_s, capture)
        lacks_rest = _is_inside(life) and life.details.get("blocked") == "log end"
        if lacks_rest:
            self._look_at_unfinished(name, life, capture)
            return life.state
        if _is_paused(row):
            return StageState.PAUSED
        if broken_s:
            return life.state
        return self._working_replica(name, row, life, behind_s, seen.moved_s)

    def _look_at_broken_epoch(self, name: str, broken_s: float, capture: Stage) -> None:
        """Like what follows: the applier can do nothing about it, whatever keeps capture is in the way."""
        if broken_s > STALE_AFTER_S:
            seen = f"the log's epoch broke, and for {broken_s:.0f} s no new one has begun"
            self._warn("epoch-broken", f"replica {name}", f"{seen}; capture is {_state_text(capture)}")

    def _look_at_unfinished(self, name: str, report: StageReport, capture: Stage) -> None:
        quiet_s = _unchanged_s(report)
        if quiet_s > STALE_AFTER_S:
            self._warn(
                "rest-missing",
                f"replica {name}",
                f"its open transaction has waited for {quiet_s:.0f} s for {report.waiting_for};"
                f" capture is {_state_text(capture)}",
            )

    def _silent_replica(self, name: str, seen: ReplicaSeen | KeepstreamError, heard: Heard) -> StageState:
        """If its session is there and its row moves, it works: only its clock or its reports are off."""
        assert heard.report is not None
        row = seen.progress if isinstance(seen, ReplicaSeen) else None
        moved_s = seen.moved_s if isinstance(seen, ReplicaSeen) and row is not None and row.alive else None
        if moved_s is not None and moved_s < STALE_AFTER_S:
            return heard.report.state
        self._warn("apply-silent", f"replica {name}", f"its last report is {heard.age_s or 0:.0f} s old")
        return StageState.STALLED

    def _working_replica(
        self,
        name: str,
        row: Progress,
        report: StageReport,
        behind_s: float | None,
        moved_s: float | None,
    ) -> StageState:
        if (
            report.state in (StageState.PAUSED, StageState.WAITING, StageState.COPYING)
            or report.details.get("blocked") == "delayed"
        ):
            return report.state
        quiet_s = min(_unchanged_s(report), moved_s or 0.0)
        if behind_s is not None and min(behind_s, quiet_s) > STALL_S:
            self._warn("apply-stuck", f"replica {name}", f"its position has not moved for {quiet_s:.0f} s")
            return StageState.STALLED
        if report.state is StageState.CATCHING_UP and behind_s is not None and behind_s <= CAUGHT_UP_S:
            return StageState.STREAMING  # it groups what came in at once, and keeps up
        return report.state

    def _hung(self, code: str, where: str, report: StageReport) -> StageState:
        """Of a living stage whose server does not answer here: whether it waits for that, too."""
        if report.hung_s <= STALE_AFTER_S:
            return report.state
        self._warn(code, where, f"its server has not answered it for {report.hung_s:.0f} s")
        return StageState.STALLED

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
        heard_s = self._seen.at - report.at
        said_lately = heard_s <= (IDLE_HEARD_S if report.state is StageState.IDLE else HEARD_S)
        if live and said_lately and behind_s <= CAUGHT_UP_S:
            return behind_s if behind_s > LOOP_S else 0.0
        clock = self._source.clock if self._source else self._seen.at
        return max(0.0, clock - complete_at)

    def _behind(self, position: Lsn | None, lag_s: float | None) -> int | None:
        """WAL written on the source after a position; 0 where nothing published is missing."""
        if position is None or self._source is None:
            return None
        return 0 if lag_s == 0 else max(0, self._source.insert_lsn - position)

    def _not_replicated(self, capture: Stage) -> tuple[NotReplicated, ...]:
        if capture.heard.fresh and capture.report is not None and capture.report.not_replicated:
            return capture.report.not_replicated
        return self._source.left_out if self._source else ()

    def _life(self, heard: Heard, *, session: bool | None, session_s: float | None) -> StageReport | _Life:
        """Whether the stage's process lives: then what it says. `session`: whether slot or replica is
        somebody's; None: cannot be seen. `session_s`: since when."""
        report = heard.report
        if report is None:
            return self._unreported(session, session_s)
        if heard.ended:
            return _Life.ENDED
        if heard.fresh:
            return report
        if session or heard.running:
            return _Life.SILENT
        return _Life.UNKNOWN if session is None else _Life.ENDED

    def _unreported(self, session: bool | None, session_s: float | None) -> _Life:
        if session is None or isinstance(self._seen.log, KeepstreamError):
            return _Life.UNKNOWN
        if not session:
            return _Life.ENDED
        is_due = self._log.exists and session_s is not None and session_s > STALE_AFTER_S
        return _Life.MUTE if is_due else _Life.UNHEARD

    def _warn(self, code: str, where: str, message: str) -> None:
        self._findings.append(warning(code, where, message))


def worst(states: Iterable[StageState | None]) -> StageState | None:
    """The state of the whole: the one that most wants attention (stopped first, idle last)."""
    return min(states, key=_WORST_FIRST.index)


def _unreachable(seen: Observation) -> Iterator[StatusFinding]:
    places: list[tuple[str, object]] = [("source", seen.source), ("log", seen.log)]
    places += [(f"replica {name}", replica) for name, replica in seen.replicas.items()]
    for where, result in places:
        if isinstance(result, KeepstreamError):
            yield StatusFinding("error", result.code, where, result.message, result.hint)


def _lsn(report: StageReport | None, name: str) -> Lsn | None:
    text = report.details.get(name) if report is not None else None
    return parse_lsn(text) if isinstance(text, str) else None


def _number(report: StageReport | None, name: str) -> float | None:
    value = report.details.get(name) if report is not None else None
    return float(value) if isinstance(value, (int, float)) else None


def _unread_sequences(capture: Stage) -> Iterator[StatusFinding]:
    said = told_by(capture.report, "sequences")
    if said is None:
        return
    if said.get("error"):
        yield warning(
            "sequences-unread", "capture", f"the source's sequences could not be read: {said['error']}"
        )
    elif said.get("hidden"):
        yield warning(
            "sequences-hidden", "capture", f"the source role may not read {said['hidden']} sequences"
        )


def _state_text(stage: Stage) -> str:
    return stage.state.value if stage.state else "unknown"


def _is_paused(row: Progress) -> bool:
    return row.hold is not None and row.hold.kind is HoldKind.PAUSE and row.position.lsn >= row.hold.at


def _copies_awaited(report: StageReport) -> bool:
    """Whether it is an applier that stands still for a copy of its own, and no first copy."""
    return report.state is StageState.COPYING and told_by(report, "awaited_copies") is not None


def _is_inside(report: StageReport | None) -> bool:
    """Whether it has applied a part of a transaction, and not its end."""
    return report is not None and report.details.get("inside") is True


def _unchanged_s(report: StageReport) -> float:
    return _number(report, "unchanged_s") or 0.0
