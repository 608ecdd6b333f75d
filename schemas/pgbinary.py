"""PostgreSQL's binary send forms of built-in types → the text that their output functions write under our
session settings. Pure: only of types whose text needs no catalog.

A form that is not the one known here raises ValueError (struct.error, IndexError): nothing is guessed.
"""

from __future__ import annotations

import struct
from binascii import hexlify
from collections.abc import Callable, Mapping
from typing import Final

from schemas.pgfloat import format_float4, format_float8
from schemas.pgtime import format_date, format_time, format_timestamp, format_timestamptz
from schemas.pgtypes import BYTEA
from schemas.varint import INT_MAX, INT_MIN, LONG_MAX, LONG_MIN

ToText = Callable[[memoryview], bytes]

_EPOCH_DAYS: Final = 10_957  # 2000-01-01, PostgreSQL's zero, since 1970
_EPOCH_US: Final = _EPOCH_DAYS * 86_400_000_000
_OVERFLOW: Final = LONG_MAX - (LONG_MIN + 1)  # schemas.pgtime
_BASE_DIGITS: Final = 4
_MINUS: Final = 0x4000
_NUMERIC_HEAD: Final = struct.Struct(">hhHH")
_VECTOR_HEAD_BYTES: Final = 20
_SPECIAL_NUMERICS: Final = {0xC000: b"NaN", 0xD000: b"Infinity", 0xF000: b"-Infinity"}

AS_TEXT: Final = frozenset({19, 25, 114, 142, 1042, 1043, 1790})
"""Their send form is their text: name, text, json, xml, bpchar, varchar, refcursor. (xml_send declares no
encoding where the client's is UTF-8.) An enum's is, too: its label of then."""

VERSIONED: Final = frozenset({3802, 4072})
"""jsonb, jsonpath: a byte 1, then their text."""

TSQUERY: Final = 3615
EMPTY_TSQUERY: Final = bytes(4)
"""A count of no operands: PostgreSQL sends it and refuses to read it."""


def text_after_version(form: memoryview) -> memoryview:
    """Raises ValueError for a version that we do not know."""
    if form[0] != 1:
        raise ValueError("an unknown version of a binary form")
    return form[1:]


def _boolean(form: memoryview) -> bytes:
    return {b"\0": b"f", b"\1": b"t"}[bytes(form)]


def _integer(width: int, *, signed: bool) -> ToText:
    def convert(form: memoryview) -> bytes:
        if len(form) != width:
            raise ValueError("an integer of another width")
        return b"%d" % int.from_bytes(form, signed=signed)

    return convert


def _char(form: memoryview) -> bytes:
    """ "char": one byte; 0 is the empty text, and what is no ASCII is written in octal."""
    (code,) = form
    if code == 0:
        return b""
    return b"\\%03o" % code if code >= 0x80 else bytes(form)


def _float4(form: memoryview) -> bytes:
    return format_float4(struct.unpack(">f", form)[0])


def _float8(form: memoryview) -> bytes:
    return format_float8(struct.unpack(">d", form)[0])


def _uuid(form: memoryview) -> bytes:
    text = hexlify(form)
    if len(text) != 32:
        raise ValueError("a UUID of another width")
    return b"-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _date(form: memoryview) -> bytes:
    (day,) = struct.unpack(">i", form)
    return format_date(day if day in (INT_MIN, INT_MAX) else day + _EPOCH_DAYS)


def _time(form: memoryview) -> bytes:
    return format_time(struct.unpack(">q", form)[0])


def _since_1970(form: memoryview) -> int:
    """As schemas.pgtime counts: the last thirty years are past int64 and stand elsewhere."""
    micros: int = struct.unpack(">q", form)[0]
    if micros in (LONG_MIN, LONG_MAX):
        return micros
    micros += _EPOCH_US
    return micros if micros < LONG_MAX else micros - _OVERFLOW


def _timestamp(form: memoryview) -> bytes:
    return format_timestamp(_since_1970(form))


def _timestamptz(form: memoryview) -> bytes:
    return format_timestamptz(_since_1970(form))


def _numeric(form: memoryview) -> bytes:
    """Int16 count of digits, weight of the first, sign, display scale; digits in base 10000."""
    count, weight, sign, scale = _NUMERIC_HEAD.unpack_from(form)
    if sign in _SPECIAL_NUMERICS:
        return _SPECIAL_NUMERICS[sign]
    if sign not in (0, _MINUS):
        raise ValueError("an unknown sign of a numeric")
    digits = struct.unpack(f">{count}H", form[_NUMERIC_HEAD.size :])
    whole = digits[: weight + 1] + (0,) * (weight + 1 - count) if weight >= 0 else (0,)
    text = b"%d" % whole[0] + b"".join([b"%04d" % digit for digit in whole[1:]])
    if scale:
        places = (0,) * max(-weight - 1, 0) + digits[max(weight + 1, 0) :]
        fraction = b"".join([b"%04d" % digit for digit in places[: scale // _BASE_DIGITS + 1]])
        text += b"." + fraction.ljust(scale, b"0")[:scale]
    return b"-" + text if sign else text


def _vector(width: int, *, signed: bool) -> ToText:
    """int2vector, oidvector: an array of one dimension. PostgreSQL sends an empty one and refuses to read
    it."""

    def convert(form: memoryview) -> bytes:
        (count,) = struct.unpack_from(">i", form, 12)
        step = 4 + width
        if len(form) != _VECTOR_HEAD_BYTES + count * step:
            raise ValueError("a vector of another size")
        ends = range(_VECTOR_HEAD_BYTES + step, len(form) + 1, step)
        return b" ".join([b"%d" % int.from_bytes(form[end - width : end], signed=signed) for end in ends])

    return convert


def bytea_text(form: memoryview) -> bytes:
    """A bytea in hex, twice as long."""
    return b"\\x" + hexlify(form)


TEXTS: Final[Mapping[int, ToText]] = {
    16: _boolean,
    BYTEA: bytea_text,
    18: _char,
    20: _integer(8, signed=True),
    21: _integer(2, signed=True),
    22: _vector(2, signed=True),
    23: _integer(4, signed=True),
    26: _integer(4, signed=False),  # oid, xid, cid, xid8
    28: _integer(4, signed=False),
    29: _integer(4, signed=False),
    5069: _integer(8, signed=False),
    30: _vector(4, signed=False),
    700: _float4,
    701: _float8,
    1082: _date,
    1083: _time,
    1114: _timestamp,
    1184: _timestamptz,
    1700: _numeric,
    2950: _uuid,
}
"""By the type's OID, where it is neither of AS_TEXT nor VERSIONED."""
