"""A byte of the log is another one, so that the CRC of the directory's files does not tell: the frame's own
digest must."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from connectors.log.segment import (
    HEADER_BYTES,
    RECORD_HEAD_BYTES,
    SegmentName,
    decode_header,
    encode_record_head,
    record_bytes,
)
from tests.soak.arena import Arena
from tests.soak.faults import Skipped
from tests.soak.plan import Parameters

_TEXT = b"note "
"""Stands in the rows of a table, and in no name."""
_FOUND_S = 20.0


def damage(arena: Arena, given: Parameters) -> None:
    """Apply meets a damaged record, and afterwards the sound one: it must take only that."""
    if arena.site.kafka is not None:
        raise Skipped("a broker's files have checksums of their own")
    arena.capture.ensure()
    arena.apply.ensure()
    arena.catch_up()
    arena.apply.kill()
    held = _size(arena)
    deadline = time.monotonic() + _FOUND_S
    while (found := _find(arena, held)) is None:
        assert time.monotonic() < deadline, "no row came that could be damaged"
        time.sleep(0.02)
    with _damaged(*found):
        arena.apply.start()
        arena.pass_time(1.0 + given["after_s"])
        arena.watch.judge()
        arena.apply.end()
    arena.apply.start()


def _segments(arena: Arena) -> list[Path]:
    return sorted((arena.site.log_disk.folder / f"{arena.pipeline.name}.log").glob("*.segment"))


def _size(arena: Arena) -> tuple[Path, int]:
    newest = _segments(arena)[-1]
    return newest, newest.stat().st_size


def _find(arena: Arena, held: tuple[Path, int]) -> tuple[Path, int, int] | None:
    """(file, offset of a record, offset of a byte in it), past what the replica holds."""
    path, least = held
    data = path.read_bytes()
    offset = HEADER_BYTES
    while size := record_bytes(data[offset : offset + RECORD_HEAD_BYTES]):
        at = data.find(_TEXT, offset, offset + size)
        if offset >= least and at >= 0 and offset + size <= len(data):
            return path, offset, at
        offset += size
    return None


@contextlib.contextmanager
def _damaged(path: Path, offset: int, at: int) -> Iterator[None]:
    """For as long as the context; the file's own CRC is made to agree."""
    with open(path, "r+b") as file:
        data = file.read()
        size = record_bytes(data[offset : offset + RECORD_HEAD_BYTES])
        sound = data[offset : offset + size]
        record = bytearray(sound[RECORD_HEAD_BYTES:])
        record[at - offset - RECORD_HEAD_BYTES] ^= 1
        generation, segment = map(int, path.stem.split("-"))
        header = decode_header(data[:HEADER_BYTES], SegmentName(generation, segment))
        assert header is not None
        head = encode_record_head(bytes(record), header.seed)
        _write_over(path, offset, head + bytes(record))
        try:
            yield
        finally:
            _write_over(path, offset, sound)


def _write_over(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)
