"""The hot loop of capture where there is no C (schemas.rowcode): TupleData → Avro, by Python source that is
written for one table version and compiled.

A generic loop pays for every column: which type is it, call its codec, append the result. The source made
here has all of that decided. Text, most of a CRM, costs a look-up for pgoutput's header and a slice; the
usual integers, booleans and timestamps are put together from tables too; the rest calls its codec. The
source holds numbers only, never a name from the database.

Compiled code only recognises well-formed input. Whatever it stumbles over is left to `refuse`, which reads
the same bytes again slowly to say which column and what is wrong, and never returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from schemas.pgcodec import BOOLEAN, DATE, FLOAT, INT, LONG, STRING, TIMESTAMP, TIMESTAMPTZ, UUID, Codec
from schemas.pgtime import CLOCK_US, DAY_START_US
from schemas.rowform import VALUE_BRANCH, Refuse, RowEncoder, parse_length, read_length
from schemas.varint import PAIR, PAIR_MASK, SHORT, encode_long

_MEMO_LIMIT: Final = 1 << 16

# The zigzag of a timestamp between 1970 and 3111 fills exactly four of varint's pairs. A part that is
# not in its table poisons the sum, which sends the value to its codec.
_FOUR_PAIRS_FROM: Final = 1 << 42
_FOUR_PAIRS_UNTIL: Final = 1 << 56
_POISON: Final = -1 << 60
_ZERO: Final = ord("0")

_BRANCH_PAIR: Final = tuple(VALUE_BRANCH + pair for pair in PAIR)
_BOOLEANS: Final = {b"t\0\0\0\x01t": b"\x02\x01", b"t\0\0\0\x01f": b"\x02\x00"}


class _Texts(dict[bytes, tuple[int, bytes]]):
    """A column's header → length, Avro's branch and length. Usual lengths are there from the start."""

    def __missing__(self, header: bytes) -> tuple[int, bytes]:
        length = parse_length(header)
        return length, VALUE_BRANCH + encode_long(length)


class _Lengths(dict[bytes, int]):
    """A column's header → length."""

    def __missing__(self, header: bytes) -> int:
        return parse_length(header)


class _Memo(dict[bytes, bytes]):
    """Values that repeat from row to row, already encoded; bounded by forgetting all at once."""

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, text: bytes) -> bytes:
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        encoded = VALUE_BRANCH + self._encode(text)
        if len(text) <= 32:
            self[text] = encoded
        return encoded


