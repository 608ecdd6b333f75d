"""Cancelling what sessions run once somebody asks us to stop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Final

import psycopg

from connectors.postgres.session import Session

_CANCEL_EVERY_S: Final = 0.5


@contextlib.contextmanager
def cancelled_by(stop: threading.Event, sessions: Sequence[Session]) -> Iterator[None]:
    """While the context lasts, `stop` cancels what these sessions run, again and again: a statement may
    begin just after a cancel."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_CANCEL_EVERY_S):
            if stop.is_set():
                for session in sessions:
                    _cancel(session)

    watcher = threading.Thread(target=watch, name="canceller", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _cancel(session: Session) -> None:
    with contextlib.suppress(psycopg.Error):  # it has ended, or ends just now
        if not session.closed:
            session.cancel_safe(timeout=2.0)
