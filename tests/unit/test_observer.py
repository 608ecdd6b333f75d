"""What `status` reads of the log's end, and when."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event

import pytest

from pipeline.app import open_log
from pipeline.config import load_config
from pipeline.control import observer
from pipeline.control.observer import Observer
from pipeline.dev.process import require
from schemas.errors import RetryLater
from schemas.lsn import Lsn, Position

END = Position(Lsn(0x2000), 7, 5)


def test_the_log_s_end_is_read_once_and_never_taken_from_an_earlier_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot may have moved since that look, so that an answer from then would look like a gap."""
    path = tmp_path / "keepstream.yaml"
    path.write_text(f"name: crm\nsource: postgresql://h/d\nlog: file://{tmp_path}/log\n")
    config = load_config(path)
    open_log(config).create()
    answers, reads = Event(), 0

    def slow_end(log: object) -> Position:
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
