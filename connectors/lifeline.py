"""Children that die with us: the kernel ends them when we are gone, even by SIGKILL."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def tied_to_us(ending: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """For `Popen(preexec_fn=…)`: the child gets this signal once the thread that makes it is gone.

    In force before the child's program begins, which may take seconds to load. Nothing in it takes a lock,
    as a thread that fork left behind might hold that.
    """
    parent = os.getpid()

    def tie() -> None:
        if _libc is None:
            return
        _libc.prctl(_PR_SET_PDEATHSIG, ending)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), ending)

    return tie
