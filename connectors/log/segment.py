"""The directory log's file format: bytes in, values out; no file is touched here.

A log is a chain of segment files. Each writer has a generation of its own, higher than all before it, and
writes files of that generation only (P8):

    0    magic           8 bytes   b"KSSEGM" and the format's version, u16
    8    log id         16 bytes   the same in every file of one log
    24   generation         u32    1, 2, 3 … from the file's name
    28   segment            u32    0, 1, 2 … within the generation
    32   predecessor's generation u32   0: there is none, the log begins here
    36   predecessor's segment    u32
    40   predecessor's length     u64   how many of its bytes are valid; whatever follows them is not
    48   epoch              u32    of the frames in it
    52   crc32c of the above u32
    64   watermark          u64    bytes of this file that are durable and were proven to be valid
    72   crc32c of it       u32
    128  records: length u32, crc32c u32, bytes; the next follows at once

All numbers are little-endian. Generations count writers, epochs count those whose CAPTURE_START was
accepted: they differ where a writer died before it had written one. A record's CRC covers its length and
bytes and starts from the header's CRC, so that a record of another file is never taken for one of this.
A file whose header is not complete is unfinished: somebody is creating it, or died doing so.

The watermark is the one thing that is overwritten in place. It is raised after the fsync *and* after
the look that found no higher generation, so that all below it is in every successor's valid length.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

from crc32c import crc32c

from connectors.log.limits import MAX_RECORD_BYTES

MAGIC = b"KSSEGM" + struct.pack("<H", 1)
HEADER_BYTES = 128
WATERMARK_OFFSET = 64
RECORD_HEAD_BYTES = 8

_HEADER = struct.Struct("<8s16sIIIIQI")
_RECORD_HEAD = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_WATERMARK = struct.Struct("<QI")
_FILE_NAME = re.compile(r"([0-9]{7})-([0-9]{5})\.segment")


class SegmentName(NamedTuple):
    """Which file of a log; they sort as they were begun."""

    generation: int
    segment: int

    @property
    def file_name(self) -> str:
        return f"{self.generation:07}-{self.segment:05}.segment"

    @staticmethod
    def parse(file_name: str) -> SegmentName | None:
        """The name of a segment file, None for any other file."""
        match = _FILE_NAME.fullmatch(file_name)
        return SegmentName(int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True, slots=True)
class Header:
    """A complete header. `predecessor` is None where the log begins."""

    log_id: bytes
    name: SegmentName
    epoch: int
    predecessor: SegmentName | None = None
    predecessor_bytes: int = 0

    def encode(self) -> bytes:
        """The file's first HEADER_BYTES, with an empty watermark."""
        before = self.predecessor or SegmentName(0, 0)
        fields = _HEADER.pack(MAGIC, self.log_id, *self.name, *before, self.predecessor_bytes, self.epoch)
        return (fields + _LENGTH.pack(crc32c(fields))).ljust(HEADER_BYTES, b"\0")

    @property
    def seed(self) -> int:
        """What the CRC of each record in the file starts from."""
        return crc32c(self.encode()[: _HEADER.size])


def decode_header(data: bytes, name: SegmentName) -> Header | None:
    """The header of the file `name`; None while it is unfinished."""
    if len(data) < HEADER_BYTES or data[:8] != MAGIC:
        return None
    (crc,) = _LENGTH.unpack_from(data, _HEADER.size)
    if crc != crc32c(data[: _HEADER.size]):
        return None
    _, log_id, generation, segment, *before, before_bytes, epoch = _HEADER.unpack_from(data)
    if SegmentName(generation, segment) != name:
        return None
    predecessor = SegmentName(*before) if before[0] else None
    return Header(log_id, name, epoch, predecessor, before_bytes)


def encode_watermark(length: int) -> bytes:
    """What stands at WATERMARK_OFFSET once `length` bytes of the file are durable."""
    data = length.to_bytes(8, "little")
    return data + _LENGTH.pack(crc32c(data))


def decode_watermark(data: bytes) -> int | None:
    """None: none yet, or it was read while it was being overwritten."""
    if len(data) < _WATERMARK.size:
        return None
    length, crc = _WATERMARK.unpack_from(data)
    return length if length and crc == crc32c(data[:8]) else None


WATERMARK_BYTES = _WATERMARK.size


def encode_record_head(record: bytes, seed: int) -> bytes:
    """The eight bytes before a record."""
    length = _LENGTH.pack(len(record))
    return length + _LENGTH.pack(crc32c(record, crc32c(length, seed)))


def record_bytes(data: bytes) -> int:
    """How many bytes the record that starts `data` takes with its head; 0 if that cannot be a record."""
    if len(data) < RECORD_HEAD_BYTES:
        return 0
    length, _ = _RECORD_HEAD.unpack_from(data)
    return RECORD_HEAD_BYTES + length if 0 < length <= MAX_RECORD_BYTES else 0


def decode_records(data: bytes, seed: int) -> list[bytes]:
    """The whole and sound records that `data` starts with; stops at the first that is not."""
    records: list[bytes] = []
    offset, end = 0, len(data)
    while offset + RECORD_HEAD_BYTES <= end:
        length, crc = _RECORD_HEAD.unpack_from(data, offset)
        start = offset + RECORD_HEAD_BYTES
        if not 0 < length <= MAX_RECORD_BYTES or start + length > end:
            break
        value = data[start : start + length]
        if crc32c(value, crc32c(data[offset : offset + 4], seed)) != crc:
            break
        records.append(value)
        offset = start + length
    return records
