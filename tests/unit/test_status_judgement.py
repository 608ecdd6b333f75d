"""What `status` makes of what it saw: states, lag and findings, without a server."""

from __future__ import annotations

import inspect
import json
import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.failover.standbys import Standbys, StandbySlot
from connectors.postgres.replica.progress import Hold, HoldKind, Progress, ReplicaState
from connectors.postgres.replication.slot import SlotOwner, SlotState, WalSpace
from pipeline.board import report_key
from pipeline.control import judgement, surroundings
from pipeline.control.hearsay import hear
from pipeline.control.hints import HINTS, hint_for
from pipeline.control.judgement import judge_status, worst
from pipeline.control.observation import LogSeen, Observation, ReplicaSeen, SourceSeen, is_end_needed
from pipeline.control.status import Stage, Status
from pipeline.reports import Endangered, NotReplicated, StageReport, StageState
from schemas.errors import BEGIN_ANEW, KeepstreamError, RetryLater
from schemas.lsn import Lsn, Position, format_lsn
from schemas.validity import Chain

STREAM = bytes(16)
OTHER_STREAM = bytes(15) + b"1"
NOW = 1_700_000_000.0
INSERT = Lsn(10_000)
AWAY = RetryLater("db:5432 cannot be reached", code="server-unreachable", hint="Start it.")

SLOT = SlotState(
    name="keepstream_crm",
    plugin="pgoutput",
    database="crm",
    temporary=False,
    active_pid=11,
    restart_lsn=Lsn(4_000),
    confirmed_flush_lsn=INSERT,
    retained_bytes=6_000,
    safe_wal_bytes=100_000,
    wal_status="reserved",
    invalidation_reason=None,
    catalog_xmin_age=3,
    inactive_s=None,
    read_in="crm",
)
OWNER = SlotOwner(pid=11, application_name="keepstream:crm:00", started_at="", silent_s=1.0)
SOURCE = SourceSeen(
    clock=NOW,
    insert_lsn=INSERT,
    slot=SLOT,
    owner=OWNER,
    space=WalSpace(106_000, 50_000, INSERT),
    publication_exists=True,
    wal_bytes_per_s=1_000.0,
    left_out=(NotReplicated(table="public.note", reason="no primary key"),),
)


FREE = replace(SOURCE, slot=replace(SLOT, active_pid=None), owner=None)


def report(stage: str = "capture", state: StageState = StageState.STREAMING, **more: Any) -> StageReport:
    age_s = more.pop("age_s", 1.0)
    details = {"complete_at": NOW - age_s, "complete_lsn": format_lsn(INSERT), "unchanged_s": 0.0}
    details |= more.pop("details", {})
    values: dict[str, Any] = {
        "position": format_lsn(INSERT),
        "pid": 5,
        "host": "a",
        "stream": STREAM.hex(),
    } | more
    return StageReport(stage=stage, state=state, at=NOW - age_s, details=details, **values)


def row(lsn: int = INSERT, **more: Any) -> Progress:
    values: dict[str, Any] = {
        "name": "crm",
        "stream": STREAM,
        "position": Position(Lsn(lsn), 7, int((NOW - 5000) * 1e6)),
        "token": uuid.UUID(int=1),
        "state": ReplicaState.STREAMING,
        "hold": None,
        "place": "",
        "backend_pid": 9,
        "backend_start": datetime.fromtimestamp(NOW - 1000, UTC),
        "alive": True,
        "updated_at": datetime.fromtimestamp(NOW, UTC),
    }
    return Progress(**values | more)


def judged(
    *,
    source: SourceSeen | KeepstreamError = SOURCE,
    capture: StageReport | None = None,
    apply: StageReport | None = None,
    replica: Progress | KeepstreamError | None = None,
    moved_s: float = 1.0,
    session_s: float | None = None,
    log: KeepstreamError | None = None,
    dead: frozenset[str] = frozenset(),
    running: frozenset[str] = frozenset(),
    log_exists: bool = True,
    end: int | KeepstreamError | None = None,
) -> Status:
    reports = {made.stage: made for made in (capture, apply) if made is not None}
    seen = replica if isinstance(replica, KeepstreamError) else ReplicaSeen(replica, moved_s, session_s)
    ends = Chain(stream=STREAM, tail=Position(Lsn(end))) if isinstance(end, int) else end
    return judge_status(
        Observation(
            name="crm",
            at=NOW,
            slot_name="keepstream_crm",
            log_name="file:///log/crm.log",
            source=source,
            log=log or LogSeen(log_exists, reports, ends),
            replicas={"standby": seen},
            dead=dead,
            running=running,
        )
    )


APPLY = report("apply:standby")
UNFINISHED = row(state=ReplicaState.COPYING)
DEAD_COPY = row(state=ReplicaState.COPYING, alive=False)


def codes(status: Status) -> list[str]:
    return [finding.code for finding in status.findings]


def standby(status: Status) -> dict[str, Any]:
    json_of: dict[str, Any] = status.to_json()["replicas"]["standby"]
    return json_of


def test_a_replica_that_holds_everything_has_no_lag() -> None:
    seen = judged(capture=report(), apply=APPLY, replica=row())
    assert (seen.state, standby(seen)["lag_s"], standby(seen)["lag_bytes"]) == (StageState.STREAMING, 0.0, 0)
    assert standby(seen)["end_lsn"] == format_lsn(INSERT)
    assert seen.findings == ()


def test_wal_that_holds_nothing_published_is_no_lag() -> None:
    busy = replace(SOURCE, insert_lsn=Lsn(90_000))
    idle = report(state=StageState.IDLE, age_s=4.0)
    seen = judged(source=busy, capture=idle, apply=APPLY, replica=row())
    assert (standby(seen)["lag_s"], standby(seen)["lag_bytes"], seen.capture.lag_bytes) == (0.0, 0, 0)


