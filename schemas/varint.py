"""Avro's int and long: zigzag, then seven bits a byte, least significant first.

Rows are made of these, so the usual sizes come from tables. `SHORT[z]` is the whole encoding of the
zigzag value z below 2**14; `PAIR[z]` is the same 14 bits as two bytes with more to come. A long is
then a few look-ups: PAIR of each lower 14 bits, SHORT of the rest. PAIR_VALUE and LAST_PAIR_VALUE lead back.
"""

from __future__ import annotations

from typing import Final

INT_MIN: Final = -(2**31)
INT_MAX: Final = 2**31 - 1
LONG_MIN: Final = -(2**63)
LONG_MAX: Final = 2**63 - 1

_LONG_BITS: Final = 64
_PAIR_BITS: Final = 14
PAIR_MASK: Final = (1 << _PAIR_BITS) - 1

SHORT: Final = tuple(
    bytes((z,)) if z < 0x80 else bytes((z & 0x7F | 0x80, z >> 7)) for z in range(1 << _PAIR_BITS)
)
PAIR: Final = tuple(bytes((z & 0x7F | 0x80, z >> 7 | 0x80)) for z in range(1 << _PAIR_BITS))
PAIR_VALUE: Final = {pair: value for value, pair in enumerate(PAIR)}
LAST_PAIR_VALUE: Final = {pair: value for value, pair in enumerate(SHORT) if len(pair) == 2}


def encode_long(value: int) -> bytes:
    """Raises ValueError outside int64."""
    if not LONG_MIN <= value <= LONG_MAX:
        raise ValueError("not a 64-bit integer")
    rest = value << 1 if value >= 0 else ~(value << 1)
    if rest <= PAIR_MASK:
        return SHORT[rest]
    encoded = PAIR[rest & PAIR_MASK]
    rest >>= _PAIR_BITS
    while rest > PAIR_MASK:
        encoded += PAIR[rest & PAIR_MASK]
        rest >>= _PAIR_BITS
    return encoded + SHORT[rest]


def decode_long(data: bytes, position: int) -> tuple[int, int]:
    """The value at `position` and the position after it.

    Raises ValueError if the data ends too early, the value is no int64 or is not in its shortest form.
    """
    zigzag = shift = 0
    pair = data[position : position + 2]
    while (low := PAIR_VALUE.get(pair)) is not None:
        zigzag |= low << shift
        shift += _PAIR_BITS
        if shift > _LONG_BITS:
            raise ValueError("an integer of more than 64 bits")
        position += 2
        pair = data[position : position + 2]
    if (last := LAST_PAIR_VALUE.get(pair)) is not None:
        position += 2
    else:
        if len(pair) < 2 and (not pair or pair[0] & 0x80):
            raise ValueError("data ends inside an integer")
        last = pair[0]
        position += 1
        if last & 0x80 or (shift and not last):
            raise ValueError("an integer longer than it need be")
    zigzag |= last << shift
    if zigzag >> _LONG_BITS:
        raise ValueError("an integer of more than 64 bits")
    return zigzag >> 1 ^ -(zigzag & 1), position
