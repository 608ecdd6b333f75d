"""The row code in C, where a compiler was at hand when Keepstream was installed (docs/decisions/007).

`encode_row` and `decode_row` are those of `schemas/_rowcode.c`, or None: then rowencoder and rowdecoder write
the same in Python. Which columns it does by itself is told by letters; the rest it leaves to their codecs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from schemas.pgcodec import BOOLEAN, INT, LONG, STRING, TIMESTAMP, TIMESTAMPTZ, UUID, Codec

encode_row: Callable[..., Any] | None
decode_row: Callable[..., Any] | None
try:
    from schemas import _rowcode
except ImportError:
    encode_row = decode_row = None
else:
    encode_row, decode_row = _rowcode.encode_row, _rowcode.decode_row

COMPILED: Final = encode_row is not None
SKIPPED: Final = b"x"
_OTHER: Final = b"?"
_KINDS: Final = (
    (STRING, b"s"),
    (UUID, b"s"),
    (INT, b"i"),
    (LONG, b"l"),
    (BOOLEAN, b"b"),
    (TIMESTAMP, b"t"),
    (TIMESTAMPTZ, b"z"),
)


def kinds_of(codecs: Iterable[Codec]) -> list[bytes]:
    """A letter for each column."""
    return [next((kind for known, kind in _KINDS if codec is known), _OTHER) for codec in codecs]
