"""Rows under fire, by the C and the Python: any bytes are one row, the same to both, or refused by both."""

from __future__ import annotations

from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.replication.pgoutput import parse_tuple
from schemas.avro import RowCodec, key_encoder, row_encoder
from schemas.change import TextValue
from schemas.errors import KeepstreamError
from schemas.pgcodec import codec_of
from schemas.rowcode import COMPILED, compile_decoder, compile_encoder
from schemas.rowdecoder import compile_python_decoder
from schemas.rowencoder import compile_python_encoder
from schemas.table import Column, ReplicaIdentity, TableSchema
from schemas.varint import encode_long
from tests.damage import edited, odd_bytes

OIDS = [16, 17, 20, 21, 23, 25, 26, 700, 701, 1082, 1083, 1114, 1184, 1700, 2950]
longs = st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 300) | st.integers(2**52, 2**58)
pieces = st.one_of(
    st.sampled_from([b"\0", b"\2", b"\2\2", b"\4", b"\1"]),
    longs.map(encode_long),
    longs.map(lambda value: b"\2" + encode_long(value)),
    st.binary(max_size=9).map(lambda text: b"\2" + encode_long(len(text)) + text),
    odd_bytes,
)
tables = st.lists(st.sampled_from(OIDS), max_size=6).map(
    lambda oids: TableSchema(
        "public",
        "t",
        ReplicaIdentity.DEFAULT,
        tuple(Column(f"c{i}", oid, -1, str(oid), key=i == 0) for i, oid in enumerate(oids)),
    )
)


class Refused(Exception):
    pass


def refuse(data: bytes, position: int) -> NoReturn:
    raise Refused(data, position)


def outcomes(table: TableSchema, data: bytes, position: int) -> list[list[bytes | None] | None]:
    """What each decoder makes of it; None: refused."""
    codecs = [codec_of(column.type_oid) for column in table.columns]
    made: list[list[bytes | None] | None] = []
    for compiled in (compile_decoder, compile_python_decoder):
        try:
            made.append(compiled(codecs, refuse)(data, position))
        except Refused:
            made.append(None)
    return made


@given(tables, st.lists(pieces, max_size=10), st.integers(0, 2))
def test_any_bytes_are_one_row_to_both_decoders_or_to_none(
    table: TableSchema, parts: list[bytes], position: int
) -> None:
    data = b"".join(parts)
    by_c, by_python = outcomes(table, bytes(position) + data, position)
    assert by_c == by_python
    if by_c is not None and b"NaN" not in by_c:  # PostgreSQL does not tell one NaN from another
        assert RowCodec(table).encode_row(by_c)[0] == data


values = {
    16: st.sampled_from([b"t", b"f"]),
    17: st.binary(max_size=6).map(lambda raw: b"\\x" + raw.hex().encode()),
    25: st.binary(max_size=200),
    1082: st.sampled_from([b"2024-02-29", b"infinity"]),
    1083: st.sampled_from([b"12:34:56.5", b"24:00:00"]),
    1114: st.sampled_from([b"2024-02-29 12:34:56.000001", b"-infinity", b"1999-01-01 00:00:00"]),
    1184: st.sampled_from([b"2024-02-29 12:34:56+00", b"0001-01-01 00:00:00+00 BC"]),
    700: st.sampled_from([b"1.5", b"Infinity"]),
    701: st.sampled_from([b"-0", b"1e+100"]),
    1700: st.just(b"12.50"),
    2950: st.uuids().map(lambda u: str(u).encode()),
}
whole = st.integers(0, 32767).map(lambda number: b"%d" % number)


def row_of(data: st.DataObject, table: TableSchema) -> list[TextValue]:
    return [data.draw(st.none() | values.get(column.type_oid, whole)) for column in table.columns]


@given(tables, st.data())
def test_an_edited_row_is_one_row_to_both_decoders_or_to_none(
    table: TableSchema, data: st.DataObject
) -> None:
    row = data.draw(edited(RowCodec(table).encode_row(row_of(data, table))[0]))
    by_c, by_python = outcomes(table, row, 0)
    assert by_c == by_python
    if by_c is not None and b"NaN" not in by_c:
        assert RowCodec(table).encode_row(by_c)[0] == row


def tuple_data(values: list[TextValue]) -> bytes:
    columns = [b"n" if v is None else b"t" + len(v).to_bytes(4) + v for v in values if not hasattr(v, "name")]
    return len(values).to_bytes(2) + b"".join(columns)


@given(tables, st.data())
def test_an_edited_tuple_is_encoded_as_it_stands_by_both_encoders_or_refused_by_both(
    table: TableSchema, data: st.DataObject
) -> None:
    message = data.draw(edited(tuple_data(row_of(data, table))))
    codecs = [codec_of(column.type_oid) for column in table.columns]
    keys_alone = [codec if column.key else None for codec, column in zip(codecs, table.columns, strict=True)]
    for whole, encoded in ((True, codecs), (False, keys_alone)):
        made: list[tuple[bytes, tuple[int, ...], int] | None] = []
        for compiled in (compile_encoder, compile_python_encoder):
            try:
                made.append(compiled(encoded, refuse, whole=whole)(message, 0))
            except Refused:
                made.append(None)
        by_c, by_python = made
        assert by_c == by_python
        if by_c is not None:
            row, absent, end = by_c
            texts, parsed_end = parse_tuple(message, 0)
            assert end == parsed_end
            codec = RowCodec(table)
            assert (row, absent) == (codec.encode_row(texts) if whole else (codec.encode_key(texts), ()))


@given(tables, st.data())
def test_a_tuple_that_is_refused_is_refused_by_name(table: TableSchema, data: st.DataObject) -> None:
    message = data.draw(edited(tuple_data(row_of(data, table))))
    for encoder in (row_encoder(table), key_encoder(table)):
        try:
            encoder(message, 0)
        except KeepstreamError as refused:
            assert refused.code in ("tuple-malformed", "value-not-canonical", "key-absent")  # noqa: PT017


def test_both_codes_are_really_there() -> None:
    if not COMPILED:
        pytest.skip("schemas._rowcode was not built: the Python was compared with itself")
    assert type(compile_decoder([], refuse)) is not type(compile_python_decoder([], refuse))
    assert type(compile_encoder([], refuse, whole=True)) is not type(
        compile_python_encoder([], refuse, whole=True)
    )
