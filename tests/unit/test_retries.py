"""Which errors a stage outlives, and how long it waits then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from unittest.mock import MagicMock, Mock

import pytest

from pipeline import retries
from pipeline.apply.stage import ApplyStage
from pipeline.backoff import FIRST_S, LONGEST_S, Backoff
from pipeline.capture.stage import CaptureStage
from pipeline.retries import Retries
from pipeline.supervisor import PARENT_VARIABLE
from schemas.errors import HistoryBroken, LoginRefused, RetryLater
from schemas.lsn import Lsn, Position

REFUSED = LoginRefused("refused", code="login-refused")
FULL = RetryLater("no space left on device", code="disk-full")


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARENT_VARIABLE, "1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that stages see, in seconds; to be set by the test."""
    now = [1000.0]
    monkeypatch.setattr("pipeline.retries.time.monotonic", lambda: now[0])
    return now


def test_a_server_that_is_away_is_outlived_for_ever(clock: list[float]) -> None:
    tries = Retries()
    for _ in range(3):
        assert tries.outlives(RetryLater("away", code="server-unreachable"))
        clock[0] += 86400


def test_what_an_operator_must_mend_is_not_outlived(supervised: None) -> None:
    assert not Retries().outlives(HistoryBroken("gone", code="slot-missing"))


def test_a_refused_login_ends_a_stage_that_nobody_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    assert not Retries().outlives(REFUSED)


def test_a_refused_login_is_outlived_for_a_minute_under_run(supervised: None, clock: list[float]) -> None:
    tries = Retries()
    assert tries.outlives(REFUSED)
    clock[0] += retries.REFUSALS_S - 1
    assert tries.outlives(REFUSED)
    clock[0] += 1
    assert not tries.outlives(REFUSED)


def test_a_try_that_was_let_in_gives_the_next_refusal_its_own_minute(
    supervised: None, clock: list[float]
) -> None:
    tries = Retries()
    assert tries.outlives(REFUSED)
    with tries.trying(lambda: 0):
        pass
    clock[0] += 2 * retries.REFUSALS_S
    assert tries.outlives(REFUSED)


def pauses_of(run: Callable[[Retries], object], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long a stage waits after each of five tries that fail."""
    pauses: list[float] = []
    monkeypatch.setattr(Backoff, "wait", lambda backoff, _stop: pauses.append(backoff.next_s()))
    tries = Retries()
    for _ in range(5):
        with pytest.raises(RetryLater):
            run(tries)
        tries.wait(threading.Event())
    return pauses


@pytest.mark.parametrize(
    ("gets_on", "took_s", "grows"), [(0, 1.0, True), (1, 1.0, False), (0, LONGEST_S + 1, False)]
)
def test_pauses_grow_until_a_try_gets_on_or_stands_for_a_while(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, gets_on: int, took_s: float, grows: bool
) -> None:
    done = [0]

    def run(tries: Retries) -> None:
        with tries.trying(lambda: done[0]):
            done[0] += gets_on
            clock[0] += took_s
            raise FULL

    assert (pauses_of(run, monkeypatch)[-1] > 2 * FIRST_S) is grows


@pytest.mark.parametrize(("commits", "grows"), [(0, True), (1, False)])
def test_apply_pauses_longer_each_time_it_opened_a_replica_and_committed_nothing(
    monkeypatch: pytest.MonkeyPatch, commits: int, grows: bool
) -> None:
    def apply() -> None:
        stage._counters.count(transactions=commits, changes=0, size_bytes=0, took_s=0.0)
        raise FULL

    monkeypatch.setattr("pipeline.apply.stage.open_replica", Mock())
    monkeypatch.setattr("pipeline.apply.stage.Applier", Mock(return_value=Mock(run=apply)))
    stage = ApplyStage(Mock(skip=None), threading.Event(), Mock())
    assert (pauses_of(stage._run_once, monkeypatch)[-1] > 2 * FIRST_S) is grows


@pytest.mark.parametrize(("durable_bytes", "grows"), [(0, True), (100, False)])
def test_capture_pauses_longer_each_time_it_opened_the_log_and_nothing_became_durable(
    monkeypatch: pytest.MonkeyPatch, durable_bytes: int, grows: bool
) -> None:
    def pump(_stop: threading.Event) -> None:
        stage._rates.confirm(Position(Lsn(stage._rates.durable_lsn + durable_bytes)))
        raise FULL

    for name in ("Startup", "Joins", "AddedColumns", "Housekeeping", "replace", "at_server", "_sequences"):
        monkeypatch.setattr(f"pipeline.capture.stage.{name}", MagicMock())
    monkeypatch.setattr("pipeline.capture.stage.Pump", Mock(return_value=Mock(run=pump)))
    stage = CaptureStage(Mock(), threading.Event(), Mock())
    assert (pauses_of(stage._run_once, monkeypatch)[-1] > 2 * FIRST_S) is grows
