"""Work that may hang, in a daemon thread: whoever waits for its result can give up, and the process ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_background(work: Callable[[], T], *, name: str) -> Future[T]:
    """Begin the work; the future holds what it returns or raises."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return done
