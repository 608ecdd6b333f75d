"""SIGTERM and SIGINT end a stage in order: the event is set, and the stage finishes what it has."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

INTERRUPTED = 130
"""Exit code of what was told to stop before it had what it was called for, as shells give it after Ctrl-C."""

_ENDING: frozenset[int] = frozenset({signal.SIGTERM, signal.SIGINT})


def end_on_sigterm(code: int = 0) -> None:
    """Until `stop_on_signals` is called SIGTERM ends this process at once, with this exit code: it has begun
    nothing yet that would have to be finished. Call it before anything that takes time, as importing does."""
    _listen_for(frozenset({signal.SIGTERM}), lambda: os._exit(code))


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set. Call it once, in the main thread."""
    stop = threading.Event()
    _listen_for(_ENDING, stop.set)
    return stop


def _listen_for(numbers: frozenset[int], act: Callable[[], None]) -> None:
    """In a thread of its own. A handler would run in the main thread: not before a call returns that is no
    Python, as the look-up of a host's name, and perhaps in the middle of its `wait` for the event, to wait
    for ever for the lock that its own thread holds."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda _number, _frame: None)
    threading.Thread(target=_listen, args=[reader, numbers, act], name="signals", daemon=True).start()


def _listen(reader: int, numbers: frozenset[int], act: Callable[[], None]) -> None:
    while numbers.isdisjoint(os.read(reader, 64)):
        pass
    act()
