"""What capture needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from connectors.interfaces import ChangeLog
from pipeline.capture.trimming import TrimOptions
from pipeline.config.model import Keyless, Tables


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """`source`: any libpq connection string. `take_over`: end another capture that owns the slot.
    `trim`: how the log is trimmed; None: it is not."""

    name: str
    source: str
    log: ChangeLog
    publication: str
    slot: str
    tables: Tables
    keyless: Keyless
    pg_bin: Path | None = None
    take_over: bool = False
    trim: TrimOptions | None = None
