"""Folders whose files must not outlive their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.scratch import PREFIX, scratch_folder

LEAVE_ONE = """
import time
from connectors.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "secret").write_text("s")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's temporary folder, of this test alone; processes that it starts see it, too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


def age(folder: Path) -> None:
    os.utime(folder, (1, 1))


def start_holder() -> tuple[subprocess.Popen[str], Path]:
    """A process that has a folder, and the folder."""
    holder = subprocess.Popen([sys.executable, "-c", LEAVE_ONE], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    folder = Path(holder.stdout.readline().strip())
    assert (folder / "secret").exists()
    return holder, folder


def end(holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.communicate()


def test_it_is_private_and_goes_with_its_block(parent: Path) -> None:
    with scratch_folder() as folder:
        (folder / "file").write_text("x")
        assert folder.parent == parent
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(parent.iterdir()) == []


def test_what_a_killed_process_left_is_deleted_by_the_next() -> None:
    holder, left = start_holder()
    end(holder)
    age(left)
    with scratch_folder():
        assert not left.exists()


def test_what_somebody_uses_stays_however_old_it_is() -> None:
    holder, used = start_holder()
    age(used)
    with scratch_folder():
        assert (used / "secret").exists()
    end(holder)


def test_one_that_was_made_just_now_stays(parent: Path) -> None:
    young = parent / f"{PREFIX}young"
    young.mkdir()
    with scratch_folder():
        assert young.exists()


def test_a_link_is_never_followed(parent: Path) -> None:
    precious = parent / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    age(precious)
    (parent / f"{PREFIX}link").symlink_to(precious)
    with scratch_folder():
        assert (precious / "file").exists()
