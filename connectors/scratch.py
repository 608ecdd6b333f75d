"""Folders for files that must not outlive their process, which may be killed at any moment."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PREFIX: Final = "keepstream-scratch-"
_YOUNG_S: Final = 60.0
"""A folder this young may be about to be locked."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder (0700) below the system's temporary one, deleted at the end.

    Its maker holds a lock on it. What a killed process left behind is not locked any more, and the next one
    of the same user that wants a folder deletes it.
    """
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY)  # no child inherits it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(lock)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # a stranger's, in use, or gone meanwhile
            _delete_if_abandoned(folder)


def _delete_if_abandoned(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        seen = os.fstat(lock)
        if seen.st_uid != os.geteuid() or time.time() - seen.st_mtime < _YOUNG_S:
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)