def awaiting(apply: StageReport, **more: Any) -> tuple[Status, str, str]:
    """Of a replica with a table that awaits its copy; what the finding says behind that, and its hint."""
    seen = judge_status(
        Observation(
            name="crm",
            slot_name="keepstream_crm",
            log_name="file:///log/crm.log",
            log=LogSeen(True, {made.stage: made for made in (report(), apply)}),
            source=SOURCE,
            replicas={"standby": ReplicaSeen(row(**more), 1.0, awaiting=(("public", "Big one"),))},
            at=NOW,
        )
    )
    (found,) = seen.findings
    assert (found.severity, found.code, found.where) == ("warning", "table-awaits-copy", "replica standby")
    assert found.message.startswith(AWAITS)
    return seen, found.message.removeprefix(AWAITS), found.hint


AWAITS = "public.Big one has rows that are not in the log: its changes are left out until they are copied"
SNAPSHOT = "`keepstream snapshot standby 'public.\"Big one\"'`"
NO_COPY: dict[str, Any] = {"running": [], "doing": None, "failed": {}}


@pytest.mark.parametrize("apply", [APPLY, report("apply:standby", StageState.STOPPED, age_s=3)])
def test_a_table_that_joined_without_its_rows_is_named_with_what_copies_them(apply: StageReport) -> None:
    seen, more, hint = awaiting(apply)
    assert standby(seen)["awaits_copy"] == ["public.Big one"]
    assert (more, hint) == ("", f"{SNAPSHOT} copies them, exactly; the replica stands still meanwhile.")


def test_a_copy_that_the_applier_makes_itself_is_told() -> None:
    said = NO_COPY | {"running": ["public.Big one"], "doing": "45 %, about 20.0 s left"}
    copy = {"phase": "rows", "rows_done": 5}
    details = {"awaited_copies": said, "copy": copy, "unchanged_s": 90, "complete_at": NOW - 90}
    waiting_for = "the copy of public.Big one: 45 %, about 20.0 s left"
    copying = report("apply:standby", StageState.COPYING, details=details, waiting_for=waiting_for)
    seen, more, hint = awaiting(copying, lsn=9_000)
    shown = standby(seen)
    assert (shown["state"], shown["waiting_for"], shown["copy"]["rows"]) == ("copying", waiting_for, 5)
    assert more == "; the applier copies them now: 45 %, about 20.0 s left"
    assert hint == (
        "Nothing is to be done. `keepstream pause standby` ends that copy; after `keepstream resume standby`"
        " it begins anew."
    )
    stalled = judged(apply=copying.model_copy(update={"hung_s": 20.0}), replica=AWAY)
    assert standby(stalled)["state"] == "stalled"


def test_a_copy_that_failed_is_told_with_when_it_is_tried_again_and_how_to_make_it_by_hand() -> None:
    failed = {"code": "replica-schema", "message": "it cannot hold it", "hint": "Mend it.", "at": NOW - 12}
    said = NO_COPY | {"failed": {"public.Big one": failed | {"retry_s": 49}}}
    _, more, hint = awaiting(report("apply:standby", details={"awaited_copies": said}))
    assert more == (
        "; its copy failed 12.0 s ago and is tried again in 48.0 s: it cannot hold it (replica-schema)"
    )
    assert hint == f"Mend it. Or by hand: {SNAPSHOT}."
    held = Hold(INSERT, HoldKind.PAUSE)
    _, more, _ = awaiting(report("apply:standby", details={"awaited_copies": said}), hold=held)
    assert "is tried again once the replica goes on: " in more


def test_a_copy_that_has_not_begun_says_what_it_waits_for() -> None:
    waiting = report("apply:standby", details={"awaited_copies": NO_COPY})
    _, more, hint = awaiting(waiting)
    assert more == "; the applier copies them once it has caught up"
    assert hint.endswith(f"By hand: {SNAPSHOT}.")
    _, more, hint = awaiting(waiting, hold=Hold(INSERT, HoldKind.PAUSE))
    assert more == "; the applier copies them once the replica goes on"
    assert hint == "Let it go on with `keepstream resume standby`."


def test_what_waits_before_the_replica_is_as_old_as_its_oldest_commit() -> None:
    behind = report("apply:standby", StageState.CATCHING_UP, details={"complete_at": NOW - 42})
    seen = judged(capture=report(), apply=behind, replica=row(8_000))
    assert (standby(seen)["lag_s"], standby(seen)["lag_bytes"]) == (42.0, 2_000)
    assert seen.state is StageState.CATCHING_UP


def test_a_commit_after_an_hour_of_silence_is_no_hour_behind() -> None:
    fresh = report("apply:standby", details={"complete_at": NOW - 0.2})
    seen = judged(capture=report(), apply=fresh, replica=row(9_000))
    assert standby(seen)["lag_s"] == 0.0


def test_a_replica_that_keeps_up_streams_and_shows_its_fraction_of_a_second() -> None:
    close = report("apply:standby", StageState.CATCHING_UP, details={"complete_at": NOW - 1.0 - 0.75})
    seen = judged(capture=report(), apply=close, replica=row(9_900))
    assert standby(seen)["state"] == "streaming"
    assert (standby(seen)["lag_s"], standby(seen)["lag_bytes"]) == (0.75, 100)


def test_what_capture_lacks_counts_for_every_replica() -> None:
    slow = report(details={"complete_at": NOW - 60, "complete_lsn": format_lsn(7_000)})
    slot = replace(SLOT, confirmed_flush_lsn=Lsn(7_000))
    seen = judged(source=replace(SOURCE, slot=slot), capture=slow, apply=APPLY, replica=row(7_000))
    assert (seen.capture.lag_s, seen.capture.lag_bytes) == (60.0, 3_000)
    assert (standby(seen)["lag_s"], standby(seen)["lag_bytes"]) == (60.0, 3_000)
    assert seen.capture.state is StageState.CATCHING_UP


