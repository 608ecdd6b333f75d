"""One attempt to begin: the source and the end of the log decide how."""

from __future__ import annotations

import threading

from connectors.postgres.failover.primary import require_failover_slots, require_primary
from connectors.postgres.session import connect, wrapped
from pipeline import purposes
from pipeline.capture.history.timelines import Lineage
from pipeline.capture.opened import OpenCapture
from pipeline.capture.options import CaptureOptions
from pipeline.capture.startup.attempt import Attempt
from pipeline.capture.startup.beginning import Beginning
from pipeline.capture.startup.continuing import Continuing
from pipeline.capture.waits import Waits
from schemas.entries import Entries

_LOCK_WAIT_MS = 5000
"""For no look at the catalog does capture wait longer; it begins again, and says so."""


class Startup:
    """Everything that it opened is closed again if it fails. `binary`: see `SlotStream`."""

    def __init__(
        self, options: CaptureOptions, stop: threading.Event, waits: Waits, *, binary: bool = False
    ) -> None:
        self._options = options
        self._attempt = Attempt(options, stop, waits, binary=binary)

    @property
    def lineage(self) -> Lineage | None:
        """Which source the log follows, once that was read; also of an attempt that failed."""
        return self._attempt.lineage

    @property
    def entries(self) -> Entries | None:
        """The same of what its newest ANCHOR says."""
        return self._attempt.entries

    def open(self) -> OpenCapture | None:
        """None: `stop` was set while waiting. Raises HistoryBroken, OperatorNeeded, RefusedData, RetryLater,
        LogFenced; InternalError (`anchor-malformed`, `ddl-malformed`)."""
        try:
            return self._open()
        except BaseException:
            self._attempt.close_all()
            raise
        finally:
            self._attempt.walsenders.close()

    def _open(self) -> OpenCapture | None:
        options, attempt = self._options, self._attempt
        options.log.expect_reader()
        attempt.walsenders.begin()
        sql = connect(options.source, purpose=purposes.capture(options.name))
        attempt.keep(sql.close)
        require_primary(sql)
        if options.failover:
            require_failover_slots(sql.info.server_version)
        with wrapped("preparing capture's session"):
            sql.execute(f"set lock_timeout = {_LOCK_WAIT_MS}")
        if not options.log.exists():
            options.log.create()
        options.log.expect_epoch()
        tail = attempt.find_tail()
        if tail.chain.promised:
            return Continuing(attempt, sql).open(tail)
        return Beginning(attempt, sql).open(tail)
