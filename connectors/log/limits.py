"""How large one record may be, the same in both homes of the log."""

from __future__ import annotations

from schemas.errors import InternalError

# 8 MiB is the most that common managed Kafka services let a topic take; the rest is for the batch
# around the record and for data that compression makes larger.
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_RECORD_BYTES = MAX_MESSAGE_BYTES - 64 * 1024


def refuse_oversized(record: bytes) -> None:
    """Raise InternalError (`record-too-large`): frames are cut far below this limit (P3)."""
    if not 0 < len(record) <= MAX_RECORD_BYTES:
        raise InternalError(
            f"a log record has {len(record)} bytes, allowed are 1 to {MAX_RECORD_BYTES}",
            code="record-too-large",
            hint="This is a bug in Keepstream: frames must be cut below the limit. Please report it.",
        )