def test_a_stopped_capture_lets_the_lag_grow_from_its_last_word_on() -> None:
    source = replace(SOURCE, slot=replace(SLOT, active_pid=None, confirmed_flush_lsn=Lsn(9_500)), owner=None)
    last = report(state=StageState.STOPPED, age_s=300, details={"complete_lsn": format_lsn(9_500)})
    seen = judged(source=source, capture=last, apply=APPLY, replica=row(9_500))
    assert (seen.state, standby(seen)["lag_s"], standby(seen)["lag_bytes"]) == (
        StageState.STOPPED,
        300.0,
        500,
    )
    assert standby(seen)["state"] == "streaming"


@pytest.mark.parametrize("slot", [replace(SLOT, active_pid=None, confirmed_flush_lsn=Lsn(9_500)), None])
@pytest.mark.parametrize("state", [StageState.STOPPED, StageState.STREAMING])
def test_a_capture_without_its_slot_says_nothing_of_what_was_committed_since(
    slot: SlotState | None, state: StageState
) -> None:
    source = replace(SOURCE, slot=slot, owner=None)
    last = report(state=state, age_s=3, details={"complete_lsn": format_lsn(9_500)})
    seen = judged(source=source, capture=last, apply=APPLY, replica=row(9_500))
    assert (standby(seen)["lag_s"], standby(seen)["lag_bytes"]) == (3.0, 500)


@pytest.mark.parametrize(
    ("capture", "active", "dead", "expected"),
    [
        (None, False, False, "stopped"),
        (None, True, False, "starting"),
        (report(), True, False, "streaming"),
        (report(state=StageState.IDLE), True, False, "idle"),
        (report(state=StageState.RETRYING), False, False, "retrying"),
        (report(state=StageState.STARTING), False, False, "starting"),
        (report(), False, False, "retrying"),
        (report(), False, True, "stopped"),
        (report(age_s=20), False, False, "stopped"),
        (report(state=StageState.STOPPED), False, False, "stopped"),
    ],
)
def test_capture_s_state(capture: StageReport | None, active: bool, dead: bool, expected: str) -> None:
    slot = replace(SLOT, active_pid=11 if active else None)
    source = replace(SOURCE, slot=slot, owner=OWNER if active else None)
    gone = frozenset({"capture"}) if dead else frozenset()
    assert judged(source=source, capture=capture, dead=gone).to_json()["capture"]["state"] == expected


def test_a_capture_that_owns_the_slot_and_is_not_heard_of_is_stalled() -> None:
    behind = replace(SLOT, confirmed_flush_lsn=Lsn(9_000))
    seen = judged(source=replace(SOURCE, slot=behind), capture=report(age_s=20))
    assert (seen.capture.state, codes(seen)) == (StageState.STALLED, ["capture-silent"])
    frozen = replace(SOURCE, owner=replace(OWNER, silent_s=20.0))
    for source, state in ((frozen, StageState.STALLED), (SOURCE, StageState.IDLE)):
        seen = judged(source=source, capture=report(state=StageState.IDLE, age_s=20))
        assert (seen.capture.state, codes(seen)) == (state, ["capture-silent"])
    silent = replace(SOURCE, owner=replace(OWNER, silent_s=31.0))
    seen = judged(source=silent, capture=report())
    assert (seen.capture.state, codes(seen)) == (StageState.STALLED, ["walsender-silent"])


@pytest.mark.parametrize("source", [FREE, AWAY])
def test_a_capture_that_is_seen_to_live_is_stalled_where_it_is_not_heard_of(
    source: SourceSeen | KeepstreamError,
) -> None:
    old = report(state=StageState.RETRYING, age_s=62)
    seen = judged(source=source, capture=old, running=frozenset({"capture"}))
    assert seen.capture.state is StageState.STALLED
    assert "capture-silent" in codes(seen)
    ended = report(state=StageState.STOPPED, age_s=62)
    seen = judged(source=source, capture=ended, running=frozenset({"capture"}))
    assert seen.capture.state is StageState.STOPPED


@pytest.mark.parametrize(("silent_s", "state"), [(1.0, None), (None, None), (20.0, "stalled")])
def test_a_capture_without_report_is_not_starting_for_ever(silent_s: float | None, state: str | None) -> None:
    owner = replace(OWNER, silent_s=silent_s, session_s=42.0)
    seen = judged(source=replace(SOURCE, owner=owner))
    assert seen.to_json()["capture"]["state"] == state
    assert [(finding.code, finding.where, finding.message) for finding in seen.findings] == [
        (
            "reports-missing",
            "capture",
            "its session has been there for 42 s, and the log has no report of it",
        )
    ]


def test_an_applier_without_report_is_not_starting_for_ever() -> None:
    seen = judged(capture=report(), replica=row(), session_s=14.0)
    assert (standby(seen)["state"], codes(seen)) == ("starting", [])
    seen = judged(capture=report(), replica=row(), session_s=16.0)
    assert (standby(seen)["state"], codes(seen)) == (None, ["reports-missing"])
    assert seen.findings[0].where == "replica standby"
    seen = judged(capture=report(), replica=row(alive=False), session_s=16.0)
    assert (standby(seen)["state"], codes(seen)) == ("stopped", [])


def test_a_log_that_is_gone_is_not_also_said_to_lack_reports() -> None:
    seen = judged(source=replace(SOURCE, owner=replace(OWNER, session_s=42.0)), log_exists=False)
    assert codes(seen) == ["log-missing"]


