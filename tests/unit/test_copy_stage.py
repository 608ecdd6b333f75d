"""The first copy as a stage: what ends it, and what does not."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from connectors.postgres.replica import progress
from pipeline.copy.stage import FirstCopyStage
from schemas.errors import OperatorNeeded


@pytest.mark.parametrize("error", [progress.in_use("crm"), progress.copy_replaced("crm")])
def test_a_replica_that_another_one_completed_meanwhile_is_followed(
    monkeypatch: pytest.MonkeyPatch, error: OperatorNeeded
) -> None:
    """Of two stages that begin at once, both see an empty replica; the later one finds it in use. Or it was
    frozen in its copy, and the other made a new one."""
    states = iter([False, True])
    reports: list[Any] = []
    stage = FirstCopyStage(None, threading.Event(), reports.append)  # type: ignore[arg-type]

    def refused() -> None:
        raise error

    monkeypatch.setattr(stage, "_is_streaming", lambda: next(states))
    monkeypatch.setattr(stage, "_copy", refused)
    assert stage.run() is True
    assert reports == []
