"""Writes the segment files of one generation: create, write, fsync, look, raise the watermark (P8).

The order of those five is the whole point. `create` makes the file before anything of a predecessor is
read; `prove` looks only after the fsync, and only what it then proved goes below the watermark.
"""

from __future__ import annotations

import os
from pathlib import Path

from connectors.failpoints import failpoint
from connectors.log.chain import SegmentFolder
from connectors.log.disk import disk_error, is_in_place, sync_folder_or_die, sync_or_die
from connectors.log.place import MAX_OFFSET, MAX_SEGMENT, pack_place
from connectors.log.segment import (
    WATERMARK_OFFSET,
    Header,
    SegmentName,
    encode_record_head,
    encode_watermark,
)
from schemas.errors import KeepstreamError, LogFenced

# Without a boundary in sight (one huge transaction) a file still ends well below MAX_OFFSET.
ROLL_BYTES = MAX_OFFSET // 4 * 3


class SegmentWriter:
    """One file, open for appending by the only one who may. Not thread-safe."""

    def __init__(self, folder: SegmentFolder, name: SegmentName) -> None:
        self.name = name
        self.path = folder.segment_path(name)
        self._folder = folder
        self._descriptor = create_exclusively(self.path)
        self._seed = 0
        self._sized = 0

    @property
    def file_bytes(self) -> int:
        """How much was written; not all of it may be proven."""
        return self._sized

    @property
    def place(self) -> int:
        return pack_place(self.name, self._sized)

    def write_header(self, header: Header) -> None:
        self._seed = header.seed
        self._write(header.encode())

    def write(self, records: list[bytes]) -> None:
        """Append records. Raises RetryLater (`log-full`); the file is of no use after that."""
        parts: list[bytes] = []
        for record in records:
            parts += (encode_record_head(record, self._seed), record)
        self._write(b"".join(parts))
        failpoint("log.written")

    def prove(self) -> None:
        """Make all that was written durable and ours, or raise LogFenced (P8)."""
        sync_or_die(self._descriptor, self.path)
        failpoint("log.synced")
        self.look()
        failpoint("log.looked")
        self._write_at(encode_watermark(self._sized), WATERMARK_OFFSET)

    def look(self) -> None:
        """Raise LogFenced if a higher generation exists, or if this file is not the log's any more."""
        highest = self._folder.highest_generation()
        if highest > self.name.generation:
            raise fenced(f"writer {highest} has taken over from writer {self.name.generation}", "log-fenced")
        if not is_in_place(self._descriptor, self.path):
            raise fenced(f"{self.path} was deleted while it was being written", "log-fenced")

    def abandon(self) -> None:
        """Take back a file that has no header yet, so that it does not keep readers waiting."""
        if is_in_place(self._descriptor, self.path):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        self._write_at(data, self._sized)
        self._sized += len(data)

    def _write_at(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise disk_error(error, self.path) from error


def next_segment(writer: SegmentWriter, folder: SegmentFolder, first: Header) -> SegmentWriter:
    """Go on in a new file; all of `writer` must be proven. Raises LogFenced, RetryLater."""
    if writer.name.segment == MAX_SEGMENT:
        raise fenced(f"writer {writer.name.generation} has written as many files as one can", "epoch-full")
    name = SegmentName(writer.name.generation, writer.name.segment + 1)
    following = SegmentWriter(folder, name)
    try:
        failpoint("log.segment_created")
        following.write_header(Header(first.log_id, name, first.epoch, writer.name, writer.file_bytes))
        sync_folder_or_die(folder.path)
    except KeepstreamError:
        following.close()
        raise
    writer.close()
    return following


def create_exclusively(path: Path) -> int:
    """A new file, open for writing. Raises LogFenced (`epoch-taken`) if it exists."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise fenced(f"{path} exists already", "epoch-taken") from error
    except OSError as error:
        raise disk_error(error, path) from error


def fenced(message: str, code: str) -> LogFenced:
    return LogFenced(message, code=code, hint="Nothing to do: capture begins a new epoch by itself.")