def test_a_capture_with_work_to_do_that_writes_nothing_is_stalled() -> None:
    behind = replace(SOURCE, slot=replace(SLOT, confirmed_flush_lsn=Lsn(9_000)))
    stuck = {"complete_at": NOW - 45, "complete_lsn": format_lsn(9_000), "unchanged_s": 45}
    seen = judged(source=behind, capture=report(details=stuck))
    assert (seen.capture.state, codes(seen)) == (StageState.STALLED, ["capture-stuck"])
    seen = judged(source=behind, capture=report(details=stuck | {"reads_wal": True}))
    assert (seen.capture.state, codes(seen)) == (StageState.CATCHING_UP, [])
    seen = judged(source=behind, capture=report(details=stuck | {"unchanged_s": 2}))
    assert seen.capture.state is StageState.CATCHING_UP


@pytest.mark.parametrize(
    ("apply", "replica", "dead", "expected"),
    [
        (None, None, False, "stopped"),
        (report("apply:standby", StageState.STARTING), None, False, "starting"),
        (report("apply:standby", StageState.COPYING), UNFINISHED, False, "copying"),
        (report("apply:standby", StageState.COPYING), UNFINISHED, True, "stopped"),
        (report("apply:standby", StageState.COPYING, age_s=20), DEAD_COPY, False, "stopped"),
        (report("apply:standby", StageState.IDLE), row(), False, "idle"),
        (APPLY, row(alive=False), False, "retrying"),
        (APPLY, row(alive=False), True, "stopped"),
        (report("apply:standby", age_s=20), row(alive=False), False, "stopped"),
        (report("apply:standby", StageState.STOPPED), row(alive=False), False, "stopped"),
        (report("apply:standby", StageState.RETRYING), row(alive=False), False, "retrying"),
        (APPLY, AWAY, False, "streaming"),
        (report("apply:standby", age_s=20), AWAY, False, None),
        (None, AWAY, False, None),
        (None, row(), False, "starting"),
        (APPLY, AWAY, True, "stopped"),
        (report("apply:standby", StageState.STOPPED, age_s=900), AWAY, False, "stopped"),
    ],
)  # fmt: skip
def test_a_replica_s_state(
    apply: StageReport | None, replica: Progress | KeepstreamError | None, dead: bool, expected: str | None
) -> None:
    gone = frozenset({"apply:standby"}) if dead else frozenset()
    assert standby(judged(capture=report(), apply=apply, replica=replica, dead=gone))["state"] == expected


def test_an_applier_with_work_to_do_whose_position_does_not_move_is_stalled() -> None:
    stuck = report("apply:standby", details={"complete_at": NOW - 40, "unchanged_s": 40})
    seen = judged(capture=report(), apply=stuck, replica=row(9_000), moved_s=40)
    assert (standby(seen)["state"], codes(seen)) == ("stalled", ["apply-stuck"])
    for moving in (
        judged(capture=report(), apply=stuck, replica=row(9_000), moved_s=3),
        judged(capture=report(), apply=stuck, replica=row(), moved_s=40),
        judged(
            capture=report(),
            apply=report("apply:standby", details={"complete_at": NOW - 40, "unchanged_s": 1}),
            replica=row(9_000),
            moved_s=40,
        ),
    ):
        assert standby(moving)["state"] == "streaming"


def test_a_replica_that_is_held_or_delayed_is_not_stalled() -> None:
    waiting = {"complete_at": NOW - 900, "unchanged_s": 900}
    held = row(9_000, hold=Hold(Lsn(9_000), HoldKind.PAUSE))
    seen = judged(capture=report(), apply=report("apply:standby", details=waiting), replica=held, moved_s=900)
    assert (standby(seen)["state"], standby(seen)["lag_s"]) == ("paused", 900.0)
    assert standby(seen)["hold"] == {"at": format_lsn(9_000), "kind": "pause", "expires": None}
    delayed = report("apply:standby", details=waiting | {"blocked": "delayed"})
    assert (
        standby(judged(capture=report(), apply=delayed, replica=row(9_000), moved_s=900))["state"]
        == "streaming"
    )


def test_an_applier_that_lacks_the_rest_of_a_transaction_is_behind_and_says_so() -> None:
    """Though the log holds no whole transaction that it lacks."""
    rest = "the rest of transaction 745, 9 changes so far"
    inside = {"complete_at": NOW - 900, "unchanged_s": 900, "inside": True, "blocked": "log end"}
    lacking = report("apply:standby", StageState.CATCHING_UP, details=inside, waiting_for=rest)
    seen = judged(capture=report(), apply=lacking, replica=row(), moved_s=900)
    assert (standby(seen)["state"], standby(seen)["lag_s"]) == ("catching_up", 900.0)
    assert standby(seen)["waiting_for"] == rest
    assert [(finding.code, finding.message) for finding in seen.findings] == [
        ("rest-missing", f"its open transaction has waited for 900 s for {rest}; capture is streaming")
    ]


@pytest.mark.parametrize(("broken_s", "found"), [(3.0, []), (42.0, ["epoch-broken"])])
def test_an_applier_at_a_broken_epoch_is_behind_and_says_so(broken_s: float, found: list[str]) -> None:
    waiting = {"complete_at": NOW - 42, "blocked": "log end", "epoch_broken_s": broken_s}
    broken = report("apply:standby", StageState.CATCHING_UP, details=waiting)
    seen = judged(capture=report(), apply=broken, replica=row(9_000), moved_s=42)
    assert (standby(seen)["state"], standby(seen)["lag_s"]) == ("catching_up", 42.0)
    assert codes(seen) == found


def test_a_replica_that_is_paused_at_a_broken_epoch_is_paused_and_inside_of_a_transaction_it_is_not() -> None:
    waiting = {"complete_at": NOW - 42, "blocked": "log end", "epoch_broken_s": 42.0}
    held = row(9_000, hold=Hold(Lsn(9_000), HoldKind.PAUSE))
    for inside, state in ((False, "paused"), (True, "catching_up")):
        broken = report("apply:standby", StageState.CATCHING_UP, details=waiting | {"inside": inside})
        seen = judged(capture=report(), apply=broken, replica=held, moved_s=42)
        assert standby(seen)["state"] == state
        assert "epoch-broken" in codes(seen)


