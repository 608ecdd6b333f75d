"""The directory log under fire: whatever happens to the bytes of its files, a reader gets the frames that
were written, from the first on and in order, and then an error or silence; no other frame, no hole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.log.directory import DirectoryLog
from connectors.log.segment import (
    HEADER_BYTES,
    WATERMARK_OFFSET,
    Header,
    SegmentName,
    decode_header,
    decode_records,
    decode_watermark,
    encode_record_head,
    encode_watermark,
)
from pipeline.follow import follow_from_start
from schemas.errors import KeepstreamError
from schemas.frame import CaptureStart
from schemas.framecodec import open_frame
from tests.damage import damaged, odd_bytes
from tests.frames import STREAM, Writer

NAME = "crm"
HEADER = Header(b"0123456789abcdef", SegmentName(7, 2), 5, SegmentName(6, 0), 4711)


def never(record: bytes) -> bool:
    return False


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a log of three epochs; the second one has two files."""
    root = tmp_path_factory.mktemp("sound")
    log = DirectoryLog(root, NAME)
    log.create()
    writer = Writer()
    for epoch in range(3):
        appender = log.begin_epoch(epoch + 1, writer.start(), is_ignorable=never)
        records = [writer.anchor(), writer.transaction(), writer.part(1), writer.part(2, last=True)]
        for record in records:
            appender.append(record)
        if epoch == 1:
            appender.append(writer.anchor(), boundary=True)
            appender.append(writer.transaction())
            records += [b"", b""]
        while appender.durable(5.0) < len(records):
            pass
        appender.close()
    files = {path.name: path.read_bytes() for path in sorted((root / f"{NAME}.log").glob("*.segment"))}
    assert len(files) == 4
    return files


def read_all(
    root: Path, files: dict[str, bytes]
) -> tuple[list[tuple[int, int, bytes]], KeepstreamError | None]:
    """(epoch, number, digest) of the frames that count, and the error that ended it."""
    folder = root / f"{NAME}.log"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "status").mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    found: list[tuple[int, int, bytes]] = []
    try:
        follower = follow_from_start(DirectoryLog(root, NAME), stream=STREAM)
    except KeepstreamError as error:
        return found, error
    try:
        # Twice as long as a reader waits for a writer that may live, and once more for the next file.
        while followed := follower.read(0.11):
            found += [(f.frame.epoch, f.frame.number, f.frame.digest) for f in followed]
    except KeepstreamError as error:
        return found, error
    finally:
        follower.close()
    return found, None


@pytest.fixture(scope="module")
def frames(sound: dict[str, bytes]) -> list[tuple[int, int, bytes]]:
    """What is in the files, without the log's own reader."""
    found = []
    for name, content in sound.items():
        segment = SegmentName.parse(name)
        assert segment is not None
        header = decode_header(content, segment)
        assert header is not None
        for record in decode_records(content[HEADER_BYTES:], header.seed):
            frame = open_frame(record)
            assert frame is not None
            found.append((frame.epoch, frame.number, frame.digest))
            assert isinstance(frame.body, CaptureStart) == (frame.number == 0)
    return found


def test_a_sound_log_is_read_whole(
    tmp_path: Path, sound: dict[str, bytes], frames: list[tuple[int, int, bytes]]
) -> None:
    assert len(frames) == 3 * 5 + 2
    assert read_all(tmp_path, sound) == (frames, None)


@given(data=st.data())
def test_a_damaged_file_gives_the_frames_before_the_damage_and_none_that_was_not_written(
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
    sound: dict[str, bytes],
    frames: list[tuple[int, int, bytes]],
) -> None:
    name = data.draw(st.sampled_from(sorted(sound)))
    files = sound | {name: data.draw(damaged(sound[name]))}
    found, _ = read_all(tmp_path_factory.getbasetemp() / "fuzz", files)
    assert found == frames[: len(found)]


@given(data=st.data())
def test_one_wrong_bit_of_a_durable_record_or_header_is_an_error_and_not_silence(
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
    sound: dict[str, bytes],
    frames: list[tuple[int, int, bytes]],
) -> None:
    name = data.draw(st.sampled_from(sorted(sound)))
    content = bytearray(sound[name])
    checked = [*range(56), *range(HEADER_BYTES, len(content))]
    content[data.draw(st.sampled_from(checked))] ^= 1 << data.draw(st.integers(0, 7))
    found, error = read_all(tmp_path_factory.getbasetemp() / "bit", sound | {name: bytes(content)})
    assert found == frames[: len(found)]
    assert error is not None
    assert error.code == "log-corrupt"
    assert len(found) < len(frames)


@pytest.mark.parametrize("bit", [0, 11, 63, 64, 95])
def test_one_wrong_bit_of_a_watermark_loses_nothing(
    bit: int, tmp_path: Path, sound: dict[str, bytes], frames: list[tuple[int, int, bytes]]
) -> None:
    """What it had proven, a reader proves anew."""
    for name in (min(sound), max(sound)):
        content = bytearray(sound[name])
        content[WATERMARK_OFFSET + bit // 8] ^= 1 << bit % 8
        assert read_all(tmp_path, sound | {name: bytes(content)}) == (frames, None)


@given(records=st.lists(st.binary(min_size=1, max_size=60), max_size=6), data=st.data())
def test_damaged_records_end_where_the_damage_is(records: list[bytes], data: st.DataObject) -> None:
    encoded = b"".join(encode_record_head(record, HEADER.seed) + record for record in records)
    spoilt = data.draw(damaged(encoded + b"\0"))
    decoded = decode_records(spoilt, HEADER.seed)
    assert all(record in records for record in decoded)
    assert (
        b"".join(encode_record_head(record, HEADER.seed) + record for record in decoded)
        == (spoilt[: sum(len(record) + 8 for record in decoded)])
    )


@given(st.lists(odd_bytes, max_size=12).map(b"".join))
def test_noise_is_no_header_no_record_and_no_watermark(noise: bytes) -> None:
    assert decode_header(noise.ljust(HEADER_BYTES, b"\0"), HEADER.name) is None
    assert decode_records(noise, HEADER.seed) == []
    assert decode_watermark(noise) is None


@given(data=st.data())
def test_an_edited_header_is_unfinished_or_says_the_same(data: st.DataObject) -> None:
    spoilt = data.draw(damaged(HEADER.encode()))
    decoded = decode_header(spoilt, HEADER.name)
    assert decoded is None or (decoded == HEADER and spoilt[:56] == HEADER.encode()[:56])


@given(st.integers(1, 2**40), st.data())
def test_an_edited_watermark_is_none_or_says_the_same(length: int, data: st.DataObject) -> None:
    decoded = decode_watermark(data.draw(damaged(encode_watermark(length))))
    assert decoded in (None, length)
