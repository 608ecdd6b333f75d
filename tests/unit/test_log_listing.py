"""`log ls`: every record with the verdict that readers give it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.interfaces import ChangeLog, LogWriter
from connectors.log import open_log
from pipeline.control.frames import list_frames
from schemas.frame import NO_DIGEST, Anchor, CaptureStart, Heartbeat
from schemas.framecodec import (
    FrameHeader,
    encode_anchor,
    encode_capture_start,
    encode_heartbeat,
    seal_frame,
)
from schemas.lsn import Lsn, Position

OURS, THEIRS = uuid.UUID(int=1).bytes, uuid.UUID(int=2).bytes


def start(stream: bytes, epoch: int) -> bytes:
    body = encode_capture_start(CaptureStart(bytes(16), "7", 1, 0))
    return seal_frame(FrameHeader(stream, epoch, 0, NO_DIGEST, 0), (), body)[0]


def anchor(stream: bytes, epoch: int, number: int, previous: bytes = NO_DIGEST) -> tuple[bytes, bytes]:
    body = encode_anchor(Anchor(Position(Lsn(100)), "7", 1, (), 0))
    return seal_frame(FrameHeader(stream, epoch, number, previous, 0), (), body)


def beat(stream: bytes, epoch: int, number: int, previous: bytes) -> tuple[bytes, bytes]:
    body = encode_heartbeat(Heartbeat(Position(Lsn(100 + number)), 0))
    return seal_frame(FrameHeader(stream, epoch, number, previous, 0), (), body)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ChangeLog]:
    made = open_log(tmp_path.as_uri(), "crm")
    made.create()
    yield made
    made.close()


def written(log: ChangeLog, epoch: int, records: list[bytes]) -> None:
    writer: LogWriter = log.begin_epoch(epoch, start(OURS, epoch), is_ignorable=lambda _: True)
    for record in records:
        writer.append(record)
    while writer.durable(1.0) < len(records):
        pass
    writer.close()


def verdicts(log: ChangeLog, limit: int = 0) -> list[tuple[str, str]]:
    return [(each.kind, each.verdict) for each in list_frames(log, limit=limit, stop=threading.Event())]


def test_ignored_records_are_shown_as_what_they_are(log: ChangeLog) -> None:
    first, digest = anchor(OURS, 1, 1)
    second, _ = beat(OURS, 1, 2, digest)
    written(log, 1, [first, anchor(THEIRS, 1, 1)[0], first, second, b"rubbish", beat(OURS, 1, 3, digest)[0]])
    assert verdicts(log) == [
        ("capture_start", "start"),
        ("anchor", "accepted"),
        ("anchor", "foreign"),
        ("anchor", "duplicate"),
        ("heartbeat", "accepted"),
        ("damaged", "broken"),
        ("heartbeat", "broken"),
    ]
    assert verdicts(log, limit=2) == [("damaged", "broken"), ("heartbeat", "broken")]


def test_a_replaced_writer_s_records_are_stale(log: ChangeLog) -> None:
    first, digest = anchor(OURS, 1, 1)
    written(log, 1, [first])
    written(log, 2, [anchor(OURS, 2, 2, digest)[0], beat(OURS, 1, 2, digest)[0], start(OURS, 2)])
    assert verdicts(log)[2:] == [
        ("capture_start", "start"),
        ("anchor", "accepted"),
        ("heartbeat", "stale"),
        ("capture_start", "stale"),
    ]


def test_a_stranger_s_anchor_is_no_place_to_begin(log: ChangeLog) -> None:
    first, digest = anchor(OURS, 1, 1)
    written(log, 1, [first])
    second, digest = anchor(OURS, 2, 2, digest)
    third, digest = beat(OURS, 2, 3, digest)
    written(log, 2, [anchor(THEIRS, 1, 1)[0], second, third, beat(OURS, 2, 4, digest)[0]])
    assert verdicts(log, limit=2) == verdicts(log)[-2:] == [("heartbeat", "accepted")] * 2


def test_an_empty_log_has_no_records(log: ChangeLog) -> None:
    assert verdicts(log) == verdicts(log, limit=5) == []


def test_a_damaged_record_has_no_fields(log: ChangeLog) -> None:
    written(log, 1, [anchor(OURS, 1, 1)[0], b"rubbish"])
    damaged = next(list_frames(log, limit=1, stop=threading.Event())).to_json()
    assert {name for name, value in damaged.items() if value is None} == {
        "stream", "epoch", "number", "first_lsn", "last_lsn",
    }  # fmt: skip
    assert damaged["bytes"] == len(b"rubbish")