def test_an_epoch_that_broke_is_named_with_what_capture_does() -> None:
    broken = report("apply:standby", StageState.CATCHING_UP, details={"epoch_broken_s": 42.0})
    seen = judged(capture=report(state=StageState.RETRYING), apply=broken, replica=row())
    assert [(finding.where, finding.message) for finding in seen.findings] == [
        ("replica standby", "the log's epoch broke, and for 42 s no new one has begun; capture is retrying")
    ]


def test_a_frozen_applier_is_stalled_and_one_whose_clock_is_off_is_not() -> None:
    old = report("apply:standby", age_s=60)
    assert standby(judged(capture=report(), apply=old, replica=row(), moved_s=60))["state"] == "stalled"
    assert standby(judged(capture=report(), apply=old, replica=row(), moved_s=2))["state"] == "streaming"
    copying = report("apply:standby", StageState.COPYING, age_s=60)
    assert (
        standby(judged(capture=report(), apply=copying, replica=UNFINISHED, moved_s=60))["state"] == "stalled"
    )


def test_an_applier_that_is_seen_to_live_is_stalled_where_it_is_not_heard_of() -> None:
    old, running = report("apply:standby", age_s=60), frozenset({"apply:standby"})
    for replica in (row(alive=False), AWAY, None):
        seen = judged(capture=report(), apply=old, replica=replica, running=running)
        assert standby(seen)["state"] == "stalled"
        assert "apply-silent" in codes(seen)


def test_without_the_source_lag_is_unknown_and_without_the_log_too() -> None:
    seen = judged(source=AWAY, capture=report(state=StageState.RETRYING), apply=APPLY, replica=row())
    assert (standby(seen)["lag_s"], standby(seen)["lag_bytes"]) == (None, None)
    assert (seen.state, seen.slot["retained_bytes"], codes(seen)) == (
        StageState.RETRYING, None, ["server-unreachable"],
    )  # fmt: skip
    free = replace(SOURCE, slot=replace(SLOT, active_pid=None), owner=None)
    for alive, source in ((True, SOURCE), (False, free)):
        seen = judged(log=AWAY, replica=row(alive=alive), source=source)
        assert (seen.state, seen.capture.state, standby(seen)["state"]) == (None, None, None)
        assert standby(seen)["end_lsn"] == format_lsn(INSERT)


def test_a_stage_whose_loop_hangs_at_a_server_that_is_away_here_too_is_stalled() -> None:
    hangs = report("apply:standby", StageState.IDLE, hung_s=16.0)
    seen = judged(capture=report(), apply=hangs, replica=AWAY)
    assert (standby(seen)["state"], codes(seen)) == ("stalled", ["server-unreachable", "apply-hangs"])
    assert standby(judged(capture=report(), apply=hangs, replica=row()))["state"] == "idle"
    seen = judged(source=AWAY, capture=report(hung_s=16.0), apply=APPLY, replica=row())
    assert (seen.capture.state, codes(seen)) == (StageState.STALLED, ["server-unreachable", "capture-hangs"])
    assert judged(source=AWAY, capture=report(hung_s=15.0)).capture.state is StageState.STREAMING


@pytest.mark.parametrize(
    ("state", "age_s", "lag_s"), [("streaming", 4, 0), ("streaming", 9, 9), ("idle", 8, 0)]
)
def test_what_a_stage_said_last_holds_until_its_next_word_is_due(state: str, age_s: int, lag_s: int) -> None:
    behind = replace(SOURCE, slot=replace(SLOT, confirmed_flush_lsn=Lsn(9_000)), insert_lsn=Lsn(90_000))
    seen = judged(source=behind, capture=report(state=StageState(state), age_s=age_s))
    assert seen.capture.lag_s == lag_s


def test_a_log_that_is_gone_is_named_and_one_that_was_never_begun_is_not() -> None:
    seen = judged(replica=row(), log_exists=False)
    assert codes(seen) == ["log-missing"]
    assert seen.findings[0].message.endswith("does not exist, but the slot, replica standby went by it")
    assert codes(judged(source=replace(SOURCE, slot=None, owner=None), log_exists=False)) == []


OTHER: dict[str, Any] = {
    "pid": 6,
    "owner": False,
    "waiting_for": "slot keepstream_crm is owned by 5; standing by",
}


@pytest.mark.parametrize(
    ("owner", "other", "dead", "session", "speaks", "waits"),
    [
        (report(), None, (), True, 5, None),
        (None, report(state=StageState.STARTING, **OTHER), (), False, 6, None),
        (report(), report(state=StageState.STARTING, age_s=0, **OTHER), (), True, 5, 6),
        (report(), report(state=StageState.STARTING, age_s=0, **OTHER), (), False, 5, 6),
        (report(), report(state=StageState.STOPPED, age_s=0, **OTHER), (), True, 5, None),
        (report(), report(state=StageState.STARTING, age_s=20, **OTHER), (), True, 5, None),
        (report(), report(**OTHER), ("standby:capture",), True, 5, None),
        (report(age_s=20), report(**OTHER), (), True, 5, 6),  # frozen, and its session is there
        (report(age_s=20), report(**OTHER), (), False, 6, None),
        (report(), report(**OTHER), ("capture",), True, 6, None),
        (report(state=StageState.STOPPED, age_s=2), report(**OTHER), (), False, 6, None),
        (report(), report(state=StageState.RETRYING, age_s=0, owner=False), (), False, 5, None),
    ],
)  # fmt: skip
def test_the_owner_speaks_for_the_stage_as_long_as_it_may_live(
    owner: StageReport | None,
    other: StageReport | None,
    dead: tuple[str, ...],
    session: bool,
    speaks: int,
    waits: int | None,
) -> None:
    reports = {report_key("capture", owner=said.owner): said for said in (owner, other) if said}
    heard = hear("capture", reports, frozenset(dead), at=NOW, session=session)
    assert heard.report is not None
    assert (heard.report.pid, heard.standby.pid if heard.standby else None) == (speaks, waits)


