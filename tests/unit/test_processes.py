"""Whether a process lives is said only where it can be seen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline import processes
from pipeline.processes import lives, own_process

OURS = own_process() or ""
BOOT, NAMESPACE, START = OURS.split("/") if OURS else ("", "", "")

pytestmark = pytest.mark.skipif(not OURS, reason="no /proc here")


def test_a_process_lives_until_it_has_ended_even_if_another_has_its_pid() -> None:
    assert lives(os.getpid(), OURS) is True
    assert lives(os.getpid(), f"{BOOT}/{NAMESPACE}/{int(START) - 1}") is False
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert lives(child.pid, OURS) is False


@pytest.mark.parametrize("process", [None, f"another/{NAMESPACE}/1", f"{BOOT}/pid:[7]/1"])
def test_of_a_process_of_another_machine_or_container_nothing_is_said(process: str | None) -> None:
    assert lives(2**22 - 1, process) is None


def test_of_a_process_that_proc_hides_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(processes, "started_at", lambda _pid: None)
    monkeypatch.setattr(os, "kill", refuse)
    assert lives(7, OURS) is None
