"""The change log in a folder of one machine: `<root>/<name>.log/`.

    0000001-00000.segment …   the chain of segment files (`segment`, `chain`)
    status/<stage>.json       the newest report of each stage

Readers and the writer may be different processes and start in any order; no lock is taken or trusted.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from connectors.failpoints import failpoint
from connectors.interfaces import Bounds
from connectors.log.chain import Chain, SegmentFolder
from connectors.log.directory_findings import inspect_folder
from connectors.log.directory_reader import DirectoryReader
from connectors.log.directory_writer import DirectoryWriter
from connectors.log.disk import (
    FULL,
    LOG_SUFFIX,
    disk_error,
    is_empty,
    is_folder,
    sync_folder_or_die,
    sync_or_die,
)
from connectors.log.limits import refuse_oversized
from connectors.log.place import MAX_GENERATION, pack_place, unpack_place
from connectors.log.segment import HEADER_BYTES, Header, SegmentName
from connectors.log.segment_file import corrupt
from connectors.log.segment_writer import SegmentWriter, fenced
from schemas.errors import BEGIN_ANEW, InternalError, KeepstreamError, OperatorNeeded
from schemas.finding import Finding

_STAGE = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_LOG_ID_BYTES = 16
_STAT_BLOCK_BYTES = 512


class DirectoryLog:
    """A `ChangeLog` in a folder."""

    def __init__(self, root: Path, name: str) -> None:
        self._path = root / f"{name}{LOG_SUFFIX}"
        self._folder = SegmentFolder(self._path)

    @property
    def name(self) -> str:
        return self._path.as_uri()

    def exists(self) -> bool:
        """See `ChangeLog.exists`. An empty folder is none: `destroy` may leave one, and whoever made it
        beforehand, as `check` advises, made no log."""
        return is_folder(self._path) and not is_empty(self._path)

    def create(self) -> None:
        """See `ChangeLog.create`. The folder is for nobody but the user who runs this."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self._path) from error
        self._make_status()
        if os.access(self._path.parent, os.R_OK):  # else the folder was made by another, who could sync it
            sync_folder_or_die(self._path.parent)

    def bounds(self) -> Bounds:
        """See `ChangeLog.bounds`. A file without records, which a killed writer left, has no say."""
        while True:
            chain = self._folder.resolve()
            if not chain.links:
                return Bounds(0, 0)
            newest_bytes = self._proven_bytes(chain)
            if newest_bytes is not None:
                return _bounds([(link.header.name, link.limit or newest_bytes) for link in chain.links])

    def rewind(self, place: int, times: int = 1, *, first: int) -> int:
        """See `ChangeLog.rewind`: the start of the file that `place` is in, or of the one before it."""
        chain = self._folder.resolve()
        name, offset = unpack_place(place)
        names = [link.header.name for link in chain.links if link.limit is None or link.limit > HEADER_BYTES]
        earlier = [known for known in names if known < name or (known == name and offset > HEADER_BYTES)]
        if len(earlier) < times:
            return first
        return pack_place(earlier[-times], HEADER_BYTES)

    def reader(self, place: int | None = None) -> DirectoryReader:
        return DirectoryReader(SegmentFolder(self._path), place)

    def expect_epoch(self) -> None:
        """See `ChangeLog.expect_epoch`: it takes nothing."""

    def expect_reader(self) -> None:
        """See `ChangeLog.expect_reader`: nor does it."""

    def begin_epoch(
        self, epoch: int, record: bytes, *, is_ignorable: Callable[[bytes], bool]
    ) -> DirectoryWriter:
        """See `ChangeLog.begin_epoch`. `is_ignorable` is not needed: a writer's files are its own."""
        refuse_oversized(record)
        self._make_status()
        generation = self._free_generation(epoch)
        file = SegmentWriter(self._folder, SegmentName(generation, 0))
        try:
            header = self._header_of_new_file(file, epoch)
            file.write_header(header)
        except KeepstreamError:
            file.abandon()  # never later: a reader may have gone by the header
            raise
        return self._begin(file, header, record)

    def trim(self, before: int) -> None:
        """See `ChangeLog.trim`: whole files, the oldest first, so that a kill leaves no gap."""
        keep = unpack_place(before)[0]
        if self._folder.resolve().index(keep) is None:
            return
        for name in self._folder.names():
            if name < keep:
                self._delete(self._folder.segment_path(name))
        sync_folder_or_die(self._path)

    def inspect(self) -> list[Finding]:
        return inspect_folder(self._path)

    def put_report(self, stage: str, report: bytes) -> None:
        """See `ChangeLog.put_report`. Not synced: a report is worth nothing after a crash."""
        if not _STAGE.fullmatch(stage):
            raise InternalError(f"not a stage name: {stage!r}", code="stage-invalid")
        target = self._status / f"{stage}.json"
        draft = self._status / f".{stage}.{os.getpid()}.draft"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(report)
            draft.replace(target)
        except OSError as error:
            if error.errno not in FULL or not _write_over(target, report):
                raise disk_error(error, target) from error

    def reports(self) -> Mapping[str, bytes]:
        try:
            return {path.stem: path.read_bytes() for path in sorted(self._status.glob("*.json"))}
        except OSError as error:
            raise disk_error(error, self._status) from error

    def destroy(self) -> str:
        """See `ChangeLog.destroy`. A writer that still runs finds its file deleted and is fenced. The folder
        itself stays where its parent is not ours to write to, or where it is a mount point."""
        try:
            shutil.rmtree(self._path)
        except FileNotFoundError:
            return ""
        except OSError as error:
            if self.exists():
                raise disk_error(error, self._path) from error
            sync_folder_or_die(self._path)
            return "its empty folder"
        sync_folder_or_die(self._path.parent)
        return ""

    def close(self) -> None:
        """Nothing is held open."""

    @property
    def _status(self) -> Path:
        return self._path / "status"

    def _make_status(self) -> None:
        """Whoever made the log's folder beforehand, as `check` advises, made no place for reports. Not when a
        report is put: a folder that is being deleted must stay deleted."""
        try:
            self._status.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self._path) from error

    def _free_generation(self, epoch: int) -> int:
        """Above every file there is, whether it was finished or not.

        A writer that died before its CAPTURE_START was proven cannot be told from one that is frozen: the
        higher generation fences it, and the epoch that it has put into no log is still free.
        """
        newest = self._folder.newest_proven()
        if newest is not None and newest.epoch >= epoch:
            raise fenced(f"epoch {newest.epoch} exists in {self._path}, {epoch} is too late", "epoch-taken")
        generation = self._folder.highest_generation() + 1
        if generation > MAX_GENERATION:
            raise OperatorNeeded(
                f"{self._path} has had {MAX_GENERATION} writers, more than a place can name",
                code="log-exhausted",
                hint=f"Only a new log can take more: {BEGIN_ANEW}.",
            )
        return generation

    def _header_of_new_file(self, file: SegmentWriter, epoch: int) -> Header:
        """The file exists, so no older writer can prove anything more: *now* read what is valid (P8)."""
        failpoint("log.epoch_created")
        sync_folder_or_die(self._path)
        file.look()
        before = self._folder.newest_below(file.name.generation)
        if before is None:
            return Header(secrets.token_bytes(_LOG_ID_BYTES), file.name, epoch)
        valid_bytes = self._valid_bytes(before)
        failpoint("log.predecessor_read")
        return Header(before.log_id, file.name, epoch, before.name, valid_bytes)

    def _valid_bytes(self, header: Header) -> int:
        """How far a file that gets no more writers is valid, as the disk itself has it."""
        path = self._folder.segment_path(header.name)
        segment = self._folder.open(header)
        if segment is None:
            raise fenced(f"{path} was deleted while a writer began behind it", "log-fenced")
        with segment:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                sync_or_die(descriptor, path)
            finally:
                os.close(descriptor)
            segment.forget_cache()
            end = segment.sound_end(HEADER_BYTES)
            if end < segment.watermark():
                raise corrupt(path, end)
            return end

    def _begin(self, file: SegmentWriter, header: Header, record: bytes) -> DirectoryWriter:
        try:
            start_place = file.place
            file.write([record])
            file.prove()
        except KeepstreamError:
            file.close()
            raise
        return DirectoryWriter(self._folder, file, header=header, start_place=start_place)

    def _proven_bytes(self, chain: Chain) -> int | None:
        """How much of the newest file no successor can leave out; None: look again."""
        segment = self._folder.open(chain.links[-1].header)
        if segment is None:
            return None
        with segment:
            proven = segment.watermark()
            sound = segment.sound_end(proven) if chain.settled else proven
            if sound > proven:
                segment.sync()
                self._folder.sync()
                if self._folder.highest_generation() != chain.top:
                    return None
            return sound

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error


def _bounds(files: list[tuple[SegmentName, int]]) -> Bounds:
    """From the valid length of each file, oldest first."""
    filled = [(name, size) for name, size in files if size > HEADER_BYTES] or files[-1:]
    return Bounds(pack_place(filled[0][0], HEADER_BYTES), pack_place(*filled[-1]))


def _write_over(target: Path, report: bytes) -> bool:
    """Into the space of the report before, the only one on a full disk, so that `status` can say that it is
    full. Whoever reads just then may find neither whole."""
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        with open(descriptor, "wb", buffering=0) as file:
            if len(report) > os.fstat(descriptor).st_blocks * _STAT_BLOCK_BYTES:
                return False
            file.write(report)
            file.truncate()
    except OSError:
        return False
    return True
