"""When a stage's report is published, and under which key."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from connectors.interfaces import ChangeLog
from pipeline.board import AWAY_S, NEW_LOG_S, Board, read_reports
from pipeline.processes import lives, own_process
from pipeline.reports import StageReport, StageState
from schemas.errors import HistoryBroken, KeepstreamError, OperatorNeeded, RetryLater


class Published:
    """Of a log, only its reports."""

    def __init__(self) -> None:
        self.newest: dict[str, bytes] = {}
        self.keys: list[str] = []
        self.fails: KeepstreamError | None = None

    def put_report(self, stage: str, report: bytes) -> None:
        if self.fails is not None:
            raise self.fails
        self.newest[stage] = report
        self.keys.append(stage)

    def reports(self) -> dict[str, bytes]:
        return self.newest


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`time.monotonic`, which a test moves."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def board(log: Published) -> Board:
    return Board(cast(ChangeLog, log))


def said(state: StageState, **more: Any) -> StageReport:
    return StageReport(stage="capture", state=state, **more)


def test_a_report_names_the_process_that_published_it() -> None:
    log = Published()
    board(log).publish(said(StageState.IDLE))
    report = read_reports(cast(ChangeLog, log))["capture"]
    assert report.process == own_process()
    assert lives(report.pid, report.process)


def test_the_newest_is_published_once_a_second_and_of_an_idle_stage_every_five(clock: list[float]) -> None:
    log = Published()
    made = board(log)
    counts = []
    for state in (StageState.STREAMING, StageState.IDLE):
        for _ in range(101):
            made.publish(said(state))
            clock[0] += 0.1
        counts.append(len(log.keys))
    assert 10 <= counts[0] <= 12
    assert 2 <= counts[1] - counts[0] <= 4


def test_a_change_of_what_it_is_is_published_at_once(clock: list[float]) -> None:
    log = Published()
    made = board(log)
    made.publish(said(StageState.STARTING, owner=False))
    made.publish(said(StageState.STARTING, owner=False))
    made.publish(said(StageState.STREAMING))
    assert log.keys == ["standby:capture", "capture", "standby:capture"]


def test_who_becomes_owner_or_is_none_any_more_says_so_under_both_keys(clock: list[float]) -> None:
    log = Published()
    made = board(log)
    for state, owner in ((StageState.STREAMING, True), (StageState.RETRYING, False)):
        made.publish(said(state, owner=owner))
        reports = read_reports(cast(ChangeLog, log))
        assert [report.state for report in reports.values()] == [state] * 2
        clock[0] += 5
        made.publish(said(state, owner=owner))
    assert log.keys == [
        "capture",
        "standby:capture",
        "capture",
        "standby:capture",
        "capture",
        "standby:capture",
    ]


def test_a_log_that_is_away_loses_reports_and_nothing_else(clock: list[float]) -> None:
    log = Published()
    log.fails = RetryLater("away", code="log-unreachable")
    board(log).publish(said(StageState.STREAMING))
    log.newest["capture"] = b"{}"
    assert read_reports(cast(ChangeLog, log)) == {}


def test_reports_that_may_not_be_written_are_warned_of_once(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = Published()
    log.fails = OperatorNeeded("not allowed to use it", code="log-permission", hint="Mend it.")
    made = board(log)
    for _ in range(3):
        made.publish(said(StageState.STREAMING))
        clock[0] += 5
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [vars(record)["code"] for record in warned] == ["log-permission"]
    assert vars(warned[0])["fix"] == "Mend it."


def test_a_log_that_capture_has_not_made_yet_is_warned_of_only_if_that_lasts(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = Published()
    log.fails = HistoryBroken("it does not exist", code="log-missing", hint="Bring it back.")
    made = board(log)

    def warned_after(seconds: float) -> list[str]:
        clock[0] += seconds
        made.publish(said(StageState.STARTING, owner=False))
        return [vars(record)["code"] for record in caplog.records if record.levelname == "WARNING"]

    assert warned_after(0) == []
    assert warned_after(NEW_LOG_S - 1) == []
    assert warned_after(2) == ["log-missing"]
    assert warned_after(2) == ["log-missing"]


def test_a_log_that_stays_away_is_warned_of_once_until_it_works_again(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log = Published()
    made = board(log)

    def warnings_after(seconds: float, fails: KeepstreamError | None) -> int:
        log.fails = fails
        clock[0] += seconds
        made.publish(said(StageState.STREAMING))
        return sum(record.levelname == "WARNING" for record in caplog.records)

    away = RetryLater("away", code="log-unreachable", hint="Start it.")
    steps = [(0, away), (AWAY_S - 1, away), (2, away), (60, away), (5, None), (5, away), (AWAY_S, away)]
    assert [warnings_after(*step) for step in steps] == [0, 0, 1, 1, 1, 1, 2]


def test_who_became_owner_while_the_log_was_away_says_so_under_both_keys_later(clock: list[float]) -> None:
    log = Published()
    made = board(log)
    made.publish(said(StageState.STARTING, owner=False))
    log.fails = RetryLater("away", code="log-unreachable")
    made.publish(said(StageState.STREAMING))
    log.fails = None
    clock[0] += 5
    made.publish(said(StageState.STREAMING))
    assert log.keys == ["standby:capture", "capture", "standby:capture"]
