"""Reads the directory log: along the chain of segment files, and waits at its end.

States: no file open (the log is empty, or the reader has not begun) → a file open, its limit unknown
(it is the newest) → its limit known (a later header named it) → at the limit, the next file is opened.

What is below a file's watermark or limit is returned at once. What a writer left above the watermark
(it was killed before it could raise it) is proven by the reader itself: read, fsync, and *then* a look
that still finds no higher generation (P8), so that a reader never gets ahead of what survives a power cut.
"""

from __future__ import annotations

import time

from connectors.interfaces import Record
from connectors.log.chain import Chain, Link, SegmentFolder
from connectors.log.place import pack_place, unpack_place
from connectors.log.segment import HEADER_BYTES, RECORD_HEAD_BYTES, SegmentName
from connectors.log.segment_file import SegmentFile
from connectors.log.watch import FolderWatch
from schemas.errors import BEGIN_ANEW, HistoryBroken, PlaceTrimmed

# A living writer raises the watermark within this time; it is dead or slow otherwise.
_WRITER_GRACE_S = 0.05


class DirectoryReader:
    """A `LogReader` of one folder."""

    def __init__(self, folder: SegmentFolder, place: int | None) -> None:
        self._folder = folder
        self._start = place
        self._watch = FolderWatch(folder.path)
        self._log_id = b""
        self._chain = Chain((), 0, settled=False)
        self._file: SegmentFile | None = None
        self._offset = 0
        self._limit: int | None = None
        self._waiting_since = 0.0

    def read(self, timeout_s: float) -> list[Record]:
        """See `LogReader.read`."""
        deadline = time.monotonic() + timeout_s
        while True:
            records = self._next_records()
            if records:
                self._watch.found()
                return records
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return []
            self._watch.wait(left_s)

    def close(self) -> None:
        self._watch.close()
        self._close_file()

    def _next_records(self) -> list[Record]:
        while self._file is not None or self._begin():
            assert self._file is not None
            records = self._file_records(self._file)
            if records or not self._advance(self._file):
                return records
        return []

    def _file_records(self, file: SegmentFile) -> list[Record]:
        end = file.watermark() if self._limit is None else self._limit
        if self._offset < end:
            values = file.read_valid(self._offset, end)
        elif self._limit is None:
            values = self._proven_tail(file)
        else:
            values = []
        return self._accept(values, file.header.name)

    def _accept(self, values: list[bytes], name: SegmentName) -> list[Record]:
        records = []
        for value in values:
            following = self._offset + RECORD_HEAD_BYTES + len(value)
            records.append(Record(pack_place(name, self._offset), pack_place(name, following), value))
            self._offset = following
        if values:
            self._waiting_since = time.monotonic()
        return records

    def _proven_tail(self, file: SegmentFile) -> list[bytes]:
        """Records above the watermark, if nothing can make them invalid any more (P8)."""
        if not self._chain.settled or time.monotonic() - self._waiting_since < _WRITER_GRACE_S:
            return []
        values = file.read(self._offset, file.file_bytes())
        if not values:
            return []
        file.sync()
        self._folder.sync()
        unchanged = self._folder.highest_generation() == self._chain.top and file.is_in_place()
        return values if unchanged else []

    def _begin(self) -> bool:
        """Open the file that the starting place names. False: nothing is there yet."""
        chain = self._resolve()
        if not chain.links:
            return False
        name, offset = unpack_place(self._start or 0)
        if self._start is None or (self._start == 0 and chain.links[0].header.predecessor is None):
            return self._open(chain.links[0], HEADER_BYTES)
        index = chain.index(name)
        if index is not None:
            return self._open_at(chain.links[index], offset)
        return self._begin_elsewhere(chain, name, offset)

    def _begin_elsewhere(self, chain: Chain, name: SegmentName, offset: int) -> bool:
        first = chain.links[0].header
        if (first.predecessor, first.predecessor_bytes) == (name, offset):
            return self._open(chain.links[0], HEADER_BYTES)  # all before it was read, then trimmed
        if name < first.name:
            raise self._trimmed(name)
        if name > chain.links[-1].header.name and not chain.settled:
            return False
        raise self._recreated(f"{name.file_name} is not part of it")

    def _open_at(self, link: Link, offset: int) -> bool:
        if not self._open(link, offset):
            return False
        assert self._file is not None
        end = self._file.file_bytes() if link.limit is None else link.limit
        if not HEADER_BYTES <= offset <= end:
            raise self._recreated(f"{link.header.name.file_name} ends at byte {end}, the place is {offset}")
        proven = self._file.watermark() if link.limit is None else link.limit
        if offset < proven and not self._file.read(offset, proven):
            raise self._recreated(f"no record begins at byte {offset} of {link.header.name.file_name}")
        return True

    def _advance(self, file: SegmentFile) -> bool:
        """Learn the open file's limit, or go on to the next file. False: wait."""
        chain = self._resolve()
        if not chain.links:
            if chain.top and file.is_in_place():
                return False  # nothing is proven yet, and an unfinished file hides this one
            raise self._recreated("it is empty now")
        index = chain.index(file.header.name)
        if index is None:
            return self._advance_from_outside(chain, file)
        if self._limit is None:
            self._limit = chain.links[index].limit
            return self._limit is not None and self._check_limit(file)
        if index + 1 == len(chain.links):
            return False  # an unfinished file hides the file that named the limit
        return self._open(chain.links[index + 1], HEADER_BYTES)

    def _advance_from_outside(self, chain: Chain, file: SegmentFile) -> bool:
        """The open file is not in the chain: trimmed behind us, or an unfinished file hides it."""
        first, name = chain.links[0].header, file.header.name
        if first.predecessor == name and first.predecessor_bytes >= self._offset:
            if self._limit is None:
                self._limit = first.predecessor_bytes
                return True
            return self._open(chain.links[0], HEADER_BYTES)
        if name < first.name:
            raise self._trimmed(name)
        if not chain.settled and file.is_in_place():
            return False
        raise self._recreated(f"{name.file_name} is not part of it any more")

    def _check_limit(self, file: SegmentFile) -> bool:
        assert self._limit is not None
        if self._offset > self._limit:
            raise self._recreated(
                f"{file.path.name} is valid up to byte {self._limit}, read to {self._offset}"
            )
        return True

    def _resolve(self) -> Chain:
        self._chain = chain = self._folder.resolve()
        if chain.links:
            log_id = chain.links[-1].header.log_id
            if self._log_id and log_id != self._log_id:
                raise self._recreated("it has another identity")
            self._log_id = log_id
        return chain

    def _open(self, link: Link, offset: int) -> bool:
        """False: it was trimmed since the chain was read; the next look says so."""
        file = self._folder.open(link.header)
        if file is None:
            return False
        self._close_file()
        self._file = file
        self._offset, self._limit, self._waiting_since = offset, link.limit, 0.0
        return True

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _trimmed(self, name: SegmentName) -> PlaceTrimmed:
        return PlaceTrimmed(
            f"{name.file_name} was trimmed from the change log {self._folder.path}",
            code="log-trimmed",
            hint="This replica must be copied anew: drop and create its database, then `keepstream run`.",
        )

    def _recreated(self, seen: str) -> HistoryBroken:
        return HistoryBroken(
            f"the change log {self._folder.path} is not the one that was read before: {seen}",
            code="log-recreated",
            hint=f"Bring the former log back; if it is gone, {BEGIN_ANEW}.",
        )
