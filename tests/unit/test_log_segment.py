"""The directory log's file format, byte for byte: a stranger could write a reader from this."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from connectors.log.limits import MAX_RECORD_BYTES
from connectors.log.place import MAX_GENERATION, MAX_OFFSET, MAX_SEGMENT, pack_place, unpack_place
from connectors.log.segment import (
    HEADER_BYTES,
    Header,
    SegmentName,
    decode_header,
    decode_records,
    decode_watermark,
    encode_record_head,
    encode_watermark,
    record_bytes,
)
from connectors.log.segment_writer import ROLL_BYTES

HEADER = Header(b"0123456789abcdef", SegmentName(7, 2), 5, SegmentName(6, 0), 4711)


def encode(*records: bytes) -> bytes:
    return b"".join(encode_record_head(record, HEADER.seed) + record for record in records)


def test_a_header_has_these_bytes() -> None:
    fields = b"KSSEGM\x01\x00" + b"0123456789abcdef" + struct.pack("<IIIIQI", 7, 2, 6, 0, 4711, 5)
    assert HEADER.encode() == (fields + struct.pack("<I", crc32c(fields))).ljust(HEADER_BYTES, b"\0")
    assert decode_header(HEADER.encode(), SegmentName(7, 2)) == HEADER


def test_the_first_file_of_a_log_has_no_predecessor() -> None:
    first = Header(b"0123456789abcdef", SegmentName(1, 0), 1)
    assert decode_header(first.encode(), SegmentName(1, 0)) == first


def test_a_header_is_unfinished_until_its_last_byte_and_damaged_by_any_bit() -> None:
    data = HEADER.encode()
    for length in range(HEADER_BYTES):
        assert decode_header(data[:length], HEADER.name) is None
    for bit in range(56 * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode_header(bytes(damaged), HEADER.name) is None
    assert decode_header(data, SegmentName(7, 3)) is None


def test_a_record_has_these_bytes() -> None:
    head = struct.pack("<I", 3)
    crc = crc32c(b"abc", crc32c(head, HEADER.seed))
    assert encode(b"abc") == head + struct.pack("<I", crc) + b"abc"


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.data())
def test_records_are_decoded_up_to_the_first_that_is_not_whole(
    records: list[bytes], data: st.DataObject
) -> None:
    encoded = encode(*records)
    cut = data.draw(st.integers(0, len(encoded)))
    whole = decode_records(encoded[:cut], HEADER.seed)
    assert whole == records[: len(whole)]
    if cut == len(encoded):
        assert whole == records


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4), st.data())
def test_a_flipped_bit_ends_the_records_before_it(records: list[bytes], data: st.DataObject) -> None:
    encoded = bytearray(encode(*records))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    decoded = decode_records(bytes(encoded), HEADER.seed)
    sound_bytes = sum(len(record) + 8 for record in decoded)
    assert decoded == records[: len(decoded)]
    assert sound_bytes <= bit // 8


def test_a_record_of_another_file_is_no_record_of_this_one() -> None:
    other = Header(HEADER.log_id, SegmentName(7, 3), 5, HEADER.name, 4711)
    assert decode_records(encode(b"abc"), other.seed) == []


@pytest.mark.parametrize("data", [bytes(64), b"\xff" * 64, struct.pack("<II", MAX_RECORD_BYTES + 1, 0)])
def test_zeros_and_noise_are_no_records(data: bytes) -> None:
    assert decode_records(data, HEADER.seed) == []
    assert record_bytes(data) == 0


def test_a_watermark_that_is_half_overwritten_is_not_believed() -> None:
    old, new = encode_watermark(300), encode_watermark(70000)
    assert decode_watermark(old) == 300
    for split in range(1, len(new)):
        assert decode_watermark(new[:split] + old[split:]) in (None, 300, 70000)
    assert decode_watermark(bytes(12)) is None
    assert decode_watermark(b"") is None


def test_file_names_sort_as_their_files_were_begun() -> None:
    names = [SegmentName(1, 0), SegmentName(1, 9), SegmentName(1, 10), SegmentName(2, 0), SegmentName(10, 1)]
    assert sorted(name.file_name for name in names) == [name.file_name for name in names]
    assert [SegmentName.parse(name.file_name) for name in names] == names
    for other in ("status", "0000001-00000.segment.bak", "1-0.segment"):
        assert SegmentName.parse(other) is None


@given(st.integers(0, MAX_GENERATION), st.integers(0, MAX_SEGMENT), st.integers(0, MAX_OFFSET))
def test_places_fit_a_bigint_and_sort_like_what_they_name(generation: int, segment: int, offset: int) -> None:
    place = pack_place(SegmentName(generation, segment), offset)
    assert unpack_place(place) == (SegmentName(generation, segment), offset)
    assert 0 <= place < 2**63
    assert place <= pack_place(SegmentName(generation, segment), MAX_OFFSET)


def test_a_file_that_is_full_still_has_room_for_the_largest_group() -> None:
    assert ROLL_BYTES + 2 * MAX_RECORD_BYTES < MAX_OFFSET
