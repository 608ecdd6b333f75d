"""Appends the records of one epoch to the directory log, with group commit.

`append` queues; one thread writes all that is queued, proves it (fsync, then look: P8) and counts it;
`durable` waits for the count. While one group is being synced the next one gathers, so that a slow
disk makes groups larger instead of making everyone wait.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from connectors.log.chain import SegmentFolder
from connectors.log.disk import LOOK_AT_DISK
from connectors.log.limits import refuse_oversized
from connectors.log.segment import RECORD_HEAD_BYTES, Header
from connectors.log.segment_writer import ROLL_BYTES, SegmentWriter, next_segment
from schemas.errors import InternalError, KeepstreamError, RetryLater

PACE_S = 0.002
MAX_QUEUED_BYTES = 16 * 1024 * 1024
_MAX_GROUP_BYTES = 4 * 1024 * 1024
_CLOSE_TIMEOUT_S = 10.0
SILENCE_LIMIT_S = 50.0
"""A disk that has written nothing for that long, with the queue full, is given up, as a broker is."""


@dataclass(frozen=True, slots=True)
class _Queued:
    record: bytes
    boundary: bool


class DirectoryWriter:
    """A `LogWriter`: the epoch's first file holds its CAPTURE_START, durable, at `start_place`."""

    def __init__(
        self, folder: SegmentFolder, first: SegmentWriter, *, header: Header, start_place: int
    ) -> None:
        self._folder = folder
        self._file = first
        self._header = header
        self._start_place = start_place
        self._file_has_begun = False  # the file holds more than where a reader may begin
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._durable = 0
        self._reported = 0
        self._error: KeepstreamError | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def start_place(self) -> int:
        return self._start_place

    @property
    def pace_s(self) -> float:
        return PACE_S

    def append(self, record: bytes, *, boundary: bool = False) -> None:
        """See `LogWriter.append`."""
        refuse_oversized(record)
        with self._changed:
            while self._queued_bytes > MAX_QUEUED_BYTES and self._error is None:
                self._await_group()
            if self._error is not None:
                raise self._error
            self._queue.append(_Queued(record, boundary))
            self._queued_bytes += len(record)
            self._changed.notify_all()

    def _await_group(self) -> None:
        """Until more became durable, or nothing more will. After a record that was not taken no other may
        be: the thread that hangs writes nothing more either, should the disk answer (P8)."""
        before = self._durable
        if not self._changed.wait_for(lambda: self._durable > before or self._error, SILENCE_LIMIT_S):
            self._closing = True
            self._error = RetryLater(
                f"{self._file.path} was not written within {SILENCE_LIMIT_S:g} s",
                code="log-unreachable",
                hint=LOOK_AT_DISK,
            )

    def is_idle(self, timeout_s: float) -> bool:
        """See `LogWriter.is_idle`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queued_bytes or self._error, timeout_s)
            return not self._queued_bytes

    def durable(self, timeout_s: float) -> int:
        """See `LogWriter.durable`."""
        with self._changed:
            self._changed.wait_for(lambda: self._durable > self._reported or self._error, timeout_s)
            if self._error is not None and self._durable == self._reported:
                raise self._error
            self._reported = self._durable
            return self._durable

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        try:
            while group := self._next_group():
                self._write_group(group)
        except KeepstreamError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self._file.close()
            self._end()

    def _end(self) -> None:
        """Whoever still waits must not wait for a thread that is gone."""
        with self._changed:
            if self._error is None:
                self._error = InternalError("the log writer's thread has ended", code="log-writer-ended")
            self._changed.notify_all()

    def _next_group(self) -> list[_Queued]:
        """What is queued, up to some MiB and ending before a boundary; [] once closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if self._closing:
                return []
            group = [self._queue.popleft()]
            group_bytes = len(group[0].record)
            while self._queue and not self._queue[0].boundary and group_bytes < _MAX_GROUP_BYTES:
                group.append(self._queue.popleft())
                group_bytes += len(group[-1].record)
            return group

    def _write_group(self, group: list[_Queued]) -> None:
        records = [queued.record for queued in group]
        group_bytes = sum(map(len, records))
        full = self._file.file_bytes + group_bytes + RECORD_HEAD_BYTES * len(group) > ROLL_BYTES
        if full or (group[0].boundary and self._file_has_begun):
            self._file = next_segment(self._file, self._folder, self._header)
        self._file.write(records)
        self._file.prove()
        self._file_has_begun = True
        with self._changed:
            self._durable += len(group)
            self._queued_bytes -= group_bytes
            self._changed.notify_all()