def test_one_that_gave_up_does_not_speak_for_another() -> None:
    gave_up = report(state=StageState.RETRYING, age_s=2, owner=False)
    other = report(state=StageState.STARTING, age_s=1, pid=6, owner=False)
    heard = hear(
        "capture", {"capture": gave_up, "standby:capture": other}, frozenset(), at=NOW, session=False
    )
    assert (heard.report, heard.standby) == (other, None)


def test_a_process_that_owned_and_retries_speaks_with_its_newest_word() -> None:
    retrying = report(state=StageState.RETRYING, age_s=0.5, owner=False)
    reports = {"capture": report(), "standby:capture": retrying}
    assert hear("capture", reports, frozenset(), at=NOW, session=False).report == retrying
    reports = {"capture": report(age_s=0.1), "standby:capture": retrying}
    assert hear("capture", reports, frozenset(), at=NOW, session=True).report == reports["capture"]


def test_the_slot_s_figures_and_what_threatens_it() -> None:
    seen = judged(capture=report())
    assert seen.slot["retained_bytes"] == 6_000
    assert seen.slot["time_to_full_s"] == 100
    for slot, code in (
        (None, "slot-missing"),
        (replace(SLOT, wal_status="lost", invalidation_reason="wal_removed"), "slot-lost"),
        (replace(SLOT, wal_status="unreserved"), "slot-about-to-be-lost"),
    ):
        assert code in codes(judged(source=replace(SOURCE, slot=slot), capture=report(), end=INSERT))


def test_a_standby_that_is_awaited_and_away_is_named_with_what_it_keeps_back() -> None:
    away = Standbys(
        (StandbySlot("a", True, True, True), StandbySlot("b", False, False, False)), ("a", "b", "c")
    )
    failing_over = replace(SOURCE, slot=replace(SLOT, failover=True), standbys=away, timeline=2)
    seen = judged(source=failing_over, capture=report())
    (finding,) = seen.findings
    assert (finding.code, finding.message) == (
        "standby-away",
        "synchronized_standby_slots awaits b, c, and no standby reads from there: the source hands nothing on"
        " meanwhile",
    )
    assert (seen.slot["failover"], seen.source["timeline"]) == (True, 2)
    assert seen.slot["standbys"][0] == {"slot": "a", "active": True, "awaited": True, "has_copies": True}
    assert codes(judged(source=replace(SOURCE, standbys=away), capture=report())) == []


def test_a_former_primary_and_a_promoted_standby_without_slot_are_told_apart() -> None:
    on_second = report(details={"system_id": "4711", "timeline": 2})
    assert codes(judged(source=replace(SOURCE, timeline=1), capture=on_second)) == ["source-old-timeline"]
    assert codes(judged(source=replace(SOURCE, timeline=2), capture=on_second)) == []
    without = replace(SOURCE, slot=None, owner=None, timeline=3)
    (finding,) = judged(source=without, capture=on_second, replica=row(), end=INSERT).findings
    assert finding.message == "slot keepstream_crm is missing on the standby that was promoted"


def test_a_slot_that_was_not_made_yet_is_not_missing() -> None:
    free = replace(SOURCE, slot=None, owner=None)
    first = report(state=StageState.STARTING, position=None, details={"complete_lsn": None})
    assert codes(judged(source=free, capture=first)) == []
    assert codes(judged(source=free, capture=first, replica=row())) == ["slot-missing"]


@pytest.mark.parametrize(
    "changes", [{"database": "other"}, {"plugin": "test_decoding"}, {"plugin": "", "database": ""}]
)
@pytest.mark.parametrize("active_pid", [11, None])
def test_a_slot_that_only_bears_our_name_says_nothing_of_ours(
    changes: dict[str, Any], active_pid: int | None
) -> None:
    foreign = replace(SOURCE, slot=replace(SLOT, active_pid=active_pid, **changes))
    seen = judged(source=foreign)
    assert (seen.capture.state, seen.capture.end_lsn, seen.capture.lag_bytes) == (
        StageState.STOPPED, None, None,
    )  # fmt: skip
    assert (seen.slot["exists"], seen.slot["foreign"], seen.slot["confirmed_lsn"]) == (False, True, None)
    (finding,) = seen.findings
    assert (finding.code, finding.where) == ("slot-foreign", "slot")
    assert "Rename one of the two pipelines" in finding.hint
    assert BEGIN_ANEW not in finding.hint
    (finding,) = judged(source=foreign, replica=row()).findings
    assert finding.code == "slot-foreign"
    assert BEGIN_ANEW in finding.hint


LEFT_AT = Lsn(9_000)
LEFT: dict[str, Any] = {"position": format_lsn(LEFT_AT), "details": {"complete_lsn": format_lsn(LEFT_AT)}}


@pytest.mark.parametrize("state", [StageState.STOPPED, StageState.STREAMING])
def test_a_slot_past_the_log_s_end_is_a_gap_and_not_where_the_log_stands(state: StageState) -> None:
    free = replace(SOURCE, slot=replace(SLOT, active_pid=None), owner=None)
    last = report(state=state, age_s=300, **LEFT)
    seen = judged(source=free, capture=last, end=9_100, replica=row(9_100))
    assert (seen.capture.end_lsn, seen.capture.lag_bytes) == (format_lsn(9_100), 900)
    assert standby(seen)["lag_s"] == seen.capture.lag_s == 300.0
    (finding,) = seen.findings
    assert (finding.code, finding.where) == ("slot-advanced", "slot")
    assert finding.message == "slot keepstream_crm stands at 0/2710, the log ends at 0/238C"
    assert BEGIN_ANEW in finding.hint


