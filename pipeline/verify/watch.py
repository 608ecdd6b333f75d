"""What all steps of a verification share: its sessions, what people are told, and how it ends early.

A statement of ours may wait for long: for a target transaction that is being applied, for somebody's
lock. So whoever wants to end it cancels what the sessions run, again and again until they have noticed, and
then ends their connections.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from typing import TypeVar

import psycopg

from connectors.postgres.session import Session, connect
from pipeline.background import in_background
from schemas.errors import KeepstreamError, RetryLater

_LOOK_S = 0.1
_CANCEL_S = 1.0
_HANGS_S = 1.5
"""A server that ended nothing for so long after it was asked to does not answer at all."""

T = TypeVar("T")

Tell = Callable[[str], None]
"""Told in one line what is being done or waited for, as often as it is seen."""


class VerifyStopped(RetryLater):
    """The verification was asked to stop (`verify-stopped`)."""


class Watch:
    """Used by all threads of one verification. `watching` must be entered first."""

    def __init__(self, stop: threading.Event, tell: Tell) -> None:
        self.tell = tell
        self._stop = stop
        self._deadline: float | None = None
        self._late: Callable[[], KeepstreamError] | None = None
        self._sessions: set[Session] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def session(self, conninfo: str, *, purpose: str) -> Iterator[Session]:
        """A session whose statements are cancelled when the verification shall end."""
        session = self.in_time(lambda: connect(conninfo, purpose=purpose), undo=Session.close)
        with self._lock:
            self._sessions.add(session)
        try:
            yield session
        finally:
            with self._lock:
                self._sessions.discard(session)
            session.close()

    def in_time(self, work: Callable[[], T], *, undo: Callable[[T], None]) -> T:
        """Do what may hang in a thread of its own. If it comes too late, it is undone when it comes."""
        doing = in_background(work, name="verify waits")
        while not wait([doing], timeout=_LOOK_S).done:
            try:
                self.check()
            except KeepstreamError:
                doing.add_done_callback(partial(_undo, undo))
                raise
        return doing.result()

    @contextlib.contextmanager
    def deadline(self, seconds: float, late: Callable[[], KeepstreamError]) -> Iterator[None]:
        """What is inside must be done within `seconds`, else `late` says what is raised. Inside of it there
        may be another, which counts until it ends."""
        around = self._late, self._deadline
        self._late = late
        self._deadline = time.monotonic() + seconds
        try:
            with self._telling_why():
                yield
        finally:
            self._late, self._deadline = around

    def extend(self, seconds: float) -> None:
        """What is inside of `deadline` goes on well, and has as long again from now on."""
        if self._deadline is not None:
            self._deadline = time.monotonic() + seconds

    @property
    def is_stopped(self) -> bool:
        """Whether it was asked to end, by somebody else than its own deadline."""
        return self._stop.is_set()

    def check(self) -> None:
        """Call it often while waiting. Raises VerifyStopped, and what `late` makes."""
        if self._stop.is_set():
            raise VerifyStopped("the verification was stopped", code="verify-stopped")
        late = self._late
        if late is not None and self._is_late():
            self._deadline = None  # `late` may ask the servers
            raise late()

    def pause(self, seconds: float) -> None:
        """`check`, and wait a moment."""
        self.check()
        self._stop.wait(seconds)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While this lasts, the wish to stop and the deadline cancel what runs, which then raises why."""
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=[ended], name="verify watch", daemon=True)
        watcher.start()
        try:
            with self._telling_why():
                yield
        finally:
            ended.set()
            watcher.join()

    @contextlib.contextmanager
    def _telling_why(self) -> Iterator[None]:
        try:
            yield
        except RetryLater as error:
            if error.code in ("query-canceled", "connection-lost", "server-unreachable"):
                self.check()
            raise

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _watch(self, ended: threading.Event) -> None:
        began_at: float | None = None
        while not ended.wait(_LOOK_S):
            if not (self._stop.is_set() or self._is_late()):
                began_at = None
                continue
            began_at = time.monotonic() if began_at is None else began_at
            hangs = time.monotonic() - began_at > _HANGS_S
            with self._lock:
                sessions = list(self._sessions)
            for session in sessions:
                _end(session) if hangs else _cancel(session)


def _undo(undo: Callable[[T], None], done: Future[T]) -> None:
    if done.exception() is None:
        undo(done.result())


def _cancel(session: Session) -> None:
    with contextlib.suppress(psycopg.Error):  # it has ended, or ends just now
        if _is_busy(session):
            session.cancel_safe(timeout=_CANCEL_S)


def _end(session: Session) -> None:
    """For the thread that waits for an answer the connection is lost."""
    with contextlib.suppress(psycopg.Error, OSError):
        if _is_busy(session):
            with socket.socket(fileno=os.dup(session.pgconn.socket)) as line:
                line.shutdown(socket.SHUT_RDWR)


def _is_busy(session: Session) -> bool:
    return not session.closed and session.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE
