"""The hot loop of apply where there is no C (schemas.rowcode): an Avro row → PostgreSQL's texts. It undoes
what schemas.rowencoder does, in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from schemas.pgcodec import INT, LONG, STRING, TIMESTAMP, TIMESTAMPTZ, UUID, Codec, decode_text
from schemas.pgtime import DAY_TEXT, DAY_US, SECOND_US
from schemas.rowform import Refuse, RowDecoder
from schemas.varint import LAST_PAIR_VALUE, PAIR_VALUE

_SMALL_TEXTS: Final = tuple(b"%d" % (z >> 1 ^ -(z & 1)) for z in range(0x80))


class _OrPoison(dict[bytes, int]):
    """Bytes of a varint → their bits; what does not fit poisons the sum, which then goes to the codec."""

    def __missing__(self, pair: bytes) -> int:
        return -1


class _Clocks(dict[int, bytes]):
    """Seconds since midnight → ` 12:34:56`; at most 86 400 entries."""

    def __missing__(self, seconds: int) -> bytes:
        minutes, second = divmod(seconds, 60)
        hour, minute = divmod(minutes, 60)
        text = self[seconds] = b" %02d:%02d:%02d" % (hour, minute, second)
        return text


_SCOPE: Final[dict[str, Any]] = {
    "decode_text": decode_text,
    "small": _SMALL_TEXTS,
    "pairs": _OrPoison(PAIR_VALUE),
    "last": _OrPoison(LAST_PAIR_VALUE),
    "days": DAY_TEXT,
    "clocks": _Clocks(),
    # A fraction of six digits is three and three; trailing zeros are not written.
    "millis": tuple(b".%03d" % n for n in range(1000)),
    "micros": tuple((b"%03d" % n).rstrip(b"0") for n in range(1000)),
    "fractions": tuple((b".%03d" % n).rstrip(b"0").rstrip(b".") for n in range(1000)),
    "join": b"".join,
}


def compile_python_decoder(codecs: Sequence[Codec], refuse: Refuse) -> RowDecoder:
    """See `schemas.rowcode.compile_decoder`."""
    body: list[str] = []
    scope: dict[str, Any] = {**_SCOPE, "refuse": refuse}
    for index, codec in enumerate(codecs):
        scope[f"decode{index}"] = codec.decode
        body += (_value_source(codec) + _NULL).replace("#", str(index)).splitlines()
    values = ", ".join(f"v{index}" for index in range(len(codecs)))
    lines = [*_HEAD.splitlines(), *(f"        {line}" for line in body), *_TAIL.splitlines()]
    source = "\n".join(lines).replace("VALUES", values)
    exec(compile(source, "<row decoder>", "exec"), scope)  # noqa: S102 - made here, of numbers only
    decoder: RowDecoder = scope["decode"]
    return decoder


def _value_source(codec: Codec) -> str:
    if codec in (STRING, UUID):
        return _TEXT
    if codec in (INT, LONG):
        return _INTEGER
    if codec in (TIMESTAMP, TIMESTAMPTZ):
        return _TIMESTAMP.replace("ZONE", "" if codec is TIMESTAMP else ", b'+00'")
    return _OTHER


_HEAD: Final = """\
def decode(data, position):
    p = position
    try:
        pass
"""
_TAIL: Final = """\
    except (ValueError, IndexError):
        refuse(data, position)
    if p != len(data):
        refuse(data, position)
    return [VALUES]
"""
_NULL: Final = """\
elif data[p]:
    refuse(data, position)
else:
    v# = None
    p += 1
"""
_TEXT: Final = """\
if data[p] == 2:
    n = data[p + 1]
    if n & 129:
        v#, p = decode_text(data, p + 1)
    else:
        q = p + 2
        p = q + (n >> 1)
        v# = data[q:p]
"""
_INTEGER: Final = """\
if data[p] == 2:
    n = data[p + 1]
    if n < 128:
        v# = small[n]
        p += 2
    else:
        v#, p = decode#(data, p + 1)
"""
# Eight bytes hold the times between 1970 and 3111; an odd zigzag is before 1970.
_TIMESTAMP: Final = f"""\
if data[p] == 2:
    q = p + 3
    r = p + 5
    s = p + 7
    t = p + 9
    z = pairs[data[p + 1:q]] | pairs[data[q:r]] << 14 | pairs[data[r:s]] << 28 | last[data[s:t]] << 42
    if z < 0 or z & 1:
        v#, p = decode#(data, p + 1)
    else:
        p = t
        z, n = divmod(z >> 1, {DAY_US})
        s, n = divmod(n, {SECOND_US})
        if n:
            r, n = divmod(n, 1000)
            if n:
                v# = join((days[z], clocks[s], millis[r], micros[n]ZONE))
            else:
                v# = join((days[z], clocks[s], fractions[r]ZONE))
        else:
            v# = join((days[z], clocks[s]ZONE))
"""
_OTHER: Final = """\
if data[p] == 2:
    v#, p = decode#(data, p + 1)
"""