def test_a_log_that_ends_before_what_a_replica_or_capture_knows_of_it_has_lost_its_end() -> None:
    free = replace(SOURCE, slot=replace(SLOT, active_pid=None), owner=None)
    seen = judged(
        source=free, capture=report(state=StageState.STOPPED, **LEFT), end=9_100, replica=row(9_101)
    )
    (finding,) = seen.findings
    assert (finding.code, finding.where) == ("log-end-lost", "slot")
    assert finding.message == (
        "slot keepstream_crm stands at 0/2710 and replica standby at 0/238D, but the log ends at 0/238C"
    )
    left = {**LEFT, "details": {"durable_lsn": format_lsn(Lsn(9_101))}}
    (finding,) = judged(source=free, capture=report(state=StageState.STOPPED, **left), end=9_100).findings
    assert "an earlier capture at 0/238D" in finding.message


def test_who_went_by_an_earlier_log_knows_nothing_of_the_end_of_this_one() -> None:
    free = replace(SOURCE, slot=replace(SLOT, active_pid=None), owner=None)
    left = {**LEFT, "details": {"durable_lsn": format_lsn(Lsn(9_101))}, "stream": OTHER_STREAM.hex()}
    earlier = report(state=StageState.STOPPED, **left)
    seen = judged(source=free, capture=earlier, end=8_000, replica=row(9_101, stream=OTHER_STREAM))
    assert (codes(seen), seen.capture.end_lsn) == (["slot-advanced"], format_lsn(8_000))


def test_a_log_that_has_promised_nothing_lacks_no_slot_whatever_an_earlier_capture_said() -> None:
    without = replace(SOURCE, slot=None, owner=None)
    earlier = report(state=StageState.STOPPED, **LEFT)
    assert codes(judged(source=without, capture=earlier)) == []
    assert codes(judged(source=without, capture=earlier, log_exists=False)) == []
    assert codes(judged(source=without, capture=earlier, end=AWAY)) == ["slot-missing"]
    assert codes(judged(source=without, end=9_100)) == ["slot-missing"]


def test_the_snapshot_of_a_copy_past_the_log_s_end_says_nothing_of_the_log() -> None:
    free = replace(SOURCE, slot=replace(SLOT, active_pid=None), owner=None)
    left = report(state=StageState.STOPPED, **LEFT)
    seen = judged(source=free, capture=left, end=9_100, replica=row(9_101, at_copy=True))
    assert codes(seen) == ["slot-advanced"]


def test_a_capture_that_was_killed_after_it_confirmed_has_left_no_gap() -> None:
    free = replace(SOURCE, slot=replace(SLOT, active_pid=None), owner=None)
    seen = judged(source=free, capture=report(**LEFT), end=INSERT, dead=frozenset({"capture"}))
    assert (seen.capture.end_lsn, codes(seen)) == (format_lsn(INSERT), [])
    seen = judged(source=SOURCE, capture=report(**LEFT))
    assert (seen.capture.end_lsn, codes(seen)) == (format_lsn(INSERT), [])


def test_a_log_whose_end_could_not_be_read_goes_as_far_as_capture_said() -> None:
    free = replace(SOURCE, slot=replace(SLOT, active_pid=None), owner=None)
    seen = judged(source=free, capture=report(state=StageState.STOPPED, **LEFT), end=AWAY)
    assert (seen.capture.end_lsn, seen.capture.lag_bytes) == (format_lsn(LEFT_AT), 1_000)
    assert codes(seen) == ["log-end-unknown"]
    assert judged(source=free).capture.end_lsn is None


@pytest.mark.parametrize(
    ("slot", "position", "needed"),
    [
        (replace(SLOT, active_pid=None), LEFT_AT, True),
        (replace(SLOT, active_pid=None), None, True),
        (replace(SLOT, active_pid=None), INSERT, False),
        (replace(SLOT, active_pid=None, database="other"), LEFT_AT, True),
        (SLOT, LEFT_AT, False),
        (None, LEFT_AT, True),
    ],
)
def test_the_log_is_read_only_where_slot_and_report_leave_its_end_open(
    slot: SlotState | None, position: Lsn | None, needed: bool
) -> None:
    said = report(position=None if position is None else format_lsn(position))
    source = replace(SOURCE, slot=slot)
    assert is_end_needed(source, LogSeen(True, {"capture": said})) is needed
    assert not is_end_needed(source, LogSeen(False, {"capture": said}))


def test_left_out_tables_come_from_capture_or_else_from_the_catalog() -> None:
    told = (NotReplicated(table="public.x", reason="too large"),)
    assert judged(capture=report(not_replicated=told)).not_replicated == told
    assert judged().not_replicated == SOURCE.left_out
    assert judged(source=AWAY).not_replicated == ()


def test_a_copy_s_figures_are_shown() -> None:
    details = {"copy": {"phase": "rows", "rows_done": 5, "bytes_done": 50, "source_xmin_age": 9}}
    copying = report("apply:standby", StageState.COPYING, details=details)
    seen = standby(judged(capture=report(), apply=copying, replica=row(state=ReplicaState.COPYING)))
    assert (seen["copy"]["rows"], seen["copy"]["source_xmin_age"], seen["copy"]["eta_s"]) == (5, 9, None)
    assert (seen["end_lsn"], seen["lag_s"]) == (None, None)


def test_the_whole_is_what_most_wants_attention() -> None:
    assert worst([StageState.IDLE, StageState.STREAMING]) is StageState.STREAMING
    assert worst([StageState.STOPPED, None, StageState.STALLED]) is StageState.STOPPED
    assert worst([StageState.PAUSED, None]) is None


