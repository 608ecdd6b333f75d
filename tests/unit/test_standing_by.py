"""What a capture that stands by says of the one that owns the slot."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from connectors.log.directory import DirectoryLog
from connectors.postgres.replication import slot as slots
from pipeline.capture.options import CaptureOptions
from pipeline.capture.stage import CaptureStage
from pipeline.capture.startup.attempt import Attempt
from pipeline.capture.startup.continuing import Continuing
from pipeline.config.model import Keyless, Tables
from pipeline.reports import StageState
from schemas.entries import Entries
from schemas.errors import RetryLater


def capture_stage(folder: Path, stop: threading.Event) -> CaptureStage:
    options = CaptureOptions(
        "crm", "", DirectoryLog(folder, "crm"), "p", "keepstream_crm", Tables(), Keyless.REFUSE
    )
    return CaptureStage(options, stop, lambda _report: None)


def test_a_capture_that_is_closed_while_it_reports_does_not_end_its_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = capture_stage(tmp_path, threading.Event())
    seen = [
        SimpleNamespace(stream=SimpleNamespace(queued_bytes=0), chain=SimpleNamespace(publication=Entries()))
    ]
    monkeypatch.setattr(
        CaptureStage, "_capture", property(lambda _stage: seen.pop() if seen else None), raising=False
    )
    stage._state = StageState.STREAMING
    stage._rates.last_change_at = time.monotonic() - 60
    assert stage.snapshot().state is StageState.IDLE


def test_a_standby_logs_each_owner_once_although_it_tells_how_long_ago_it_was_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop, clock, pids = threading.Event(), [100.0], [7, 7, 7, 8, 8]
    stage = capture_stage(tmp_path, stop)
    told = []

    def owner_now(_session: object, _slot: str) -> slots.SlotOwner:
        clock[0] += 1
        pid = pids.pop(0)
        if not pids:
            stop.set()
        return slots.SlotOwner(pid, "keepstream:crm:00", "", 1.0, heard="then")

    def occupied(_walsender: object) -> None:
        told.append(stage.snapshot().waiting_for)
        raise RetryLater("it is active", code="slot-active")

    attempt = Attempt(stage._options, stop, stage._waits)
    monkeypatch.setattr(slots, "read_owner", owner_now)
    monkeypatch.setattr(attempt, "start_stream", occupied)
    monkeypatch.setattr(stop, "wait", lambda _seconds: False)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with caplog.at_level("INFO"):
        Continuing(attempt, None)._own_slot(None, b"stream")  # type: ignore[arg-type]
    assert len(set(told[1:4])) == 3, "status shows how long ago"
    logged = [vars(record)["waiting_for"] for record in caplog.records]
    assert ["process 7," in logged[0], "process 8," in logged[1], len(logged)] == [True, True, 2]
