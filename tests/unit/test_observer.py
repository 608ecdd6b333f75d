"""What `status` reads of the log's end, and when; and what it sees of processes."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from pipeline.app import open_log
from pipeline.config import Config, load_config
from pipeline.control import observer
from pipeline.control.judgement import judge_status
from pipeline.control.observation import LogSeen, SourceSeen
from pipeline.control.observer import Observer
from pipeline.dev.process import require
from pipeline.processes import own_process
from schemas.errors import RetryLater
from schemas.lsn import Lsn, Position
from schemas.validity import Chain
from tests.unit.test_status_judgement import SOURCE, report

END = Chain(tail=Position(Lsn(0x2000), 7, 5))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "keepstream.yaml"
    path.write_text(f"name: crm\nsource: postgresql://h/d\nlog: file://{tmp_path}/log\n")
    return load_config(path)


def test_the_log_s_end_is_read_once_and_never_taken_from_an_earlier_look(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot may have moved since that look, so that an answer from then would look like a gap."""
    open_log(config).create()
    answers, reads = Event(), 0

    def slow_end(log: object) -> Chain:
        nonlocal reads
        reads += 1
        answers.wait(10)
        return END

    monkeypatch.setattr(observer, "find_end", slow_end)
    looking = Observer(config)
    for wait_s in (0.05, 10):  # the second look does not wait for the first one's answer
        began = time.monotonic()
        late = looking._look_at_end(began + wait_s)
        assert isinstance(late, RetryLater)
        assert late.message == "the log's end did not answer in time"
        assert time.monotonic() - began < 5
    answers.set()
    require(lambda: looking._look_at_end(time.monotonic() + 1) == END, 10, what="the log's end")
    assert looking._look_at_end(time.monotonic() + 1) == END
    assert reads == 1
    looking.close()


@pytest.mark.parametrize("begins", [True, False], ids=["begins", "ends"])
def test_a_pipeline_that_begins_or_ends_between_the_looks_at_slot_and_log_lost_neither(
    config: Config, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    """A beginning makes the log before the slot; `teardown` removes it after the slot."""
    log, between = open_log(config), Event()
    look_at_log = observer._LogLook.take

    def take_log(look: observer._LogLook) -> LogSeen:
        if begins:
            seen = look_at_log(look)
            if not between.is_set():
                log.create()
                between.set()
            return seen
        between.wait(10)
        return look_at_log(look)

    def take_source(look: observer._SourceLook) -> SourceSeen:
        if begins:
            between.wait(10)
            return SOURCE
        if between.is_set():
            return replace(SOURCE, slot=None, owner=None)
        log.destroy()
        between.set()
        return SOURCE

    if not begins:
        log.create()
    monkeypatch.setattr(observer._LogLook, "take", take_log)
    monkeypatch.setattr(observer._SourceLook, "take", take_source)
    looking = Observer(config)
    seen = looking.look()
    looking.close()
    assert isinstance(seen.log, LogSeen)
    assert seen.log.exists is begins
    assert [finding.code for finding in judge_status(seen).findings] == []


def test_a_slot_that_was_looked_at_just_before_it_was_made_is_looked_at_again(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = iter([None, SOURCE.slot])
    monkeypatch.setattr(observer._SourceLook, "take", lambda _: replace(SOURCE, slot=next(slots)))
    open_log(config).create()
    looking = Observer(config)
    assert looking.look().source == SOURCE
    looking.close()


def test_a_stage_s_process_is_seen_to_live_or_to_have_ended_on_its_own_host(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = own_process()
    if ours is None:
        pytest.skip("no /proc here")
    another = ours.rpartition("/")[0] + "/1"  # which had our pid before
    reports = {
        name: report(pid=os.getpid(), process=process)
        for name, process in (("capture", ours), ("apply:standby", another), ("apply:far", "elsewhere"))
    }
    monkeypatch.setattr(observer._SourceLook, "take", lambda _: SOURCE)
    monkeypatch.setattr(observer._LogLook, "take", lambda _: LogSeen(True, reports))
    looking = Observer(config)
    seen = looking.look()
    looking.close()
    assert seen.running == {"capture"}
    assert seen.dead == {"apply:standby"}
