"""How a value of each PostgreSQL type stands in a row: one codec for each Avro type that is lossless.

A codec turns PostgreSQL's text into the Avro bytes of the union's second branch, and back to the very
same text. Codecs are strict: a text that is not exactly what PostgreSQL writes under our session settings
raises ValueError, because reading it kindly (a date in another DateStyle) would store a wrong value. So
the way back needs no third branch: each codec's numbers stand for one text each.
"""

from __future__ import annotations

from binascii import hexlify, unhexlify
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from schemas.pgfloat import decode_float4, decode_float8, encode_float4, encode_float8
from schemas.pgtime import (
    format_date,
    format_time,
    format_timestamp,
    format_timestamptz,
    parse_date,
    parse_time,
    parse_timestamp,
    parse_timestamptz,
)
from schemas.pgtypes import BYTEA
from schemas.varint import INT_MAX, INT_MIN, decode_long, encode_long


@dataclass(frozen=True, slots=True)
class Codec:
    """avro: the type beside null in the field's union.
    encode: text → Avro bytes, without the union's branch number.
    decode: data, position → text, position after the value.
    Both raise ValueError.
    """

    avro: str | dict[str, Any]
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes, int], tuple[bytes, int]]


def encode_text(text: bytes) -> bytes:
    """Length and bytes, as Avro's string and bytes."""
    return encode_long(len(text)) + text


def decode_text(data: bytes, position: int) -> tuple[bytes, int]:
    """Length and bytes. Raises ValueError if the data ends before."""
    length, start = decode_long(data, position)
    end = start + length
    if length < 0 or end > len(data):
        raise ValueError("data ends inside a value")
    return data[start:end], end


def _encode_integer(text: bytes) -> bytes:
    """int2, int4, int8, oid: decimal, no sign but minus, no leading zeros."""
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or (digits[:1] == b"0" and text != b"0"):
        raise ValueError("not an integer in PostgreSQL's form")
    return encode_long(int(text))


def _decode_integer(data: bytes, position: int) -> tuple[bytes, int]:
    value, position = decode_long(data, position)
    return b"%d" % value, position


def _encode_int(text: bytes) -> bytes:
    encoded = _encode_integer(text)
    if len(encoded) > 4 and not INT_MIN <= int(text) <= INT_MAX:
        raise ValueError("beyond int32")
    return encoded


def _decode_int(data: bytes, position: int) -> tuple[bytes, int]:
    value, position = decode_long(data, position)
    if not INT_MIN <= value <= INT_MAX:
        raise ValueError("beyond int32")
    return b"%d" % value, position


def _encode_boolean(text: bytes) -> bytes:
    if text == b"t":
        return b"\x01"
    if text == b"f":
        return b"\x00"
    raise ValueError("not a boolean in PostgreSQL's form")


def _decode_boolean(data: bytes, position: int) -> tuple[bytes, int]:
    byte = data[position : position + 1]
    if byte == b"\x01":
        return b"t", position + 1
    if byte == b"\x00":
        return b"f", position + 1
    raise ValueError("not a boolean")


def _encode_bytea(text: bytes) -> bytes:
    if text[:2] != b"\\x":
        raise ValueError("not a bytea in hex form")
    raw = unhexlify(text[2:])
    if hexlify(raw) != text[2:]:
        raise ValueError("not a bytea in PostgreSQL's form")
    return encode_text(raw)


def _decode_bytea(data: bytes, position: int) -> tuple[bytes, int]:
    raw, position = decode_text(data, position)
    return b"\\x" + hexlify(raw), position


def _decode_hex(data: bytes, position: int) -> tuple[bytes, int]:
    """What stands in hex, as a domain over bytea does."""
    text, position = decode_text(data, position)
    if text[:2] != b"\\x":
        raise ValueError("not a bytea in hex form")
    return unhexlify(memoryview(text)[2:]), position


def raw_bytes_of(codec: Codec) -> Codec:
    """The codec of a bytea's, or of a domain's over one, whose `decode` gives the bytes themselves."""
    return replace(codec, decode=decode_text if codec is BYTES else _decode_hex)


def _number_codec(
    avro: str, logical: str, parse: Callable[[bytes], int], form: Callable[[int], bytes]
) -> Codec:
    def encode(text: bytes) -> bytes:
        return encode_long(parse(text))

    def decode(data: bytes, position: int) -> tuple[bytes, int]:
        value, position = decode_long(data, position)
        return form(value), position

    return Codec({"type": avro, "logicalType": logical}, encode, decode)


def _fixed_codec(
    avro: str, size: int, encode: Callable[[bytes], bytes], form: Callable[[bytes], bytes]
) -> Codec:
    def decode(data: bytes, position: int) -> tuple[bytes, int]:
        end = position + size
        if end > len(data):
            raise ValueError("data ends inside a value")
        return form(data[position:end]), end

    return Codec(avro, encode, decode)


STRING: Final = Codec("string", encode_text, decode_text)
UUID: Final = Codec({"type": "string", "logicalType": "uuid"}, encode_text, decode_text)
INT: Final = Codec("int", _encode_int, _decode_int)
LONG: Final = Codec("long", _encode_integer, _decode_integer)
BOOLEAN: Final = Codec("boolean", _encode_boolean, _decode_boolean)
BYTES: Final = Codec("bytes", _encode_bytea, _decode_bytea)
FLOAT: Final = _fixed_codec("float", 4, encode_float4, decode_float4)
DOUBLE: Final = _fixed_codec("double", 8, encode_float8, decode_float8)
DATE: Final = _number_codec("int", "date", parse_date, format_date)
TIME: Final = _number_codec("long", "time-micros", parse_time, format_time)
TIMESTAMP: Final = _number_codec("long", "local-timestamp-micros", parse_timestamp, format_timestamp)
TIMESTAMPTZ: Final = _number_codec("long", "timestamp-micros", parse_timestamptz, format_timestamptz)

_CODECS: Final = {
    16: BOOLEAN,
    BYTEA: BYTES,
    20: LONG,
    21: INT,
    23: INT,
    26: LONG,  # oid, xid, cid: unsigned 32 bits
    28: LONG,
    29: LONG,
    700: FLOAT,
    701: DOUBLE,
    1082: DATE,
    1083: TIME,
    1114: TIMESTAMP,
    1184: TIMESTAMPTZ,
    2950: UUID,
}


def codec_of(type_oid: int) -> Codec:
    """The codec of a PostgreSQL type; text-like, composed and unknown types are STRING."""
    return _CODECS.get(type_oid, STRING)
