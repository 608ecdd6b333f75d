"""What a capture works with once it owns slot and epoch, until something fails."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.interfaces import LogWriter
from connectors.postgres.replication.stream import SlotStream
from connectors.postgres.session import Session
from pipeline.capture.ddl.tracking import Tracking
from pipeline.capture.history.resent import Resent
from pipeline.capture.writing.chainwriter import ChainWriter
from pipeline.selection import Selection
from schemas.table import TableSchema


@dataclass(slots=True)
class OpenCapture:
    """A capture that owns slot and epoch: everything the pump needs. `close` gives all back."""

    sql: Session
    stream: SlotStream
    writer: LogWriter
    chain: ChainWriter
    resent: Resent
    live_tables: tuple[TableSchema, ...]
    selection: Selection
    tracking: Tracking

    def close(self) -> None:
        self.stream.close()
        self.writer.close()
        self.sql.close()
