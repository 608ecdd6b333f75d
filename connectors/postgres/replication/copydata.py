"""XLogData messages out of libpq, as many as there are; in C where there is such (docs/decisions/007)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from connectors.postgres.replication.walsender import XLOG_DATA, XLOG_DATA_HEADER_BYTES
from schemas.compiled import find_compiled

MESSAGE_OVERHEAD_BYTES: Final = 80
"""What a bytes object and its list slot cost beside its content."""

GetCopyData = Callable[[int], tuple[int, memoryview]]

take_in_c: Callable[..., tuple[int, memoryview | None, int, bytes]] | None = find_compiled(
    "connectors.postgres.replication._copydata", "take_messages"
)


class Taken(NamedTuple):
    """`length` and `data`: what PQgetCopyData said last; `data` is None where that was taken, too, because
    there is no more room. `size_bytes`: what was taken costs. `header`: of the newest message, empty if there
    is none."""

    length: int
    data: memoryview | None
    size_bytes: int
    header: bytes


def take_messages(get_copy_data: GetCopyData, messages: list[bytes], room_bytes: int) -> Taken:
    """Append what XLogData messages hold, until something else comes, or none, or they cost `room_bytes`."""
    if take_in_c is not None:
        return Taken(*take_in_c(get_copy_data, messages, room_bytes, MESSAGE_OVERHEAD_BYTES))
    return take_in_python(get_copy_data, messages, room_bytes)


def take_in_python(get_copy_data: GetCopyData, messages: list[bytes], room_bytes: int) -> Taken:
    """The same in Python."""
    size, header = 0, b""
    while True:
        length, data = get_copy_data(1)
        if length < XLOG_DATA_HEADER_BYTES or data[0] != XLOG_DATA:
            return Taken(length, data, size, header)
        header = bytes(data[:XLOG_DATA_HEADER_BYTES])
        messages.append(bytes(data[XLOG_DATA_HEADER_BYTES:]))
        size += length + MESSAGE_OVERHEAD_BYTES
        if size >= room_bytes:
            return Taken(length, None, size, header)
