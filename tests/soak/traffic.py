"""The workload as a thread of its own, which survives the source's crashes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import psycopg

from tests.scenario.workload import Workload

_DOWN_S = 0.1
_PATIENCE_S = 60.0


class Traffic:
    """Steps of a workload, `pace_s` apart, until `close`."""

    def __init__(self, workload: Workload, *, pace_s: float) -> None:
        self._workload = workload
        self._pace_s = pace_s
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is open on the source, and nothing is committed."""
        with self._lock:
            self._surely_finish()
            yield

    @contextlib.contextmanager
    def slowed(self, pace_s: float) -> Iterator[None]:
        """Steps are further apart: for what a TRUNCATE every second would begin anew for ever."""
        usual, self._pace_s = self._pace_s, pace_s
        try:
            yield
        finally:
            self._pace_s = usual

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(psycopg.Error):
            self._workload.close()

    def _run(self) -> None:
        while not self._ended.wait(self._pace_s):
            with self._lock:
                try:
                    self._workload.step()
                except psycopg.Error:
                    self._reconnect()

    def _reconnect(self) -> bool:
        try:
            self._workload.reconnect()
        except psycopg.Error:
            time.sleep(_DOWN_S)
            return False
        return True

    def _surely_finish(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                self._workload.finish()
            except psycopg.Error:
                self._reconnect()
            else:
                return
        raise TimeoutError("the source does not answer")
