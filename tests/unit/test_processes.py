"""Whether a process has ended is said only where it can be seen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline import processes
from pipeline.processes import is_gone, own_process

OURS = own_process() or ""
BOOT, NAMESPACE, START = OURS.split("/") if OURS else ("", "", "")

pytestmark = pytest.mark.skipif(not OURS, reason="no /proc here")


def test_a_process_is_gone_once_it_has_ended_even_if_another_has_its_pid() -> None:
    assert not is_gone(os.getpid(), OURS)
    assert is_gone(os.getpid(), f"{BOOT}/{NAMESPACE}/{int(START) - 1}")
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert is_gone(child.pid, OURS)


@pytest.mark.parametrize("process", [None, f"another/{NAMESPACE}/1", f"{BOOT}/pid:[7]/1"])
def test_of_a_process_of_another_machine_or_container_nothing_is_said(process: str | None) -> None:
    assert not is_gone(2**22 - 1, process)


def test_a_process_that_proc_hides_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(processes, "started_at", lambda _pid: None)
    monkeypatch.setattr(os, "kill", refuse)
    assert not is_gone(7, OURS)
