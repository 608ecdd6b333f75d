"""schemas.varint: Avro's long."""

from __future__ import annotations

from io import BytesIO

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.varint import LONG_MAX, LONG_MIN, decode_long, encode_long

LONG = fastavro.parse_schema("long")
EDGES = [sign * (1 << bits) + step for sign in (-1, 1) for bits in range(63) for step in (-1, 0, 1)] + [
    LONG_MIN,
    LONG_MAX,
]
LONGS = st.integers(LONG_MIN, LONG_MAX) | st.sampled_from(EDGES)


def by_fastavro(value: int) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, LONG, value)
    return out.getvalue()


@given(LONGS, st.binary(max_size=3), st.binary(max_size=3))
def test_longs_are_written_as_fastavro_does_and_read_where_they_stand(
    value: int, before: bytes, after: bytes
) -> None:
    encoded = encode_long(value)
    assert encoded == by_fastavro(value)
    assert decode_long(before + encoded + after, len(before)) == (value, len(before + encoded))


@pytest.mark.parametrize("value", EDGES)
def test_every_size_of_long_is_written_as_fastavro_does(value: int) -> None:
    assert encode_long(value) == by_fastavro(value)
    assert decode_long(encode_long(value), 0)[0] == value


@given(LONGS)
def test_a_long_that_is_cut_short_is_refused(value: int) -> None:
    encoded = encode_long(value)
    for end in range(len(encoded)):
        with pytest.raises(ValueError, match="data ends inside"):
            decode_long(encoded[:end], 0)


@pytest.mark.parametrize(
    "data",
    [b"\x80\x00", b"\x81\x80\x00", b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01", b"\x80" * 40 + b"\x01"],
)
def test_a_long_that_is_too_long_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^an integer (longer than it need be|of more than 64 bits)$"):
        decode_long(data, 0)


@pytest.mark.parametrize("value", [LONG_MIN - 1, LONG_MAX + 1])
def test_what_is_no_long_is_not_written(value: int) -> None:
    with pytest.raises(ValueError, match="not a 64-bit integer"):
        encode_long(value)
