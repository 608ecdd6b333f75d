"""The change log as a stranger reads it: only from the documented formats, none of Keepstream's readers.

Directory: the segment files, along the predecessors that their headers name. Kafka: every record of the
partition. Frames are decoded with fastavro and judged by the rules of P7 in their shortest form.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fastavro
from kafka import KafkaConsumer, TopicPartition

from tests.scenario.checker import Verdict, Violation

_SCHEMA = Path(__file__).parents[2] / "schemas" / "avsc" / "frame.avsc"
_HEADER_BYTES = 128
_START = "keepstream.CaptureStart"
_STANDING = ("keepstream.Anchor", "keepstream.Heartbeat", "keepstream.Sequences")


@dataclass(frozen=True)
class Logged:
    """One transaction as the log holds it. `changes`: but for those that Keepstream itself adds (DDL) and
    those of tables that are not watched."""

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


def require_unconfirmed(confirmed: int, log: RawLog) -> None:
    """The source may not have been told to forget what the log does not hold."""
    if confirmed > log.tail:
        raise Violation(Verdict.LOST, f"confirmed up to {confirmed:X}, the log ends at {log.tail:X}")


def require_prefix(found: Sequence[Logged], expected: Sequence[Logged]) -> None:
    """The log's transactions are those that were committed: none lost, none twice, none torn."""
    if list(found) == list(expected):
        return
    differing = (index for index, pair in enumerate(zip(found, expected, strict=False)) if len(set(pair)) > 1)
    index = next(differing, min(len(found), len(expected)))
    seen, wanted = found[index : index + 1], expected[index : index + 1]
    if seen and seen[0] in found[:index]:
        verdict = Verdict.DUPLICATED
    elif seen and wanted and seen[0].commit_lsn == wanted[0].commit_lsn:
        verdict = Verdict.TORN
    else:
        verdict = Verdict.LOST
    raise Violation(verdict, f"the log has {seen} where {wanted} was committed, transaction {index}")


class LogWatch:
    """Reads one log again and again, each time only what has come since. What was once proven durable stays
    valid, whatever comes later. `tables`: whose changes are counted."""

    def __init__(self, url: str, name: str, tables: Collection[str]) -> None:
        self._url = urlsplit(url)
        self._name = name
        self._tables = tables
        self._ignored: set[bytes] = set()
        self._read: dict[str, int] = {}
        self._judge = _Judge()
        self._schema = fastavro.parse_schema(json.loads(_SCHEMA.read_text()))
        self._transactions: list[Logged] = []
        self._first = self._tail = self._part_changes = 0

    def read(self) -> RawLog:
        """Everything that is valid and proven durable now."""
        for record in self._new_records():
            self._take(_open(record, self._schema))
        return RawLog(self._first, self._tail, tuple(self._transactions), self._judge.starts)

    def _new_records(self) -> Iterator[bytes]:
        if self._url.scheme == "kafka":
            return _kafka_records(self._url.netloc, f"{self._name}.log", self._read)
        return _directory_records(Path(self._url.path) / f"{self._name}.log", self._read)

    def _take(self, frame: dict[str, Any] | None) -> None:
        kind, body = frame["body"] if frame else ("", {})
        if not self._judge.counts(frame, kind) or frame is None:
            return
        for table in frame["tables"]:
            if f"{table['schema']}.{table['name']}" not in self._tables:
                self._ignored.add(table["id"])
        if kind == _START:
            self._part_changes = 0
        elif kind in _STANDING:
            self._tail = max(self._tail, body["position"]["lsn"])
            self._first = self._first or self._tail
        elif kind == "keepstream.Transactions":
            self._transactions += [
                _logged(one, self._carried(one["changes"])) for one in body["transactions"]
            ]
            self._tail = self._transactions[-1].end_lsn
        else:
            self._take_part(body)

    def _take_part(self, body: dict[str, Any]) -> None:
        self._part_changes += self._carried(body["changes"])
        self._part_changes += bool(body["fragment"] and body["fragment"]["last"])
        if body["commit"]:
            self._transactions.append(_logged(body | body["commit"], self._part_changes))
            self._tail, self._part_changes = self._transactions[-1].end_lsn, 0

    def _carried(self, changes: list[dict[str, Any]]) -> int:
        return sum(
            change["operation"] != "DDL" and not self._ignored.issuperset(_tables_of(change))
            for change in changes
        )


def _directory_records(folder: Path, read: dict[str, int]) -> Iterator[bytes]:
    """Backwards along the chain from the newest complete header, then forwards through the files."""
    chain: list[tuple[Path, int]] = []
    named: str | None = None
    length: int | None = None
    for path in sorted(folder.glob("*.segment"), reverse=True):
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
        if len(head) < _HEADER_BYTES or head[:6] != b"KSSEGM" or (named and path.name != named):
            continue
        (watermark,) = struct.unpack_from("<Q", head, 64)
        chain.append((path, max(watermark, _HEADER_BYTES) if length is None else length))
        generation, segment, length = struct.unpack_from("<IIQ", head, 32)
        if not generation:
            break
        named = f"{generation:07}-{segment:05}.segment"
    for path, end in reversed(chain):
        start = read.get(path.name, _HEADER_BYTES)
        assert start <= end, f"what was proven of {path.name} is not valid any more"
        yield from _segment_records(path, start, end)
        read[path.name] = end


def _segment_records(path: Path, start: int, end: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(end - start)
    offset = 0
    while offset < end - start:
        (length,) = struct.unpack_from("<I", data, offset)
        yield data[offset + 8 : offset + 8 + length]
        offset += 8 + length
    assert offset == end - start, "the valid length ends inside a record"


def _kafka_records(servers: str, topic: str, read: dict[str, int]) -> Iterator[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=servers.split(","), group_id=None, enable_auto_commit=False)
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        if topic in read:
            consumer.seek(partition, read[topic])
        else:
            consumer.seek_to_beginning(partition)
        while consumer.position(partition) < end:
            for records in consumer.poll(timeout_ms=1000).values():
                yield from (record.value for record in records if record.offset < end)
        read[topic] = end
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
        if kind == _START:
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


def _open(record: bytes, schema: Any) -> dict[str, Any] | None:
    if hashlib.sha256(record[:-32]).digest() != record[-32:]:
        return None
    frame = fastavro.schemaless_reader(
        io.BytesIO(record), schema, return_record_name=True, return_record_name_override=True
    )
    assert isinstance(frame, dict)
    return frame


def _tables_of(change: dict[str, Any]) -> list[bytes]:
    """Their version ids; of a message, which has no table, one that is none."""
    tables: list[bytes] = (
        change["payload"][1]["tables"] if change["operation"] == "TRUNCATE" else [change["table"]]
    )
    return tables


def _logged(transaction: dict[str, Any], changes: int) -> Logged:
    return Logged(transaction["xid"], transaction["commit_lsn"], transaction["end_lsn"], changes)
