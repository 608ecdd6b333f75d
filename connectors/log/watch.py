"""Waiting until something happens in a folder.

Linux tells through inotify, within some ten microseconds; where that is missing or used up, the folder
is looked at every one to ten milliseconds. Both wait at most RECHECK_S, so that an event that never
comes (a file system that has none) costs latency, not liveness.
"""

from __future__ import annotations

import ctypes
import os
import select
from pathlib import Path

RECHECK_S = 0.2
_POLL_MIN_S = 0.001
_POLL_MAX_S = 0.010
_READ_BYTES = 65536

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x2, 0x80, 0x100, 0x200
_EVENTS = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE


class FolderWatch:
    def __init__(self, path: Path) -> None:
        self._inotify = _inotify(path)
        self._poll = select.poll()
        if self._inotify is not None:
            self._poll.register(self._inotify, select.POLLIN)
        self._pause_s = _POLL_MIN_S

    def wait(self, timeout_s: float) -> None:
        """Until something may have changed, or the timeout."""
        limit_s = RECHECK_S if self._inotify is not None else self._pause_s
        ready = self._poll.poll(max(0.0, min(timeout_s, limit_s)) * 1000)
        if ready and self._inotify is not None:
            _drain(self._inotify)
        self._pause_s = min(_POLL_MAX_S, self._pause_s * 1.2)

    def found(self) -> None:
        """Something was there: look again soon."""
        self._pause_s = _POLL_MIN_S

    def close(self) -> None:
        """Idempotent."""
        inotify, self._inotify = self._inotify, None
        if inotify is not None:
            os.close(inotify)


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, _READ_BYTES)
    except BlockingIOError:
        pass


def _inotify(path: Path) -> int | None:
    """An inotify descriptor that watches the folder; None where there is none to be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        return None
    descriptor = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        return None
    if libc.inotify_add_watch(descriptor, os.fsencode(path), _EVENTS) < 0:
        os.close(descriptor)
        return None
    return descriptor
