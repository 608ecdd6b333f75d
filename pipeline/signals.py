"""SIGTERM and SIGINT end a stage in order: the event is set, and the stage finishes what it has."""

from __future__ import annotations

import os
import signal
import threading

INTERRUPTED = 130
"""Exit code of what was told to stop before it had what it was called for, as shells give it after Ctrl-C."""

_ENDING = frozenset({signal.SIGTERM, signal.SIGINT})


def end_on_sigterm(code: int = 0) -> None:
    """Until `stop_on_signals` is called SIGTERM ends this process at once, with this exit code: it has begun
    nothing yet that would have to be finished. Call it before anything that takes time, as importing does."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(code))


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set. Call it once, in the main thread.

    A thread of its own sets it. A handler would run in the main thread, perhaps in the middle of that
    thread's `wait` for the event, and then wait for ever for the lock that its own thread holds.
    """
    stop = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _ENDING:
        signal.signal(number, lambda _number, _frame: None)
    threading.Thread(target=_listen, args=[reader, stop], name="signals", daemon=True).start()
    return stop


def _listen(reader: int, stop: threading.Event) -> None:
    while _ENDING.isdisjoint(os.read(reader, 64)):
        pass
    stop.set()
