"""Work of `verify` and `snapshot` that a signal ends, even where a server hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotYet
from typing import Final, TypeVar

from pipeline.background import in_background
from pipeline.verify.watch import VerifyStopped

Result = TypeVar("Result")

_PATIENCE_S: Final = 6.0
"""How long a command that is told to stop may take to let go of the servers in order."""


def until_stopped(work: Callable[[], Result], *, name: str, stop: threading.Event) -> Result | None:
    """In a thread, so that a server that hangs cannot keep us from ending. None: stopped."""
    done = in_background(work, name=name)
    while not done.done() and not stop.wait(0.05):
        pass
    try:
        return done.result(_PATIENCE_S if stop.is_set() else None)
    except (VerifyStopped, NotYet):
        return None