class _Integers(dict[bytes, bytes]):
    """An integer, encoded. Small ones are there from the start, the others are not remembered: ids do
    not repeat."""

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        super().__init__((b"%d" % n, VALUE_BRANCH + encode_long(n)) for n in range(-128, len(SHORT) // 2))
        self._encode = encode

    def __missing__(self, text: bytes) -> bytes:
        if text.isdigit() and text[0] != _ZERO and len(text) <= 8:
            zigzag = int(text) << 1
            return _BRANCH_PAIR[zigzag & PAIR_MASK] + SHORT[zigzag >> 14]
        return VALUE_BRANCH + self._encode(text)


class _Zigzags(dict[bytes, int]):
    """A part of a timestamp's text → its microseconds times two; poison for what is no such part."""

    def __init__(self, micros: dict[bytes, int]) -> None:
        super().__init__()
        self._micros = micros

    def __missing__(self, text: bytes) -> int:
        if len(self) >= _MEMO_LIMIT * 2:
            self.clear()
        try:
            zigzag = self[text] = self._micros[text] << 1
        except (ValueError, KeyError):
            return _POISON
        return zigzag


def _fractions(zone: bytes) -> dict[bytes, int]:
    """No fraction, or up to three digits without trailing zeros, before the zone."""
    fractions = {zone: 0}
    for millis in range(1, 1000):
        fractions[b"." + (b"%03d" % millis).rstrip(b"0") + zone] = millis * 1000
    return fractions


def _last_digits(zone: bytes) -> dict[bytes, int]:
    return {b"%03d" % micros + zone: micros for micros in range(1000) if micros % 10}


_TEXTS: Final = _Texts((b"t" + n.to_bytes(4), (n, VALUE_BRANCH + encode_long(n))) for n in range(1 << 12))
_LENGTHS: Final = _Lengths((b"t" + n.to_bytes(4), n) for n in range(1 << 12))
_INTS: Final = _Integers(INT.encode)
_LONGS: Final = _Integers(LONG.encode)
_DATES: Final = _Memo(DATE.encode)
_FLOATS: Final = _Memo(FLOAT.encode)
_DAYS: Final = _Zigzags(DAY_START_US)
_CLOCKS: Final = _Zigzags(CLOCK_US)
_MILLIS: Final = _Zigzags({b".%03d" % millis: millis * 1000 for millis in range(1000)})
_MICROS: Final = {zone: _Zigzags(_last_digits(zone)) for zone in (b"", b"+00")}
_FRACTIONS: Final = {zone: _Zigzags(_fractions(zone)) for zone in (b"", b"+00")}


def compile_python_encoder(codecs: Sequence[Codec | None], refuse: Refuse, *, whole: bool) -> RowEncoder:
    """See `schemas.rowcode.compile_encoder`."""
    body: list[str] = []
    parts: list[str] = []
    scope: dict[str, Any] = {**_SCOPE, "count": len(codecs).to_bytes(2), "refuse": refuse}
    place = 0
    for index, codec in enumerate(codecs):
        if codec is None:
            body += _SKIP.splitlines()
            continue
        value, names = _column_source(codec, index, scope)
        null = "".join(f"\n    {name}# = b''" for name in names[1:])
        source = _COLUMN if whole else _KEY_COLUMN
        source = source.replace("VALUE", value.strip().replace("\n", "\n    ")).replace(
            "NULL", "a# = b'\\0'" + null
        )
        body += source.replace("#", str(index)).replace("PLACE", str(place)).splitlines()
        place += 1
        parts += [f"{name}{index}" for name in names]
    lines = [*_HEAD.splitlines(), *(f"        {line}" for line in body), *_TAIL.splitlines()]
    scope["source"] = "\n".join(lines).replace("PARTS", ", ".join(parts) + ("," if parts else ""))
    exec(compile(scope["source"], "<row encoder>", "exec"), scope)  # noqa: S102 - made here, of numbers only
    encoder: RowEncoder = scope["encode"]
    return encoder


def _column_source(codec: Codec, index: int, scope: dict[str, Any]) -> tuple[str, str]:
    """The statements that encode a `t` column, and the variables that then hold its parts."""
    scope[f"encode{index}"] = codec.encode
    if codec in (STRING, UUID):
        return _TEXT, "ab"
    if codec is BOOLEAN:
        return _BOOLEAN, "a"
    for known, table in ((INT, "ints"), (LONG, "longs"), (DATE, "dates"), (FLOAT, "floats")):
        if codec is known:
            return _FROM_TABLE.replace("TABLE", table), "a"
    if codec in (TIMESTAMP, TIMESTAMPTZ):
        zone = b"" if codec is TIMESTAMP else b"+00"
        scope[f"micros{index}"], scope[f"fractions{index}"] = _MICROS[zone], _FRACTIONS[zone]
        return _TIMESTAMP.replace("26", str(26 + len(zone))), "abcd"
    return _OTHER, "a"


_SCOPE: Final[dict[str, Any]] = {
    "texts": _TEXTS,
    "lengths": _LENGTHS,
    "ints": _INTS,
    "longs": _LONGS,
    "booleans": _BOOLEANS,
    "dates": _DATES,
    "floats": _FLOATS,
    "days": _DAYS,
    "clocks": _CLOCKS,
    "millis": _MILLIS,
    "branch_pair": _BRANCH_PAIR,
    "pair": PAIR,
    "short": SHORT,
    "read_length": read_length,
    "join": b"".join,
}
_HEAD: Final = """\
def encode(m, position):
    p = position + 2
    try:
        if m[position:p] != count:
            refuse(m, position)
        absent = ()
"""
_TAIL: Final = """\
    except (ValueError, LookupError):
        refuse(m, position)
    if p > len(m):
        refuse(m, position)
    return join((PARTS)), absent, p
"""
_KEY_COLUMN: Final = """\
if m[p] == 116:
    VALUE
elif m[p] == 110:
    NULL
    p += 1
else:
    refuse(m, position)
"""
_COLUMN: Final = """\
if m[p] == 116:
    VALUE
elif m[p] == 110:
    NULL
    p += 1
elif m[p] == 117:
    NULL
    absent += (PLACE,)
    p += 1
else:
    refuse(m, position)
"""
_SKIP: Final = """\
if m[p] == 110 or m[p] == 117:
    p += 1
else:
    p += 5 + read_length(m, p)
"""
_TEXT: Final = """
q = p + 5
n, a# = texts[m[p:q]]
p = q + n
b# = m[q:p]
"""
_BOOLEAN: Final = """
q = p + 6
a# = booleans[m[p:q]]
p = q
"""
_FROM_TABLE: Final = """
q = p + 5
p = q + lengths[m[p:q]]
a# = TABLE[m[q:p]]
"""
_TIMESTAMP: Final = f"""
q = p + 5
n = lengths[m[p:q]]
p = q + n
r = q + 19
z = days[m[q:q + 10]] + clocks[m[q + 10:r]]
if n == 26:
    z += millis[m[r:r + 4]] + micros#[m[r + 4:p]]
else:
    z += fractions#[m[r:p]]
if {_FOUR_PAIRS_FROM} <= z < {_FOUR_PAIRS_UNTIL}:
    a# = branch_pair[z & {PAIR_MASK}]
    b# = pair[z >> 14 & {PAIR_MASK}]
    c# = pair[z >> 28 & {PAIR_MASK}]
    d# = short[z >> 42]
else:
    a# = b'\\2' + encode#(m[q:p])
    b# = c# = d# = b''
"""
_OTHER: Final = """
q = p + 5
p = q + lengths[m[p:q]]
a# = b'\\2' + encode#(m[q:p])
"""
