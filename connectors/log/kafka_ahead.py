"""Clients that are made before they are needed: to connect one and have it learn of its topic takes 40 ms,
nearly all of them waiting, which a stage spends on its database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import KeepstreamError

_FRESH_S = 10.0
"""A younger client has lost no connection because of idleness."""
_JUST_NOW_S = 1.0
_Client = Any
"""kafka-python has no type hints."""


@dataclass(eq=False, slots=True)
class _Attempt:
    client: Future[_Client] = field(default_factory=Future)
    ended_at: float = 0.0

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.ended_at if self.client.done() else 0.0


class Ahead:
    """At most one client, made in a thread of its own or given back. Thread-safe; only `take` waits."""

    def __init__(self, make: Callable[[], _Client], close: Callable[[_Client], None]) -> None:
        """make: may raise KeepstreamError. close: called for what nobody takes."""
        self._make = make
        self._close = close
        self._attempt: _Attempt | None = None
        self._closed = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Make one, unless one is there or on its way."""
        with self._lock:
            last = self._attempt
            if self._closed or (last is not None and last.age_s < _FRESH_S):
                return
            self._attempt = attempt = _Attempt()
        self._discard(last)
        threading.Thread(target=self._run, args=[attempt], name="log-ahead", daemon=True).start()

    def take(self) -> _Client | None:
        """The client, for which this may have to wait; None where none was begun, or it is too old. What
        went wrong with it just now is raised: to try again would take as long again."""
        with self._lock:
            attempt, self._attempt = self._attempt, None
        if attempt is None:
            return None
        try:
            client = attempt.client.result()
        except KeepstreamError:
            if attempt.age_s < _JUST_NOW_S:
                raise
            return None
        if attempt.age_s >= _FRESH_S:
            self._close(client)
            return None
        return client

    def give(self, client: _Client) -> None:
        """Keep one that is not needed any more for who takes next, unless there is another; else close it."""
        given = _Attempt(ended_at=time.monotonic())
        given.client.set_result(client)
        with self._lock:
            kept = self._attempt is None and not self._closed
            if kept:
                self._attempt = given
        if not kept:
            self._close(client)

    def close(self) -> None:
        """Idempotent. One that is still being made is closed when it is there."""
        with self._lock:
            self._closed = True
            attempt, self._attempt = self._attempt, None
        self._discard(attempt)

    def _run(self, attempt: _Attempt) -> None:
        try:
            client = self._make()
        except KeepstreamError as error:
            attempt.ended_at = time.monotonic()
            attempt.client.set_exception(error)
        else:
            attempt.ended_at = time.monotonic()
            attempt.client.set_result(client)
        finally:
            attempt.client.cancel()  # nothing, unless a bug of ours came through: who waits must not wait on

    def _discard(self, attempt: _Attempt | None) -> None:
        def close(made: Future[_Client]) -> None:
            if not made.cancelled() and made.exception() is None:
                self._close(made.result())

        if attempt is not None:
            attempt.client.add_done_callback(close)
