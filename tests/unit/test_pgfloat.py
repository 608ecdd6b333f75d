"""schemas.pgfloat: floats in PostgreSQL's own words. The integration tests ask PostgreSQL for many more."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.pgfloat import (
    decode_float4,
    decode_float8,
    encode_float4,
    encode_float8,
)


@pytest.mark.parametrize(
    "text",
    [
        b"0", b"-0", b"1", b"-1.5", b"0.1", b"0.0001", b"1e-05", b"1.5e-07", b"100000000000000", b"1e+15",
        b"999999999999999", b"1.234567890123456e+15", b"1e+16", b"9.999999999999999e+22", b"5e-324",
        b"1.7976931348623157e+308", b"2.2250738585072014e-308", b"5.684341886080802e-14",
        b"0.30000000000000004", b"NaN", b"Infinity",
        b"-Infinity",
    ],
)  # fmt: skip
def test_float8_comes_back_in_postgresqls_form(text: bytes) -> None:
    assert decode_float8(encode_float8(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        b"0", b"-0", b"1", b"-1.5", b"0.1", b"0.0001", b"1e-05", b"100000", b"1e+06", b"123456",
        b"1.234567e+06", b"1.6777216e+07", b"3.4028235e+38", b"1.1754944e-38", b"1e-45",
        b"9.8607613e-32", b"NaN", b"Infinity",
        b"-Infinity",
    ],
)  # fmt: skip
def test_float4_comes_back_in_postgresqls_form(text: bytes) -> None:
    assert decode_float4(encode_float4(text)) == text


def test_a_midpoint_is_never_written_for_its_float() -> None:
    assert repr(9.999999999999999e22) == "1e+23"  # as C and Python have it
    with pytest.raises(ValueError, match="not a float8 in PostgreSQL's form"):
        encode_float8(b"1e+23")


@given(st.binary(min_size=8, max_size=8))
def test_every_float8_comes_back(data: bytes) -> None:
    text = decode_float8(data)
    assert text == b"NaN" or encode_float8(text) == data


@given(st.binary(min_size=4, max_size=4))
def test_every_float4_comes_back(data: bytes) -> None:
    text = decode_float4(data)
    assert text == b"NaN" or encode_float4(text) == data


@given(st.floats())
def test_float8_text_is_the_number(value: float) -> None:
    text = decode_float8(struct.pack("<d", value))
    assert struct.pack("<d", float(text)) == struct.pack("<d", value) or text == b"NaN"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"1.0",
        b"1e5",
        b"+1",
        b" 1",
        b"1_0",
        b"nan",
        b"inf",
        b"infinity",
        b"-NaN",
        b"0.10",
        b"1e+400",
        b"0x1",
        b".5",
    ],
)
def test_text_that_postgresql_would_not_write_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        encode_float8(text)
    with pytest.raises(ValueError):
        encode_float4(text)


def test_float8_digits_are_refused_for_a_float4() -> None:
    for text in (b"0.30000000000000004", b"3.4028236e+38", b"1e+39"):
        with pytest.raises(ValueError):
            encode_float4(text)
