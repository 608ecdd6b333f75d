"""Which segment files of a folder make up the log, and how far each is valid (P8).

Any process may be frozen at any point and wake up later, so nothing but what the files say counts:

- A writer creates the first file of its generation, *then* reads which older file has a complete header
  and how far it is valid, then writes its own header. The chain runs backwards from the newest file
  with a complete header; a file that no header names is an orphan, whatever it holds.
- A header found complete *before* a look that finds no higher generation is settled: whoever creates
  a higher one later will see it and continue behind it.
- If the highest generation is unfinished, its creator may have looked before others completed their
  headers. Then only files with a watermark are settled: their writers themselves looked after their
  header was durable. And in the newest of them only what lies below its watermark.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from connectors.log.disk import disk_error, is_there, sync_folder
from connectors.log.segment import HEADER_BYTES, Header, SegmentName, decode_header
from connectors.log.segment_file import SegmentFile, corrupt, read_watermark
from schemas.errors import HistoryBroken


@dataclass(frozen=True, slots=True)
class Link:
    """One file of the chain. `limit`: how many of its bytes are valid; None: it is the newest."""

    header: Header
    limit: int | None


@dataclass(frozen=True, slots=True)
class Chain:
    """The files of the log, oldest first.

    `top` is the highest generation of any file. `settled`: the newest link belongs
    to it, so that a look which still finds no higher one proves what was read from it before.
    """

    links: tuple[Link, ...]
    top: int
    settled: bool

    def index(self, name: SegmentName) -> int | None:
        """Where the file stands in the chain; None if it is no part of it."""
        for index in range(len(self.links) - 1, -1, -1):
            if self.links[index].header.name == name:
                return index
        return None


class SegmentFolder:
    """The folder of a log: its listing, its headers. Headers never change, so they are read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._headers: dict[SegmentName, Header] = {}
        self._log_id = b""

    def names(self) -> list[SegmentName]:
        """All segment files, orphans and unfinished ones too, oldest first. Raises `log-missing`."""
        try:
            listing = os.listdir(self.path)  # noqa: PTH208 - this is the look of P8, done at each fsync
        except OSError as error:
            raise disk_error(error, self.path) from error
        return sorted(name for entry in listing if (name := SegmentName.parse(entry)))

    def highest_generation(self) -> int:
        names = self.names()
        return names[-1].generation if names else 0

    def segment_path(self, name: SegmentName) -> Path:
        return self.path / name.file_name

    def open(self, header: Header) -> SegmentFile | None:
        """None: it was trimmed since its header was read."""
        path = self.segment_path(header.name)
        try:
            return SegmentFile(path, header)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_error(error, path) from error

    def sync(self) -> None:
        """Make the names durable that a reader has seen; it wrote none of them and may try again."""
        try:
            sync_folder(self.path)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def resolve(self) -> Chain:
        """The chain as it stands. Raises HistoryBroken (`log-missing`, `log-corrupt`)."""
        while True:
            names = self.names()
            newest = self._newest(names)
            top = names[-1].generation if names else 0
            if self.highest_generation() == top:  # the look after the header was read
                links = self._walk_back(newest, names) if newest else ()
                return Chain(links, top, settled=newest is not None and newest.name.generation == top)

    def newest_below(self, generation: int) -> Header | None:
        """What a new writer continues behind: the newest file of a lower one with a complete header."""
        for name in reversed(self.names()):
            if name.generation < generation and (header := self._read_header(name)[0]):
                return header
        return None

    def newest_proven(self) -> Header | None:
        """The newest file with records that nothing can make invalid any more."""
        for name in reversed(self.names()):
            header, mark = self._read_header(name)
            if header and mark:
                return header
        return None

    def _newest(self, names: list[SegmentName]) -> Header | None:
        for name in reversed(names):
            header, mark = self._read_header(name)
            if header and (mark or name.generation == names[-1].generation):
                if header.log_id != self._log_id:
                    self._headers.clear()  # made anew under the same name
                    self._log_id = header.log_id
                return header
        return None

    def _walk_back(self, newest: Header, names: list[SegmentName]) -> tuple[Link, ...]:
        present = set(names)
        links = [Link(newest, None)]
        while (name := links[-1].header.predecessor) and name in present:
            header = self._header(name)
            if header is None:
                break
            links.append(Link(header, links[-1].header.predecessor_bytes))
        if name:
            self._refuse_gap(name, names)
        return tuple(reversed(links))

    def _header(self, name: SegmentName) -> Header | None:
        """The header of a file that another names, so complete; None if it has just been deleted."""
        header = self._headers.get(name)
        if header is None:
            header = self._read_header(name)[0]
            if header:
                self._headers[name] = header
            elif is_there(self.segment_path(name)):
                raise corrupt(self.segment_path(name), 0)
        return header

    def _read_header(self, name: SegmentName) -> tuple[Header | None, int | None]:
        """A file's header and watermark; (None, None) if it is unfinished or has just been deleted."""
        path = self.segment_path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None, None
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            mark = read_watermark(descriptor)  # first: a living writer raises it after it wrote the header
            header = decode_header(os.pread(descriptor, HEADER_BYTES, 0), name)
        except OSError as error:
            raise disk_error(error, path) from error
        finally:
            os.close(descriptor)
        if mark and not header:
            raise corrupt(path, 0)  # what is proven had a header
        return header, mark

    def _refuse_gap(self, missing: SegmentName, names: list[SegmentName]) -> None:
        """Trimming deletes the oldest first: a proven file older than a missing one means a loss."""
        for name in names:
            if name < missing and self._read_header(name)[1]:
                raise HistoryBroken(
                    f"{self.segment_path(missing)} is missing in the middle of the change log",
                    code="log-corrupt",
                    hint=f"Bring that file back, or delete the older ones by hand if it was trimmed:"
                    f" `ls {self.path}`.",
                )
