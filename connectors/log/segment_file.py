"""One segment file, open: its watermark, its records, its fsync."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from connectors.log.disk import disk_error, is_in_place
from connectors.log.segment import (
    HEADER_BYTES,
    RECORD_HEAD_BYTES,
    WATERMARK_BYTES,
    WATERMARK_OFFSET,
    Header,
    decode_records,
    decode_watermark,
    record_bytes,
)
from schemas.errors import BEGIN_ANEW, HistoryBroken

CHUNK_BYTES = 2 * 1024 * 1024
_WATERMARK_TRIES = 3


class SegmentFile:
    """A segment file whose header is complete, open for reading. Not thread-safe."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header
        self._seed = header.seed
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> SegmentFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def watermark(self) -> int:
        """How many bytes the writer has proven; HEADER_BYTES while it has proven none."""
        return read_watermark(self._descriptor) or HEADER_BYTES

    def file_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def is_in_place(self) -> bool:
        """Whether it is still a file of the log at its path."""
        return is_in_place(self._descriptor, self.path)

    def read(self, offset: int, end: int) -> list[bytes]:
        """Whole records from `offset` on, about CHUNK_BYTES of them, none past `end`; [] if none is sound.

        Raises HistoryBroken (`log-corrupt`) if the file is shorter than `offset`, up to which it was proven.
        """
        if end < offset:
            raise corrupt(self.path, end)
        try:
            data = os.pread(self._descriptor, min(CHUNK_BYTES, end - offset), offset)
            needed = record_bytes(data)
            if len(data) < needed <= end - offset:
                data = os.pread(self._descriptor, needed, offset)
        except OSError as error:
            raise disk_error(error, self.path) from error
        return decode_records(data, self._seed)

    def read_valid(self, offset: int, end: int) -> list[bytes]:
        """The same below a proven end, where every record is sound. Raises HistoryBroken (`log-corrupt`)."""
        records = self.read(offset, end)
        if not records:
            raise corrupt(self.path, offset)
        return records

    def sound_end(self, offset: int) -> int:
        """Where the sound records from `offset` on end. What follows is torn, or still being written."""
        while records := self.read(offset, self.file_bytes()):
            offset += encoded_bytes(records)
        return offset

    def sync(self) -> None:
        """fsync what any process wrote to the file. A reader may fail and try again: it wrote nothing."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def forget_cache(self) -> None:
        """Read from the disk from now on. After a failed fsync the cache can hold what the disk does not."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def encoded_bytes(records: list[bytes]) -> int:
    """How many bytes these records take in a file."""
    return sum(map(len, records)) + RECORD_HEAD_BYTES * len(records)


def read_watermark(descriptor: int) -> int | None:
    """None: none yet. Read again when its CRC is wrong: the writer was just overwriting it."""
    for _ in range(_WATERMARK_TRIES):
        mark = decode_watermark(os.pread(descriptor, WATERMARK_BYTES, WATERMARK_OFFSET))
        if mark is not None:
            return mark
    return None


def corrupt(path: Path, offset: int) -> HistoryBroken:
    """A record that was durable cannot be read any more."""
    return HistoryBroken(
        f"the change log is damaged in {path} at byte {offset}",
        code="log-corrupt",
        hint="Restore that file from a copy. Without one, the records from there on are lost: stop,"
        f" {BEGIN_ANEW}.",
    )