REPORTS = st.none() | st.builds(
    report,
    st.just("capture"),
    st.sampled_from(StageState),
    age_s=st.floats(-100, 10_000),
    position=st.none() | st.just("0/1"),
    details=st.fixed_dictionaries(
        {}, optional={"complete_at": st.none() | st.floats(0, 2 * NOW), "complete_lsn": st.none()}
    ),
)  # fmt: skip
SOURCES = st.just(AWAY) | st.builds(
    replace,
    st.just(SOURCE),
    slot=st.none() | st.builds(replace, st.just(SLOT), active_pid=st.none() | st.just(1)),
    owner=st.none() | st.just(OWNER),
    wal_bytes_per_s=st.none() | st.floats(0, 1e9),
)
ROWS = st.none() | st.just(AWAY) | st.builds(row, st.integers(0, 20_000), alive=st.booleans())


@given(SOURCES, REPORTS, REPORTS, ROWS, st.none() | st.just(AWAY), st.floats(-5, 1e6))
def test_whatever_is_seen_there_is_a_status_that_keeps_the_contract(
    source: Any, capture: Any, apply: Any, replica: Any, log: Any, moved_s: float
) -> None:
    applying = apply.model_copy(update={"stage": "apply:standby"}) if apply else None
    status = judged(source=source, capture=capture, apply=applying, replica=replica, log=log, moved_s=moved_s)
    seen = json.loads(json.dumps(status.to_json(), allow_nan=False))
    states = {state.value for state in StageState} | {None}
    assert seen["state"] in states
    one = seen["replicas"]["standby"]
    assert set(one) >= {"state", "commit_lsn", "end_lsn", "lag_bytes", "lag_s"}
    assert one["state"] in states
    assert one["lag_s"] is None or one["lag_s"] >= 0
    assert one["lag_bytes"] is None or one["lag_bytes"] >= 0
    assert (one["lag_bytes"] == 0) >= (one["lag_s"] == 0 and one["lag_bytes"] is not None)


def test_a_table_whose_writes_fail_is_a_finding_with_its_remedy() -> None:
    endangered = (Endangered(table="public.k", seen="no primary key", fix="alter table …;"),)
    status = judged(capture=report(endangered=endangered))
    (finding,) = [each for each in status.findings if each.code == "writes-fail"]
    assert (finding.severity, finding.where, finding.hint) == ("warning", "source", "alter table …;")
    assert finding.message == "UPDATE and DELETE of public.k fail in the application: no primary key"
    endangered = (Endangered(table="public.k", seen="no primary key", fix=""),)
    assert [each.hint for each in judged(capture=report(endangered=endangered)).findings] == [""]


def test_a_table_that_left_for_the_applications_sake_is_a_finding_with_the_way_back() -> None:
    left = (Endangered(table="public.k", seen="no primary key", fix="Empty it …"),)
    (finding,) = [each for each in judged(capture=report(left=left)).findings if each.code == "table-left"]
    assert (finding.severity, finding.where, finding.hint) == ("warning", "source", "Empty it …")
    assert finding.message == (
        "public.k is not replicated any more, so that its UPDATE and DELETE do not fail in the application:"
        " no primary key"
    )


@pytest.mark.parametrize("age_s", [1.0, 3600.0])
def test_schema_changes_that_are_not_tracked_any_more_are_a_finding_also_without_a_capture(
    age_s: float,
) -> None:
    said = {"tracked": False, "ended_at": 1_700_000_000, "reason": "an event trigger is disabled"}
    status = judged(capture=report(details={"schema_changes": said}, age_s=age_s))
    (finding,) = [each for each in status.findings if each.code == "ddl-not-tracked"]
    assert finding.message == (
        "schema changes are not tracked any more since 2023-11-14 22:13:20 UTC: an event trigger is disabled"
    )
    assert "`keepstream schema install`" in finding.hint
    assert status.to_json()["capture"]["schema_changes"] == said


@pytest.mark.parametrize("tracked", [False, True])
def test_schema_changes_that_are_tracked_or_never_were_are_no_finding(tracked: bool) -> None:
    said = {"tracked": tracked, "ended_at": None, "reason": None}
    status = judged(capture=report(details={"schema_changes": said}))
    assert "ddl-not-tracked" not in {each.code for each in status.findings}


def test_a_rate_next_to_nothing_fills_no_disk() -> None:
    status = judged(source=replace(SOURCE, wal_bytes_per_s=5e-324))
    assert status.to_json()["slot"]["time_to_full_s"] is None


def test_a_lag_below_a_millisecond_is_not_shown_as_none() -> None:
    stage = Stage(StageState.STREAMING, lag_bytes=100, lag_s=0.00006)
    assert (stage.to_json()["lag_s"], stage.to_json()["lag_bytes"]) == (0.001, 100)
    assert Stage(StageState.IDLE, lag_bytes=0, lag_s=0.0).to_json()["lag_s"] == 0.0


def test_every_warning_of_status_says_what_to_do() -> None:
    source = "".join(inspect.getsource(module) for module in (judgement, surroundings))
    codes = set(re.findall(r'(?:_warn|_hung|warning)\(\s*"([a-z-]+)"', source))
    assert codes - {"writes-fail", "table-left"} == set(HINTS), "they bring their own"
    for code in HINTS:
        assert re.search(r"`keepstream |select |alter ", hint_for(code)), code
    assert "keepstream apply crm2 --take-over" in hint_for("apply-stuck", replica="crm2")


def test_a_replica_that_waits_for_approval_is_not_stuck_and_the_finding_says_what_to_do() -> None:
    waits = report(
        "apply:standby", StageState.WAITING, details={"blocked": "unapproved", "unchanged_s": 500.0}
    )
    seen = judged(capture=report(), apply=waits, replica=row(9_000, awaits=Lsn(9_100)), moved_s=500)
    assert standby(seen)["state"] == "waiting_for_approval"
    assert seen.state is StageState.WAITING
    (finding,) = seen.findings
    assert (finding.code, finding.where) == ("schema-waits", "replica standby")
    assert finding.message == "it waits before 0/238C for approval of schema changes"
    assert "`keepstream schema show standby`" in finding.hint
