"""What capture does between transactions: heartbeats, the publication's identity, new tables (P9, P11)."""

from __future__ import annotations

import time

from connectors.postgres.replication.stream import Batch
from pipeline.capture.joins.joins import Joins
from pipeline.capture.opened import OpenCapture
from pipeline.capture.versions.added import AddedColumns
from pipeline.capture.writing.packer import FramePacker
from schemas.lsn import Position
from schemas.table import TableSchema

HEARTBEAT_EVERY_S = 5.0
LOOK_EVERY_S = 10.0
AGAIN_AFTER_S = 0.5
"""Where more tables may join."""


class Housekeeping:
    """A look at the tables comes every ten seconds; the publication is compared before it, and before each
    heartbeat. Within a transaction only what an application's writes cannot wait for is done."""

    def __init__(
        self,
        capture: OpenCapture,
        joins: Joins,
        added: AddedColumns,
    ) -> None:
        self._capture = capture
        self._joins = joins
        self._added = added
        self._heartbeat_at = time.monotonic()
        self._looked_at = time.monotonic()
        self._helped_at = self._looked_at

    def is_look_due(self, now: float) -> bool:
        """Whether the next call looks for tables, for which the packer should hold no transactions. `now`:
        by `time.monotonic()`."""
        has_news = self._joins.has_news or self._capture.tracking.looks_soon
        pause_s = min(AGAIN_AFTER_S, LOOK_EVERY_S) if has_news else LOOK_EVERY_S
        return now - self._looked_at >= pause_s

    def between_transactions(self, batch: Batch, packer: FramePacker) -> tuple[TableSchema, ...]:
        """Call it when no transaction is open. Returns the versions of tables that joined."""
        now = time.monotonic()
        if self.is_look_due(now):
            self._capture.tracking.check_publication()
            if not self._capture.tracking.is_tracked:
                self._added.look(self._capture.sql, packer.live_tables, self._capture.chain.publication)
            joined = self._joins.look(packer)
            self._looked_at = time.monotonic()  # it may have taken long: the stream comes before the next
            return joined
        self._heartbeat(batch, packer, now)
        return ()

    def within_transaction(self) -> None:
        """Call it while one is open: it may be large."""
        now = time.monotonic()
        if self.is_look_due(now) and now - self._helped_at >= LOOK_EVERY_S:
            self._joins.help_writers()
            self._helped_at = time.monotonic()

    def _heartbeat(self, batch: Batch, packer: FramePacker, now: float) -> None:
        if packer.holds_transactions or batch.bytes:
            return
        due = now - self._heartbeat_at >= HEARTBEAT_EVERY_S or batch.reply_requested
        if due and batch.wal_end > self._capture.chain.position.lsn and self._capture.chain.all_durable:
            self._heartbeat_at = now
            self._capture.tracking.check_publication()
            if self._capture.tracking.waits:
                return
            at = self._capture.chain.position
            self._capture.chain.heartbeat(Position(batch.wal_end, at.xid, at.commit_time))
