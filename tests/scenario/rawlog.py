"""The change log as a stranger reads it: only from the documented formats, none of Keepstream's readers.

Directory: the segment files, along the predecessors that their headers name. Kafka: every record of the
partition. Frames are decoded with fastavro and judged by the rules of P7 in their shortest form.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fastavro
from kafka import KafkaConsumer, TopicPartition

_SCHEMA = Path(__file__).parents[2] / "schemas" / "avsc" / "frame.avsc"
_HEADER_BYTES = 128
_KIND = {"start": "keepstream.CaptureStart", "anchor": "keepstream.Anchor", "beat": "keepstream.Heartbeat"}


@dataclass(frozen=True)
class Logged:
    """One transaction as the log holds it. `changes`: but for those that Keepstream itself adds (DDL)."""

    xid: int
    commit_lsn: int
    end_lsn: int
    changes: int


@dataclass(frozen=True)
class RawLog:
    """The valid content of a log. `first`: position of the oldest anchor; `tail`: where it ends."""

    first: int
    tail: int
    transactions: tuple[Logged, ...]
    epochs: int
    records: int


def read_log(url: str, name: str) -> RawLog:
    """Everything that is valid and proven durable now."""
    parts = urlsplit(url)
    if parts.scheme == "kafka":
        return _judge(_kafka_records(parts.netloc, f"{name}.log"))
    return _judge(_directory_records(Path(parts.path) / f"{name}.log"))


def _directory_records(folder: Path) -> Iterator[bytes]:
    """Backwards along the chain from the newest complete header, then forwards through the files."""
    chain: list[tuple[bytes, int]] = []
    named: str | None = None
    length: int | None = None
    for path in sorted(folder.glob("*.segment"), reverse=True):
        data = path.read_bytes()
        if len(data) < _HEADER_BYTES or data[:6] != b"KSSEGM" or (named and path.name != named):
            continue
        (watermark,) = struct.unpack_from("<Q", data, 64)
        chain.append((data, max(watermark, _HEADER_BYTES) if length is None else length))
        generation, segment, length = struct.unpack_from("<IIQ", data, 32)
        if not generation:
            break
        named = f"{generation:07}-{segment:05}.segment"
    for data, end in reversed(chain):
        yield from _segment_records(data, end)


def _segment_records(data: bytes, end: int) -> Iterator[bytes]:
    offset = _HEADER_BYTES
    while offset < end:
        (length,) = struct.unpack_from("<I", data, offset)
        yield data[offset + 8 : offset + 8 + length]
        offset += 8 + length
    assert offset == end, "the valid length ends inside a record"


def _kafka_records(servers: str, topic: str) -> Iterator[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=servers.split(","), group_id=None, enable_auto_commit=False)
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        consumer.seek_to_beginning(partition)
        while consumer.position(partition) < end:
            for records in consumer.poll(timeout_ms=1000).values():
                yield from (record.value for record in records if record.offset < end)
    finally:
        consumer.close()


class _Judge:
    """P7 for one reader that begins with the log's first record."""

    def __init__(self) -> None:
        self.epoch = self.number = 0
        self.digest = bytes(32)
        self.stream: bytes | None = None
        self.broken = False
        self.starts = 0

    def counts(self, frame: dict[str, Any] | None, kind: str) -> bool:
        if frame is None:
            self.broken = True
            return False
        if self.stream not in (None, frame["stream"]):
            return False
        if kind == _KIND["start"]:
            return self._starts(frame)
        if frame["epoch"] < self.epoch or (not self.broken and frame["number"] <= self.number):
            return False
        follows = (frame["number"], frame["previous_digest"]) == (self.number + 1, self.digest)
        if self.broken or frame["epoch"] > self.epoch or not follows:
            self.broken = True
            return False
        self.number, self.digest = frame["number"], frame["digest"]
        return True

    def _starts(self, frame: dict[str, Any]) -> bool:
        if frame["epoch"] <= self.epoch:
            return False
        self.stream, self.epoch, self.broken = frame["stream"], frame["epoch"], False
        self.starts += 1
        return True


def _judge(records: Iterator[bytes]) -> RawLog:
    schema = fastavro.parse_schema(json.loads(_SCHEMA.read_text()))
    judge = _Judge()
    transactions: list[Logged] = []
    first = tail = part_changes = count = 0
    for record in records:
        count += 1
        frame = _open(record, schema)
        kind, body = frame["body"] if frame else ("", {})
        if not judge.counts(frame, kind):
            continue
        if kind == _KIND["start"]:
            part_changes = 0
        elif kind in (_KIND["anchor"], _KIND["beat"]):
            tail = max(tail, body["position"]["lsn"])
            first = first or tail
        elif kind == "keepstream.Transactions":
            transactions += [_logged(one, _carried(one["changes"])) for one in body["transactions"]]
            tail = transactions[-1].end_lsn
        else:
            part_changes += _carried(body["changes"])
            part_changes += bool(body["fragment"] and body["fragment"]["last"])
            if body["commit"]:
                transactions.append(_logged(body | body["commit"], part_changes))
                tail, part_changes = transactions[-1].end_lsn, 0
    return RawLog(first, tail, tuple(transactions), judge.starts, count)


def _open(record: bytes, schema: Any) -> dict[str, Any] | None:
    if hashlib.sha256(record[:-32]).digest() != record[-32:]:
        return None
    frame = fastavro.schemaless_reader(
        io.BytesIO(record), schema, return_record_name=True, return_record_name_override=True
    )
    assert isinstance(frame, dict)
    return frame


def _carried(changes: list[dict[str, Any]]) -> int:
    return sum(change["operation"] != "DDL" for change in changes)


def _logged(transaction: dict[str, Any], changes: int) -> Logged:
    return Logged(transaction["xid"], transaction["commit_lsn"], transaction["end_lsn"], changes)
