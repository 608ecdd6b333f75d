"""Which errors a stage outlives."""

from __future__ import annotations

import pytest

from pipeline import retries
from pipeline.retries import Retries
from pipeline.supervisor import PARENT_VARIABLE
from schemas.errors import HistoryBroken, LoginRefused, RetryLater

REFUSED = LoginRefused("refused", code="login-refused")


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


def test_a_try_that_worked_gives_the_next_refusal_its_own_minute(
    supervised: None, clock: list[float]
) -> None:
    tries = Retries()
    assert tries.outlives(REFUSED)
    tries.reset()
    clock[0] += 2 * retries.REFUSALS_S
    assert tries.outlives(REFUSED)
