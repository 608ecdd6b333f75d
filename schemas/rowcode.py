"""The hot loops of capture and apply: TupleData → Avro row, and that → PostgreSQL's texts.

They are those of `schemas/_rowcode.c` where a compiler was at hand when Keepstream was installed
(docs/decisions/007), else rowencoder and rowdecoder write the same in Python. Which columns C does by itself
is told by letters; the rest it leaves to their codecs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from schemas.compiled import find_compiled
from schemas.pgcodec import (
    BOOLEAN,
    BYTES,
    DATE,
    DOUBLE,
    FLOAT,
    INT,
    LONG,
    STRING,
    TIME,
    TIMESTAMP,
    TIMESTAMPTZ,
    UUID,
    Codec,
)
from schemas.rowform import Refuse, RowDecoder, RowEncoder

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
    (DATE, b"d"),
    (TIME, b"c"),
    (FLOAT, b"4"),
    (DOUBLE, b"8"),
    (BYTES, b"h"),
    (TIMESTAMP, b"t"),
    (TIMESTAMPTZ, b"z"),
)


def kinds_of(codecs: Iterable[Codec | None]) -> bytes:
    """A letter for each column; None: it is skipped."""
    return b"".join(
        SKIPPED if codec is None else next((kind for known, kind in _KINDS if codec is known), _OTHER)
        for codec in codecs
    )


def encoders_of(codecs: Iterable[Codec | None]) -> tuple[Callable[[bytes], bytes], ...]:
    """What C calls where it does not know a column's type; never for one that is skipped."""
    return tuple(STRING.encode if codec is None else codec.encode for codec in codecs)


def compile_encoder(codecs: Sequence[Codec | None], refuse: Refuse, *, whole: bool) -> RowEncoder:
    """An encoder from TupleData to an Avro record of the columns that have a codec; others are skipped.

    whole: `u` columns become null, and their indexes in the record are listed as absent. Else there is no
    `u` among them.
    """
    if encode_row is None:
        # Its tables take memory, and time to make.
        from schemas.rowencoder import compile_python_encoder

        return compile_python_encoder(codecs, refuse, whole=whole)
    return partial(encode_row, kinds_of(codecs), encoders_of(codecs), whole, refuse)


def compile_decoder(codecs: Sequence[Codec], refuse: Refuse) -> RowDecoder:
    """A decoder from an Avro record that fills the data from a position on, to PostgreSQL's texts."""
    if decode_row is None:
        from schemas.rowdecoder import compile_python_decoder

        return compile_python_decoder(codecs, refuse)
    decoders = tuple(codec.decode for codec in codecs)
    return partial(decode_row, kinds_of(codecs), decoders, refuse)
