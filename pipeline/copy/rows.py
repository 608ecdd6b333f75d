"""Moving the rows: workers, each with a pair of sessions, take part after part until none is left."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Final

from connectors.failpoints import failpoint
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.part_copier import CopierSetup, NamesMissing, Part, PartCopier
from connectors.postgres.copy.snapshot import SnapshotLost, TableChanged
from connectors.postgres.replication.walsender import VALUE_TOO_LARGE
from pipeline.copy.progress import CopyMeter
from pipeline.copy.stopping import CopyStopped
from schemas.errors import RefusedData, RetryLater

logger = logging.getLogger("keepstream.copy")

_TRIES: Final = 5
_RETRY_PAUSE_S: Final = 1.0
_REPORT_S: Final = 0.5


class RowCopy:
    """One attempt at all parts. Not reusable. `left`: tables whose rows the replica cannot take before it has
    its indexes, by name."""

    def __init__(
        self, setup: CopierSetup, parts: Sequence[Part], meter: CopyMeter, stop: threading.Event
    ) -> None:
        self._setup = setup
        self._waiting = deque(parts)
        self._half = len(parts) // 2
        self._meter = meter
        self._stop = stop
        self._abandoned = threading.Event()
        self.left: set[TableName] = set()

    def run(self, copiers: Sequence[PartCopier], tick: Callable[[], None]) -> None:
        """Copy all parts with these copiers, which are closed at the end; `tick` is called meanwhile.

        The first failure ends all workers and is raised.
        """
        with ThreadPoolExecutor(len(copiers), thread_name_prefix="copy") as pool:
            working = [pool.submit(self._work, copier) for copier in copiers]
            try:
                while not _all_done(working):
                    tick()
                    self._setup.snapshot.require_alive()
            finally:
                self._abandoned.set()
        _raise_first(working)

    def _work(self, copier: PartCopier) -> None:
        held: PartCopier | None = copier
        try:
            while not self._abandoned.is_set() and (part := self._next()) is not None:
                held = self._copy(part, held)
        finally:
            if held is not None:
                held.close()

    def _next(self) -> Part | None:
        try:
            while (part := self._waiting.popleft()).table.table_name in self.left:
                self._meter.finished(part, 0)
            return part
        except IndexError:
            return None

    def _copy(self, part: Part, copier: PartCopier | None) -> PartCopier | None:
        """Copy a part, with new sessions if the old ones break; returns the copier to go on with."""

        def tick(rows: int, size: int) -> None:
            if self._stop.is_set() or self._abandoned.is_set():
                raise CopyStopped
            self._meter.moved(part, rows, size)

        attempt = 1
        while True:
            try:
                copier = copier or PartCopier(self._setup)
                rows = copier.copy(part, tick)
                break
            except (TableChanged, SnapshotLost, CopyStopped):
                _close(copier)
                raise
            except NamesMissing as error:
                _close(copier)
                copier, rows = None, 0
                self.left.add(error.table.table_name)
                self._meter.failed(part)
                break
            except RefusedData as error:
                _close(copier)
                copier = None
                if error.code != VALUE_TOO_LARGE or part.wide:
                    raise
                logger.info("rows too long for COPY", extra={"table": part.table.qualified_name})
                self._meter.failed(part)
                part = replace(part, wide=True)
            except RetryLater:
                _close(copier)
                copier = None
                self._meter.failed(part)
                self._setup.snapshot.require_alive()
                if attempt == _TRIES or self._abandoned.wait(_RETRY_PAUSE_S * attempt) or self._stop.is_set():
                    raise
                attempt += 1
        self._meter.finished(part, rows)
        if self._meter.parts_done() > self._half:
            failpoint("copy.half_copied")
        return copier


def _close(copier: PartCopier | None) -> None:
    if copier is not None:
        copier.close()


def _all_done(working: Sequence[Future[None]]) -> bool:
    """Whether all have ended, or one has failed; waits for that a while."""
    done, pending = wait(working, timeout=_REPORT_S, return_when=FIRST_EXCEPTION)
    return not pending or any(future.exception() for future in done)


def _raise_first(working: Sequence[Future[None]]) -> None:
    """The failure that ended the others, which only say that they were stopped."""
    errors = [error for future in working if (error := future.exception())]
    errors.sort(key=lambda error: isinstance(error, CopyStopped))
    if errors:
        raise errors[0]


def wait_for(futures: Sequence[Future[None]], tick: Callable[[], None]) -> None:
    """Wait for work of other threads while `tick` is called; raises what they raised."""
    while not _all_done(futures):
        tick()
    for future in futures:
        future.result()
