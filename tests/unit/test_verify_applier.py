"""Whether a verification waits for an applier, or says that there is none."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from connectors.postgres.replica.progress import Progress, ReplicaState
from pipeline.reports import ReportedError, StageReport, StageState
from pipeline.verify import applier
from pipeline.verify.applier import SILENT_S, ApplierWatch
from schemas.errors import OperatorNeeded, RetryLater
from schemas.lsn import Lsn, Position

ERROR = ReportedError(code="row-missing", message="no such row", hint="Mend it.", at=0.0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "GONE_S", 0.02)


def progress(*, alive: bool) -> Progress:
    token, now = uuid.uuid4(), datetime.now(UTC)
    at = Position(Lsn(0x10))
    return Progress("crm", bytes(16), at, token, ReplicaState.STREAMING, None, "", 1, now, alive, now)


def report(state: StageState, *, age_s: float = 0.0, error: ReportedError | None = None) -> StageReport:
    return StageReport(stage="apply:standby", state=state, at=time.time() - age_s, last_error=error)


def refused(*reports: StageReport | None, alive: bool = False) -> OperatorNeeded | None:
    """What is said within a moment, of reports that are read one after the other; the last one stays."""
    left = list(reports)

    def read() -> Mapping[str, StageReport]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return {} if found is None else {found.stage: found}

    watch, until = ApplierWatch("standby", read), time.monotonic() + 0.5
    while time.monotonic() < until:
        try:
            watch.require(progress(alive=alive))
        except OperatorNeeded as error:
            return error
        time.sleep(0.005)
    return None


@pytest.mark.parametrize(
    "gone", [None, report(StageState.STOPPED), report(StageState.STREAMING, age_s=SILENT_S + 1)]
)
def test_no_applier_at_all_is_said_soon(gone: StageReport | None) -> None:
    error = refused(gone)
    assert error is not None
    assert (error.code, error.exit_code) == ("applier-not-running", 4)
    assert error.message == (
        "replica standby cannot be compared: it is at 0/10, and no applier is connected to it"
    )
    assert "keepstream apply standby" in error.hint


def test_what_ended_the_applier_is_told_with_its_hint() -> None:
    error = refused(report(StageState.STOPPED, error=ERROR))
    assert error is not None
    assert error.message.endswith("; the last one ended: no such row (row-missing)")
    assert error.hint == "Mend it."


@pytest.mark.parametrize(
    ("state", "age_s"),
    [
        (StageState.STARTING, 0.0),
        (StageState.RETRYING, 0.0),
        (StageState.STREAMING, SILENT_S - 5),  # killed: `run` may start it again
    ],
)
def test_an_applier_that_starts_retries_or_may_be_started_again_is_waited_for(
    state: StageState, age_s: float
) -> None:
    assert refused(report(state, age_s=age_s, error=ERROR)) is None


def test_an_applier_that_lags_is_waited_for_whatever_was_reported() -> None:
    assert refused(report(StageState.STOPPED), alive=True) is None


def test_one_that_stopped_while_it_was_waited_for_is_noticed() -> None:
    assert refused(report(StageState.RETRYING), report(StageState.STOPPED)) is not None


def test_nothing_is_known_while_the_log_is_away() -> None:
    asked: list[float] = []

    def read() -> Mapping[str, StageReport]:
        asked.append(time.monotonic())
        raise RetryLater("no answer", code="log-unreachable")

    watch, until = ApplierWatch("standby", read), time.monotonic() + 10
    while len(asked) < 3 and time.monotonic() < until:
        watch.require(progress(alive=False))
        time.sleep(0.005)
    assert len(asked) == 3


def test_reports_that_are_never_answered_keep_nobody() -> None:
    def read() -> Mapping[str, StageReport]:
        time.sleep(60)
        return {}

    watch, began = ApplierWatch("standby", read), time.monotonic()
    while time.monotonic() - began < 0.2:
        watch.require(progress(alive=False))
        time.sleep(0.005)
    assert time.monotonic() - began < 5
