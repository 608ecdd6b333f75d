"""Who works only while nobody else wants to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import family, put_last


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """A shell in a session of its own, whose child waits for its end of input."""
    shell = subprocess.Popen(
        ["sh", "-c", "cat; :"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    yield shell
    shell.communicate(timeout=10)


def test_a_process_comes_last_with_its_children_and_its_session(parent: subprocess.Popen[bytes]) -> None:
    while len(family(parent.pid)) < 2:
        assert parent.poll() is None
    put_last(parent.pid)
    members = family(parent.pid)
    assert [os.sched_getscheduler(member) for member in members] == [os.SCHED_IDLE] * 2
    sessions = {Path(f"/proc/{member}/autogroup") for member in members}
    assert {path.read_text().split()[-1] for path in sessions if path.exists()} <= {"19"}


def test_who_has_ended_is_no_error() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    put_last(ended.pid)
    assert family(ended.pid) == [ended.pid]
