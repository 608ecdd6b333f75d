"""stdout that is full, closed, or read by nobody; what a shell does with `>/dev/full`, `>&-` and `| true`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INIT = "init --grants --source postgresql://u@h/d --log file:///l"
LOST = (
    "error[output-failed]: the results cannot be written to standard output: {}\n"
    "hint: Look at where standard output goes: a full disk, or a closed file."
    " What the command did before stays done.\n"
)


def shell(arguments: str, redirected: str) -> tuple[int, str]:
    """Exit code and stderr."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {sys.executable} -m pipeline.cli -c /none.yaml {arguments} {redirected}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", ["--version", "--help", INIT])
@pytest.mark.parametrize(
    ("redirected", "seen"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_results_that_cannot_be_written_end_with_1_and_what_happened(
    arguments: str, redirected: str, seen: str
) -> None:
    assert shell(arguments, redirected) == (1, LOST.format(seen))


@pytest.mark.parametrize("arguments", ["--version", "--help", INIT])
def test_a_reader_that_went_away_ends_it_quietly_with_141(arguments: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pipeline.cli", "-c", "/none.yaml", *arguments.split()]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_an_error_that_cannot_be_said_keeps_its_exit_code(redirected: str) -> None:
    assert shell("check", redirected) == (3, "")


def test_nobody_else_gets_the_number_of_a_closed_stream() -> None:
    code = "from pipeline.cli.streams import set_up_streams as s; s(); import os; print(os.dup(0), end='')"
    command = ["/bin/sh", "-c", f'exec {sys.executable} -c "{code}" <&- 2>&-']
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "3"
