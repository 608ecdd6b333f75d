"""`./demo` as a stranger runs it: its own environment, its own servers, a real CRM.

The first run on a machine downloads packages and installs Tryton; both are kept for later ones.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.dev.folders import data_folder
from pipeline.dev.process import server_account

ROOT = Path(__file__).parents[2]
PATIENCE_S = 420

pytestmark = [pytest.mark.timeout(2 * PATIENCE_S + 30), pytest.mark.long(300)]


@pytest.fixture(autouse=True)
def _one_demo_at_a_time() -> Iterator[None]:
    """Both would fill the same environment and, in the same cache, install the same CRM."""
    (ROOT / ".cache").mkdir(exist_ok=True)
    with open(ROOT / ".cache" / "demo-test.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "demo"), "--seconds", "20", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd="/",
        env={name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
    )


def demo_folders() -> set[Path]:
    return set(data_folder(server_account()).glob("demo-*"))


def test_the_demo_survives_kills_proves_equality_and_finds_an_altered_value() -> None:
    before = demo_folders()
    done = run_demo("--directory", "--sabotage")
    assert done.returncode == 6, done.stdout[-4000:] + done.stderr
    story, _, sabotaged = done.stdout.partition("sabotage: ")
    assert re.search(r"identical at LSN [0-9A-F]+/[0-9A-F]+\n", story)
    altered = re.match(r"a value of (\S+), row id (\d+), altered", sabotaged)
    assert altered is not None
    assert f"DIFFERENT: {altered[1]}: id={altered[2]} (values differ)" in sabotaged
    assert re.search(r"not identical at LSN [0-9A-F]+/[0-9A-F]+$", sabotaged.strip())
    assert "kills survived: 4 processes by SIGKILL" in sabotaged
    assert re.search(r"all 224 tables .*[1-9]", sabotaged)
    assert demo_folders() <= before


@pytest.mark.slow
def test_the_demo_ends_with_0_and_its_last_line_says_identical() -> None:
    done = run_demo("--directory")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert re.search(r"(?<!not )identical at LSN [0-9A-F]+/[0-9A-F]+$", done.stdout.strip())
