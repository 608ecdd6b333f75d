"""What a copy says while it runs, and what it looks at meanwhile: the wish to stop, its right to the
replica, what it waits for, and what it costs the source."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from connectors.postgres.copy.run import CopyRun, require_ours
from connectors.postgres.copy.snapshot import Blocker, ExportedSnapshot, lock_blockers, xmin_age
from connectors.postgres.copy.snapshot_tables import Observer
from connectors.postgres.session import Session
from pipeline.copy.progress import CopyMeter, CopyPhase, CopyProgress
from pipeline.copy.rows import wait_for
from pipeline.copy.stopping import CopyStopped
from schemas.errors import RetryLater
from schemas.lsn import format_lsn

_TELL_EVERY_S: Final = 0.5


class CopyWatch:
    """Belongs to the copy's own thread, as does its session on the replica."""

    def __init__(
        self,
        meter: CopyMeter,
        *,
        application: str,
        replica: Session,
        observer: Observer,
        on_progress: Callable[[CopyProgress], None],
        stop: threading.Event,
    ) -> None:
        self.meter = meter
        self._application = application
        self._replica = replica
        self._observer = observer
        self._on_progress = on_progress
        self._stop = stop
        self._told_at = 0.0
        self._run: CopyRun | None = None
        self._snapshot: ExportedSnapshot | None = None

    def guard(self, run: CopyRun) -> None:
        """From now on, `tick` proves that the replica is still ours."""
        self._run = run

    def hold(self, snapshot: ExportedSnapshot | None) -> None:
        """The snapshot whose cost is told from now on; None: it is let go."""
        self._snapshot = snapshot
        self.meter.source_xmin_age = self.meter.snapshot_taken_at = None
        self.meter.blockers = ()
        if snapshot is not None:
            self.meter.snapshot_lsn = format_lsn(snapshot.lsn)
            self.meter.snapshot_taken_at = snapshot.taken_at

    def enter(self, phase: CopyPhase) -> None:
        """Tell of a new phase at once."""
        self.meter.phase = phase
        self._told_at = 0.0
        self.tick()

    def tick(self) -> None:
        """Tell how far we are, at most twice a second.

        Raises CopyStopped (`copy-stopped`), OperatorNeeded (`copy-replaced`), RetryLater.
        """
        if self._due():
            with contextlib.suppress(RetryLater):  # only a figure: unknown until the source answers again
                self.meter.blockers = tuple(lock_blockers(self._observer.session, self._application))
            self._tell()

    def tick_waiting(self, blockers: list[Blocker]) -> None:
        """The same while the snapshot waits for open transactions."""
        self.meter.blockers = tuple(blockers)
        if self._due():
            self._tell()

    def done(self) -> None:
        """Tell the end, whatever else is wished."""
        self.meter.phase = CopyPhase.DONE
        self._on_progress(self.meter.progress(time.monotonic()))

    def aside(self, work: Callable[[], None]) -> None:
        """Do something slow in another thread while this one goes on telling."""
        with ThreadPoolExecutor(1, thread_name_prefix="copy-aside") as pool:
            wait_for([pool.submit(work)], self.tick)

    def _due(self) -> bool:
        if self._stop.is_set():
            raise CopyStopped
        return time.monotonic() - self._told_at >= _TELL_EVERY_S

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        if self._run is not None:
            require_ours(self._replica, self._run)
        if self._snapshot is not None:
            self.meter.source_xmin_age = None
            with contextlib.suppress(RetryLater):
                self.meter.source_xmin_age = xmin_age(self._observer.session, self._snapshot)
        self._on_progress(self.meter.progress(self._told_at))
