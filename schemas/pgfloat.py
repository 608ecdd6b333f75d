"""float4 and float8 as PostgreSQL writes them under `extra_float_digits = 1`.

PostgreSQL (common/d2s.c, f2s.c) writes the shortest decimal that lies *strictly* between the midpoints
to the neighbouring floats. Python's repr() accepts a midpoint itself. The two can differ only where the
neighbours are two or more apart: below that a midpoint has more digits than the float. There, for
subnormal float4, and wherever C's rounding to n digits is no proof, the digits are found exactly, with
integers.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Final

_FLOAT4: Final = struct.Struct("<f")
_FLOAT4_BITS: Final = struct.Struct("<I")
_FLOAT8: Final = struct.Struct("<d")

_SPECIAL: Final = {b"NaN": math.nan, b"Infinity": math.inf, b"-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class _Width:
    """One of the two sizes: `mantissa_bits` with the hidden one; the smallest exponent of its last bit;
    the decimal exponent from which PostgreSQL writes `e`; digits that are always enough."""

    mantissa_bits: int
    least_exponent: int
    scientific_from: int
    digits: int


_SINGLE: Final = _Width(24, -149, 6, 9)
_DOUBLE: Final = _Width(53, -1074, 15, 17)


def encode_float8(text: bytes) -> bytes:
    """PostgreSQL's text → 8 bytes. Raises ValueError if the text is not what PostgreSQL would write."""
    value = _parse(text)
    if format_float8(value) != text:
        raise ValueError("not a float8 in PostgreSQL's form")
    return _FLOAT8.pack(value)


def decode_float8(data: bytes) -> bytes:
    """8 bytes → PostgreSQL's text. NaNs lose their payload, which PostgreSQL does not show either."""
    return format_float8(_FLOAT8.unpack(data)[0])


def encode_float4(text: bytes) -> bytes:
    """PostgreSQL's text → 4 bytes. Raises ValueError if the text is not what PostgreSQL would write."""
    try:
        packed = _FLOAT4.pack(_parse(text))
    except OverflowError:
        raise ValueError("beyond float4") from None
    if decode_float4(packed) == text:
        return packed
    # float() rounded to a double first; that can fall on a midpoint and then to the neighbour.
    bits = _FLOAT4_BITS.unpack(packed)[0]
    for neighbour in (bits + 1, bits - 1):
        if 0 <= neighbour < 1 << 32:
            packed = _FLOAT4_BITS.pack(neighbour)
            if decode_float4(packed) == text:
                return packed
    raise ValueError("not a float4 in PostgreSQL's form")


def decode_float4(data: bytes) -> bytes:
    """4 bytes → PostgreSQL's text."""
    return format_float4(_FLOAT4.unpack(data)[0])


def format_float8(value: float) -> bytes:
    """float8out."""
    magnitude = abs(value)
    if 1e-4 <= magnitude < 1e15:
        return repr(value).removesuffix(".0").encode()
    if magnitude < 2.0**53 or not math.isfinite(value):
        return _format_edge(value) or _render(value, *_split(repr(magnitude)), _DOUBLE)
    return _render(value, *_shortest(magnitude, _DOUBLE), _DOUBLE)


def format_float4(value: float) -> bytes:
    """float4out, of a float that a float4 can hold."""
    magnitude = abs(value)
    if 2.0**-126 <= magnitude < 2.0**24:
        # Six digits survive float4; if they come back they are also strictly inside the midpoints.
        text = f"{magnitude:.5e}"
        if _FLOAT4.unpack(_FLOAT4.pack(float(text)))[0] == magnitude:
            return _render(value, *_split(text), _SINGLE)
    return _format_edge(value) or _render(value, *_shortest(magnitude, _SINGLE), _SINGLE)


def _parse(text: bytes) -> float:
    if text in _SPECIAL:
        return _SPECIAL[text]
    if text[-1:].isdigit():
        try:
            return float(text)
        except ValueError:
            pass
    raise ValueError("not a float")


def _format_edge(value: float) -> bytes:
    """Zeros and what is no number; empty for anything else."""
    if value != value:
        return b"NaN"
    if math.isinf(value):
        return b"Infinity" if value > 0 else b"-Infinity"
    if value == 0:
        return b"-0" if math.copysign(1, value) < 0 else b"0"
    return b""


def _split(text: str) -> tuple[str, int]:
    """repr() of a positive float → its digits and the decimal exponent of the first one."""
    mantissa, _, exponent = text.partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    leading_zeros = len(whole + fraction) - len(digits)
    return digits.rstrip("0"), int(exponent or 0) + len(whole) - 1 - leading_zeros


def _shortest(magnitude: float, width: _Width) -> tuple[str, int]:
    """The shortest digits strictly inside the rounding interval, the closest of them, and the decimal
    exponent of the first. All in integers: the interval is (low, high) / denominator."""
    fraction, exponent = math.frexp(magnitude)
    exponent = max(exponent - width.mantissa_bits, width.least_exponent)
    mantissa = int(math.ldexp(magnitude, -exponent)) if exponent < 0 else int(magnitude) >> exponent
    below = 1 if fraction == 0.5 and exponent > width.least_exponent else 2  # quarters of the last bit
    numerator = 1 << max(exponent - 2, 0)
    denominator = 1 << max(2 - exponent, 0)
    value, low, high = (n * numerator for n in (4 * mantissa, 4 * mantissa - below, 4 * mantissa + 2))
    ten = math.floor(math.log10(magnitude)) + 1  # may be one too high: then one digit more is looked at
    for digits in range(width.digits + 2):
        power = ten - digits
        over, under = 10 ** max(power, 0) * denominator, 10 ** max(-power, 0)
        down = value * under // over
        inside = [n for n in (down, down + 1) if low * under < n * over < high * under]
        if inside:
            best = min(inside, key=lambda n: (abs(n * over - value * under), n & 1))
            text = str(best)
            return text.rstrip("0"), power + len(text) - 1
    raise AssertionError("seventeen digits tell any two floats apart")


def _render(value: float, digits: str, exponent: int, width: _Width) -> bytes:
    """Digits and exponent the way PostgreSQL lays them out: plain from 1e-4, `e` with two digits else."""
    sign = "-" if value < 0 else ""
    if not -4 <= exponent < width.scientific_from:
        point = "." if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{point}{digits[1:]}e{exponent:+03d}".encode()
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}".encode()
    whole, fraction = digits[: exponent + 1].ljust(exponent + 1, "0"), digits[exponent + 1 :]
    return f"{sign}{whole}{'.' if fraction else ''}{fraction}".encode()
