"""After which errors a stage tries again by itself."""

from __future__ import annotations

import gc
import threading
import time

from pipeline.backoff import Backoff
from pipeline.supervisor import is_supervised
from schemas.errors import KeepstreamError, LoginRefused, RetryLater

REFUSALS_S = 60.0


class Retries:
    """A stage's tries: with back-off, for ever where a server is away.

    A refused login ends a stage at once, but not under `run`, whose preflight was let in: there it is tried
    for a minute. Then the stage ends, and `run` starts it with configuration and secrets as they are by then.
    """

    def __init__(self) -> None:
        self._backoff = Backoff()
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

    def reset(self) -> None:
        """A try worked."""
        self._backoff.reset()
        self._refused_since = None
