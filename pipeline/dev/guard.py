"""Ends what a killed process left behind: `python -m pipeline.dev.guard PID STARTED FOLDER`.

It waits until that process is gone or the folder is, then ends every server below the folder and
deletes it. It runs in a session of its own, so that what kills the owner spares it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.dev.process import ProcessId, ServerProcess, process_id
from pipeline.dev.record import kill_below

_LOOK_S = 0.25

# Processes that the owner started may outlive it for some seconds, and start servers meanwhile.
_LATECOMERS_S = 15.0


def guard(owner: ProcessId, folder: Path) -> None:
    """Start a guard of `folder` for as long as `owner` lives."""
    root = Path(__file__).parents[2]
    ServerProcess(
        [sys.executable, "-m", "pipeline.dev.guard", str(owner.pid), owner.started, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )


def guard_ours(folder: Path) -> None:
    """For as long as this process lives."""
    owner = process_id(os.getpid())
    assert owner is not None
    guard(owner, folder)


def main(arguments: list[str]) -> None:
    pid, started, name = arguments
    owner, folder = ProcessId(int(pid), started), Path(name)
    while owner.is_alive() and folder.exists():
        time.sleep(_LOOK_S)
    kill_below(folder)
    deadline = time.monotonic() + (0 if owner.is_alive() else _LATECOMERS_S)
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        if folder.exists():
            kill_below(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
