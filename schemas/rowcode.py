"""The row code in C, where a compiler was at hand when Keepstream was installed (docs/decisions/007).

`encode_row` and `decode_row` are those of `schemas/_rowcode.c`, or None: then rowencoder and rowdecoder write
the same in Python. Which columns it does by itself is told by letters; the rest it leaves to their codecs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from schemas.compiled import find_compiled
from schemas.pgcodec import BOOLEAN, INT, LONG, STRING, TIMESTAMP, TIMESTAMPTZ, UUID, Codec

encode_row = find_compiled("schemas._rowcode", "encode_row")
decode_row = find_compiled("schemas._rowcode", "decode_row")

COMPILED: Final = encode_row is not None and decode_row is not None
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


def kinds_of(codecs: Iterable[Codec], only: Sequence[int] | None = None) -> bytes:
    """A letter for each column. only: the columns that are not to be skipped."""
    return b"".join(
        SKIPPED
        if only is not None and index not in only
        else next((kind for known, kind in _KINDS if codec is known), _OTHER)
        for index, codec in enumerate(codecs)
    )
