"""Connections that are made before they are needed: each takes 5 to 40 ms, most of them waiting, which who
starts spends on others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from schemas.errors import KeepstreamError

_FRESH_S = 10.0
"""A younger one was not lost because of idleness."""
_JUST_NOW_S = 1.0
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Attempt(Generic[T]):
    made: Future[T] = field(default_factory=Future)
    ended_at: float = 0.0

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.ended_at if self.made.done() else 0.0


class Ahead(Generic[T]):
    """At most one connection, made in a thread of its own or given back. Thread-safe; only `take` waits."""

    def __init__(self, make: Callable[[], T], close: Callable[[T], None]) -> None:
        """make: may raise KeepstreamError. close: called for what nobody takes."""
        self._make = make
        self._close = close
        self._attempt: _Attempt[T] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Make one, unless one is there or on its way."""
        with self._lock:
            last = self._attempt
            if self._closed or (last is not None and last.age_s < _FRESH_S):
                return
            self._attempt = attempt = _Attempt[T]()
        self._discard(last)
        threading.Thread(target=self._run, args=[attempt], name="ahead", daemon=True).start()

    def take(self) -> T | None:
        """The connection, for which this may have to wait; None where none was begun, or it is too old. What
        went wrong with it just now is raised: to try again would take as long again."""
        with self._lock:
            attempt, self._attempt = self._attempt, None
        if attempt is None:
            return None
        try:
            made = attempt.made.result()
        except KeepstreamError:
            if attempt.age_s < _JUST_NOW_S:
                raise
            return None
        if attempt.age_s >= _FRESH_S:
            self._close(made)
            return None
        return made

    def give(self, unneeded: T) -> None:
        """Keep one that is not needed any more for who takes next, unless there is another; else close it."""
        given = _Attempt[T](ended_at=time.monotonic())
        given.made.set_result(unneeded)
        with self._lock:
            kept = self._attempt is None and not self._closed
            if kept:
                self._attempt = given
        if not kept:
            self._close(unneeded)

    def close(self) -> None:
        """Idempotent. One that is still being made is closed when it is there."""
        with self._lock:
            self._closed = True
        self.drop()

    def drop(self) -> None:
        """Close what nobody took; another one can be begun."""
        with self._lock:
            attempt, self._attempt = self._attempt, None
        self._discard(attempt)

    def _run(self, attempt: _Attempt[T]) -> None:
        try:
            made = self._make()
        except KeepstreamError as error:
            attempt.ended_at = time.monotonic()
            attempt.made.set_exception(error)
        else:
            attempt.ended_at = time.monotonic()
            attempt.made.set_result(made)
        finally:
            attempt.made.cancel()  # nothing, unless a bug of ours came through: who waits must not wait on

    def _discard(self, attempt: _Attempt[T] | None) -> None:
        def close(made: Future[T]) -> None:
            if not made.cancelled() and made.exception() is None:
                self._close(made.result())

        if attempt is not None:
            attempt.made.add_done_callback(close)
