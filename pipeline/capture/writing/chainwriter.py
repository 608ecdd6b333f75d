"""Writing one epoch's chain of frames: numbers, digests, anchors, and what became durable (P6–P9)."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from connectors.failpoints import failpoint
from connectors.interfaces import LogWriter
from pipeline.capture.entries.ended import ENDED
from pipeline.capture.entries.limitednames import LIMITED
from pipeline.capture.entries.partitions import MEMBERS
from pipeline.capture.entries.shapes import SHAPES, TYPES
from pipeline.capture.entries.told import TOLD, TRACKING
from pipeline.capture.history.timelines import Lineage
from pipeline.capture.writing.packer import PackedBody
from schemas.entries import Entries, Kind
from schemas.errors import RetryLater
from schemas.frame import Anchor, Heartbeat, Sequences
from schemas.framecodec import FrameHeader, encode_anchor, encode_heartbeat, encode_sequences, seal_frame
from schemas.lsn import START, Position
from schemas.sequence import SequenceValue
from schemas.table import TableSchema
from schemas.validity import Chain

ANCHOR_EVERY_BYTES = 64 * 1024 * 1024
DURABLE_LIMIT_S = 3.0
_TOLD: Final[tuple[Kind[Any, Any], ...]] = (TYPES, TRACKING, TOLD, ENDED, MEMBERS, LIMITED)


def now_us() -> int:
    """The wall clock in µs since 1970 UTC."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """What an ANCHOR says of the source (P10, P11)."""

    system_id: str
    timeline: int
    publication: Entries


class ChainWriter:
    """Appends the frames of one epoch after `chain`, whose START the log has accepted."""

    def __init__(self, writer: LogWriter, chain: Chain, source: SourceIdentity) -> None:
        assert chain.stream is not None
        self._writer = writer
        self._source = source
        self.stream = chain.stream
        self._epoch = chain.epoch
        self._number = chain.number
        self._digest = chain.digest
        self._max_commit_time = chain.max_commit_time
        self._appended = 0
        self._since_anchor_bytes = 0
        self._altered = False
        self._undurable: deque[tuple[int, Position]] = deque()
        self.position = chain.tail
        self.durable_position = START

    @property
    def lineage(self) -> Lineage:
        """Whose history the log goes on with."""
        return Lineage(self._source.system_id, self._source.timeline)

    @property
    def wants_anchor(self) -> bool:
        """Whether enough was written since the last anchor, or a table was altered."""
        return self._altered or self._since_anchor_bytes >= ANCHOR_EVERY_BYTES

    @property
    def all_durable(self) -> bool:
        """Whether nothing that was appended still waits."""
        return not self._undurable

    @property
    def pace_s(self) -> float:
        """How far apart frames of a steady stream should be."""
        return self._writer.pace_s

    def is_idle(self, timeout_s: float) -> bool:
        """Whether the log has answered for all frames, for which it waits up to `timeout_s`."""
        return self._writer.is_idle(timeout_s)

    @property
    def publication(self) -> Entries:
        """The publication's identity as the newest anchor says it (P11)."""
        return self._source.publication

    def anchor(self, tables: tuple[TableSchema, ...], *, at: Position | None = None) -> None:
        """Append an ANCHOR at the current position, or at `at` for the log's first one."""
        self.position = at or self.position
        source, entries = self._source, self._source.publication.encode()
        anchor = Anchor(self.position, source.system_id, source.timeline, entries, now_us())
        self._append(encode_anchor(anchor), tables, self.position, boundary=True)
        self._since_anchor_bytes, self._altered = 0, False

    def publication_is(self, publication: Entries) -> None:
        """What later anchors say of it (P11). Where a table was altered, the next one comes soon."""
        self._altered = self._altered or _altered(self._source.publication, publication)
        self._source = SourceIdentity(self._source.system_id, self._source.timeline, publication)

    def require_durable(self) -> None:
        """Wait for all that was appended, for as long as capture may stand still for it. RetryLater:
        `log-slow`."""
        deadline = time.monotonic() + DURABLE_LIMIT_S
        while not self.all_durable:
            if time.monotonic() > deadline:
                raise RetryLater("the log is too slow", code="log-slow")
            self.settle(0.1)

    def heartbeat(self, at: Position) -> None:
        """Append a HEARTBEAT: nothing was committed between the tail and `at`."""
        failpoint("capture.before_heartbeat")
        self.position = at
        self._append(encode_heartbeat(Heartbeat(at, now_us())), (), at)

    def sequences(self, values: tuple[SequenceValue, ...]) -> None:
        """Append values of sequences (P23). They move the position nowhere."""
        self._append(encode_sequences(Sequences(self.position, values, now_us())), (), self.position)

    def append(self, packed: PackedBody) -> None:
        """Append a packed frame."""
        if packed.position is not None:
            self.position = packed.position
        self._append(packed.body, packed.tables, packed.position)
        if packed.position is None:
            failpoint("capture.part_appended")

    def settle(self, timeout_s: float) -> Position:
        """The position below which everything is durable; waits up to `timeout_s` for it to move."""
        durable = self._writer.durable(timeout_s)
        while self._undurable and self._undurable[0][0] <= durable:
            self.durable_position = self._undurable.popleft()[1]
        return self.durable_position

    def _append(
        self,
        body: bytes,
        tables: tuple[TableSchema, ...],
        position: Position | None,
        *,
        boundary: bool = False,
    ) -> None:
        if position is not None:
            self._max_commit_time = max(self._max_commit_time, position.commit_time)
        header = FrameHeader(self.stream, self._epoch, self._number + 1, self._digest, self._max_commit_time)
        record, digest = seal_frame(header, tables, body)
        failpoint("capture.before_append")
        self._writer.append(record, boundary=boundary)
        failpoint("capture.after_append")
        self._number, self._digest = self._number + 1, digest
        self._appended += 1
        self._since_anchor_bytes += len(record)
        if position is not None:
            self._undurable.append((self._appended, position))


def _altered(before: Entries, after: Entries) -> bool:
    """Whether more than files differs of what is told of tables and types: then the next ANCHOR must not
    wait, because a capture that continues compares with it."""
    if before is after:
        return False
    if any(before.of(kind) != after.of(kind) for kind in _TOLD):
        return True
    then, now = before.of(SHAPES), after.of(SHAPES)
    return then.keys() != now.keys() or any(
        now[oid] is not shape and now[oid].without_file() != shape.without_file()
        for oid, shape in then.items()
    )
