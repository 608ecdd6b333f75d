"""What C codes by itself, and that it is what the codecs make of it; test_avro has whole rows."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from typing import NoReturn

import pytest

from schemas import rowcode
from schemas.pgcodec import DOUBLE, FLOAT, Codec, codec_of
from schemas.rowcode import compile_decoder, compile_encoder, kinds_of

PLAIN = {
    16: b"t", 17: b"\\x00ff7f", 20: b"-9000000000", 21: b"-7", 23: b"0", 25: b"text", 700: b"8571.429",
    701: b"244.9489742783178", 1082: b"0001-01-01", 1083: b"23:59:59.999999",
    1114: b"1969-12-31 23:59:59.5", 1184: b"9999-12-31 23:59:59.999999+00",
    2950: b"1b4e28ba-2fa1-11d2-883f-0016d3cca427",
}  # fmt: skip
LEFT_TO_THE_CODEC = {
    1082: [b"infinity", b"-infinity", b"0001-12-31 BC", b"10000-01-01"],
    1083: [b"24:00:00"],
    1114: [b"infinity", b"4713-01-01 00:00:00 BC", b"294276-12-31 23:59:59.999999"],
    1184: [b"-infinity", b"0001-01-01 00:00:00+00 BC"],
    700: [b"NaN", b"-0", b"1e+06", b"9.9e-05", b"-Infinity", b"1e-45"],
    701: [b"NaN", b"-0", b"1e+15", b"9.9e-05", b"Infinity", b"5e-324"],
}
MALFORMED = {
    17: [b"", b"\\x0", b"\\xFF", b"\\x0g", b"00", b"\\y00"],
    1082: [b"", b"2023-02-29", b"0000-01-01", b"2024-1-01", b"2024-01-01 ", b"2024-00-10", b"2024-13-01"],
    1083: [b"", b"24:00:01", b"12:60:00", b"12:00:00.", b"12:00:00.10", b"12:00:00.1234567", b"12:00"],
    1114: [b"2024-02-30 00:00:00", b"2024-01-01T00:00:00", b"2024-01-01 00:00:00+00"],
    1184: [b"2024-01-01 00:00:00", b"2024-01-01 00:00:00+01", b"+00"],
    700: [b"", b".", b"-", b"1.", b".5", b"1.0", b"01", b"+1", b"1.5.5", b"16777217", b"0.10000000149"],
    701: [b"", b".", b"-", b"1.0", b"1e5", b"00", b"0.1000000000000000055", b"12345678901234567890123"],
}


def refuse(data: bytes, position: int) -> NoReturn:
    raise ValueError(data, position)


def tuple_of(texts: list[bytes]) -> bytes:
    return len(texts).to_bytes(2) + b"".join(b"t" + len(text).to_bytes(4) + text for text in texts)


def there_and_back(codec: Codec, texts: list[bytes]) -> tuple[bytes, list[bytes | None]]:
    """The row of these texts, and what that says."""
    row, _, _ = compile_encoder([codec] * len(texts), refuse, whole=True)(tuple_of(texts), 0)
    return row, compile_decoder([codec] * len(texts), refuse)(row, 0)


def row_of(codec: Codec, texts: list[bytes]) -> bytes:
    return b"".join(b"\2" + codec.encode(text) for text in texts)


def texts_of(codec: Codec, encoded: Iterable[bytes]) -> list[bytes]:
    return [codec.decode(value, 0)[0] for value in encoded]


@pytest.mark.skipif(not rowcode.COMPILED, reason="no C compiler was found")
def test_plain_values_do_not_come_to_the_codecs() -> None:
    def never(*_: object) -> NoReturn:
        raise AssertionError("a codec was called")

    assert rowcode.encode_row is not None
    assert rowcode.decode_row is not None
    codecs = [codec_of(oid) for oid in PLAIN]
    kinds, nothing = kinds_of(codecs), (never,) * len(codecs)
    texts = list(PLAIN.values())
    row, _, _ = rowcode.encode_row(kinds, nothing, True, refuse, tuple_of(texts), 0)
    assert row == b"".join(b"\2" + codec.encode(text) for codec, text in zip(codecs, texts, strict=True))
    assert rowcode.decode_row(kinds, nothing, refuse, row, 0) == texts


@pytest.mark.parametrize("oid", LEFT_TO_THE_CODEC)
def test_rare_values_are_coded_too(oid: int) -> None:
    codec, texts = codec_of(oid), LEFT_TO_THE_CODEC[oid]
    assert there_and_back(codec, texts) == (row_of(codec, texts), texts)


@pytest.mark.parametrize(("oid", "text"), [(oid, text) for oid, texts in MALFORMED.items() for text in texts])
def test_what_postgresql_would_not_write_is_refused(oid: int, text: bytes) -> None:
    codec = codec_of(oid)
    with pytest.raises(ValueError, match=r"."):
        codec.encode(text)
    with pytest.raises(ValueError, match=r"."):
        compile_encoder([codec], refuse, whole=True)(tuple_of([text]), 0)


@pytest.mark.parametrize(("codec", "bits", "value"), [(FLOAT, "<I", "<f"), (DOUBLE, "<Q", "<d")])
def test_floats_beside_powers_of_two_are_written_alike(codec: Codec, bits: str, value: str) -> None:
    """There the neighbour below is nearer than the one above."""
    for power in range(-30, 60):
        (middle,) = struct.unpack(bits, struct.pack(value, 2.0**power))
        texts = texts_of(codec, (struct.pack(bits, middle + step) for step in range(-9, 10)))
        assert there_and_back(codec, texts) == (row_of(codec, texts), texts)


@pytest.mark.parametrize(("codec", "value"), [(FLOAT, "<f"), (DOUBLE, "<d")])
def test_floats_of_all_lengths_are_written_alike(codec: Codec, value: str) -> None:
    chosen = random.Random(7)
    for digits in range(18):
        numbers = [round(chosen.uniform(-1, 1) * 10 ** chosen.randint(-4, 15), digits) for _ in range(200)]
        texts = texts_of(codec, (struct.pack(value, number) for number in numbers))
        assert there_and_back(codec, texts) == (row_of(codec, texts), texts)
