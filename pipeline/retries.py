"""After which errors a stage tries again by itself."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline import backoff
from pipeline.supervisor import is_supervised
from schemas.errors import KeepstreamError, LoginRefused, RetryLater

REFUSALS_S = 60.0


class Retries:
    """A stage's tries: with back-off, for ever where a server is away.

    A refused login ends a stage at once, but not under `run`, whose preflight was let in: there it is tried
    for a minute. Then the stage ends, and `run` starts it with configuration and secrets as they are by then.
    """

    def __init__(self) -> None:
        self._backoff = backoff.Backoff()
        self._refused_since: float | None = None

    def outlives(self, error: KeepstreamError) -> bool:
        """Whether another try is worth it."""
        if not isinstance(error, LoginRefused):
            return isinstance(error, RetryLater)
        if not is_supervised():
            return False
        if self._refused_since is None:
            self._refused_since = time.monotonic()
        return time.monotonic() - self._refused_since < REFUSALS_S

    def wait(self, stop: threading.Event) -> bool:
        """Wait for the next try, and say whether `stop` was set meanwhile."""
        gc.collect()  # an error holds its frames, and theirs, in cycles; else it hardly ever runs
        return self._backoff.wait(stop)

    @contextmanager
    def trying(self, progress: Callable[[], object]) -> Iterator[None]:
        """What comes after all servers let it in. It worked if `progress` says something else at its end, or
        if it took longer than the longest pause; else the next pause is longer."""
        self._refused_since = None
        began_at, before = time.monotonic(), progress()
        try:
            yield
        finally:
            if progress() != before or time.monotonic() - began_at > backoff.LONGEST_S:
                self._backoff.reset()
