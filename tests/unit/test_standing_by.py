"""What a capture that stands by says of the one that owns the slot."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from connectors.log.directory import DirectoryLog
from connectors.postgres import slot as slots
from pipeline.capture.options import CaptureOptions
from pipeline.capture.stage import CaptureStage
from pipeline.capture.startup import Startup
from pipeline.config.model import Keyless, Tables
from schemas.errors import RetryLater


def test_a_standby_logs_each_owner_once_although_it_tells_how_long_ago_it_was_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = DirectoryLog(tmp_path, "crm")
    options = CaptureOptions("crm", "", log, "p", "keepstream_crm", Tables(), Keyless.REFUSE)
    stop, clock, pids = threading.Event(), [100.0], [7, 7, 7, 8, 8]
    stage = CaptureStage(options, stop, lambda _report: None)
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

    startup = Startup(options, stop, stage._wait_for)
    monkeypatch.setattr(slots, "read_owner", owner_now)
    monkeypatch.setattr(startup, "_start_stream", occupied)
    monkeypatch.setattr(stop, "wait", lambda _seconds: False)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with caplog.at_level("INFO"):
        startup._own_slot(None, None, b"stream")  # type: ignore[arg-type]
    assert len(set(told[1:4])) == 3, "status shows how long ago"
    logged = [vars(record)["waiting_for"] for record in caplog.records]
    assert ["process 7," in logged[0], "process 8," in logged[1], len(logged)] == [True, True, 2]
