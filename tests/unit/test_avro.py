"""schemas.avro: rows as Avro, with fastavro as the oracle, and the compiled code against RowCodec."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any, NoReturn

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import rowcode
from schemas.avro import RowCodec, key_decoder, key_encoder, row_decoder, row_encoder
from schemas.change import UNCHANGED, TextValue
from schemas.errors import InternalError, KeepstreamError, RefusedData
from schemas.pgcodec import INT, LONG, TIMESTAMP, TIMESTAMPTZ, Codec, codec_of
from schemas.pgfloat import format_float4, format_float8
from schemas.pgtime import DAY_US, format_date, format_time, format_timestamp, format_timestamptz
from schemas.rowcode import compile_decoder, compile_encoder
from schemas.rowdecoder import compile_python_decoder
from schemas.rowencoder import compile_python_encoder
from schemas.table import Column, ReplicaIdentity, TableSchema
from schemas.varint import encode_long


@pytest.fixture(scope="module", params=["C", "Python"], autouse=True)
def _row_code(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds for the row code in C and in Python. CI has a compiler, so both must be there."""
    if request.param == "C" and not rowcode.COMPILED:
        if os.environ.get("CI"):
            pytest.fail("schemas._rowcode was not built")
        pytest.skip("schemas._rowcode was not built: no C compiler was found when Keepstream was installed")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "Python":
            patch.setattr(rowcode, "decode_row", None)
            patch.setattr(rowcode, "encode_row", None)
        _forget_compiled()
        yield
    _forget_compiled()


def _forget_compiled() -> None:
    for compiled in (row_decoder, key_decoder, row_encoder, key_encoder):
        compiled.cache_clear()


def as_float4(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


ORDINARY = st.decimals(-(10**6), 10**6, places=3).map(float)
MICROS = st.integers(-210_866_803_200_000_000, 9_223_372_036_854_775_807)
PLAIN_TEXT = st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)

# oid, SQL, PostgreSQL's text of a value from hypothesis
TYPES: dict[int, tuple[str, st.SearchStrategy[bytes]]] = {
    16: ("boolean", st.sampled_from([b"t", b"f"])),
    17: ("bytea", st.binary().map(lambda raw: b"\\x" + raw.hex().encode())),
    20: ("bigint", st.integers(-(2**63), 2**63 - 1).map(lambda n: b"%d" % n)),
    21: ("smallint", st.integers(-(2**15), 2**15 - 1).map(lambda n: b"%d" % n)),
    23: ("integer", st.integers(-(2**31), 2**31 - 1).map(lambda n: b"%d" % n)),
    25: ("text", PLAIN_TEXT | st.integers(0, 9000).map(lambda n: b"x" * n)),
    26: ("oid", st.integers(0, 2**32 - 1).map(lambda n: b"%d" % n)),
    700: ("real", (st.floats(width=32) | ORDINARY.map(as_float4)).map(format_float4)),
    701: ("double precision", (st.floats() | ORDINARY).map(format_float8)),
    1043: ("character varying(40)", PLAIN_TEXT),
    1082: ("date", (st.integers(-2_440_588, 2_145_042_905) | st.integers(-99999, 99999)).map(format_date)),
    1083: ("time(6) without time zone", st.integers(0, DAY_US).map(format_time)),
    1114: ("timestamp without time zone", (MICROS | st.just(-(2**63))).map(format_timestamp)),
    1184: ("timestamp with time zone", (MICROS | st.integers(0, 2**54)).map(format_timestamptz)),
    1700: (
        "numeric(16,2)",
        st.decimals(allow_nan=False, allow_infinity=False).map(lambda d: str(d).encode()),
    ),
    2950: ("uuid", st.uuids().map(lambda u: str(u).encode())),
    3802: ("jsonb", PLAIN_TEXT),
}
TABLE = TableSchema(
    "crm",
    "odd name",
    ReplicaIdentity.DEFAULT,
    tuple(Column(f"c {oid}", oid, -1, TYPES[oid][0], oid in (20, 2950)) for oid in TYPES),
)
ROWS = st.tuples(*(st.none() | values for _, values in TYPES.values()))
ROWS_WITH_UNCHANGED = st.tuples(*(st.none() | values | st.just(UNCHANGED) for _, values in TYPES.values()))


def table_of(*columns: tuple[str, int, bool]) -> TableSchema:
    return TableSchema(
        "public",
        "t",
        ReplicaIdentity.DEFAULT,
        tuple(Column(name, oid, -1, TYPES[oid][0], key) for name, oid, key in columns),
    )


def tuple_data(values: Sequence[TextValue]) -> bytes:
    """pgoutput's TupleData."""
    columns = []
    for value in values:
        if value is None:
            columns.append(b"n")
        elif value is UNCHANGED:
            columns.append(b"u")
        else:
            columns.append(b"t" + struct.pack(">i", len(value)) + value)
    return struct.pack(">h", len(values)) + b"".join(columns)


def without_logical_types(schema: Any) -> Any:
    """fastavro makes dates of dates and cannot make those that Python does not have."""
    if isinstance(schema, dict):
        return {k: without_logical_types(v) for k, v in schema.items() if k != "logicalType"}
    return [without_logical_types(part) for part in schema] if isinstance(schema, list) else schema


@given(ROWS)
def test_fastavro_reads_our_rows_and_writes_the_same_bytes(values: tuple[bytes | None, ...]) -> None:
    codec = RowCodec(TABLE)
    data, absent = codec.encode_row(values)
    schema = fastavro.parse_schema(without_logical_types(codec.avro_schema))
    stream = BytesIO(data)
    record = fastavro.schemaless_reader(stream, schema, None)
    assert stream.read() == b""
    out = BytesIO()
    fastavro.schemaless_writer(out, schema, record)
    assert out.getvalue() == data
    assert absent == ()


@given(ROWS)
def test_a_row_comes_back_byte_for_byte(values: tuple[bytes | None, ...]) -> None:
    assert RowCodec(TABLE).decode_row(RowCodec(TABLE).encode_row(values)[0]) == list(values)


@given(ROWS_WITH_UNCHANGED, st.binary(max_size=5), st.binary(max_size=5))
def test_the_compiled_encoder_agrees_and_stops_where_the_tuple_ends(
    values: tuple[TextValue, ...], before: bytes, after: bytes
) -> None:
    tuple_bytes = tuple_data(values)
    end = len(before) + len(tuple_bytes)
    expected = (*RowCodec(TABLE).encode_row(values), end)
    assert row_encoder(TABLE)(before + tuple_bytes + after, len(before)) == expected


@given(ROWS_WITH_UNCHANGED)
def test_absent_columns_are_null_in_the_row_and_listed(values: tuple[TextValue, ...]) -> None:
    data, absent = RowCodec(TABLE).encode_row(values)
    assert absent == tuple(i for i, value in enumerate(values) if value is UNCHANGED)
    assert RowCodec(TABLE).decode_row(data) == [None if value is UNCHANGED else value for value in values]


@given(ROWS)
def test_a_key_is_the_record_of_the_key_columns(values: tuple[bytes | None, ...]) -> None:
    codec = RowCodec(TABLE)
    keys = [values[i] for i in TABLE.key_indexes]
    as_table = TableSchema("x", "x", TABLE.replica_identity, tuple(c for c in TABLE.columns if c.key))
    key = codec.encode_key(values)
    assert key == RowCodec(as_table).encode_row(keys)[0]
    assert codec.decode_key(key) == key_decoder(TABLE)(key, 0) == keys
    only_keys = [value if TABLE.columns[i].key else None for i, value in enumerate(values)]
    for given_values in (values, only_keys):
        message = tuple_data(given_values)
        assert key_encoder(TABLE)(b"U" + message, 1) == (key, (), 1 + len(message))


def test_fastavro_understands_the_logical_types() -> None:
    codec = RowCodec(TABLE)
    texts: dict[int, bytes] = {
        1082: b"2024-02-29", 1083: b"12:34:56.5", 1114: b"2024-02-29 12:34:56.5",
        1184: b"2024-02-29 12:34:56.5+00", 2950: b"1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    }  # fmt: skip
    data, _ = codec.encode_row([texts.get(column.type_oid) for column in TABLE.columns])
    record = fastavro.schemaless_reader(BytesIO(data), fastavro.parse_schema(codec.avro_schema), None)
    assert isinstance(record, dict)
    assert {name: str(value) for name, value in record.items() if value is not None} == {
        "c_x20_1082": "2024-02-29",
        "c_x20_1083": "12:34:56.500000",
        "c_x20_1114": "2024-02-29 12:34:56.500000",
        "c_x20_1184": "2024-02-29 12:34:56.500000+00:00",
        "c_x20_2950": "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    }


def test_the_schema_carries_real_names_and_types() -> None:
    codec = RowCodec(table_of(("e-mail", 1043, False), ("id", 20, True)))
    assert codec.avro_schema == {
        "type": "record",
        "name": "Row",
        "namespace": "public.t",
        "pg.schema": "public",
        "pg.table": "t",
        "fields": [
            {
                "name": "e_x2d_mail", "type": ["null", "string"], "default": None, "pg.name": "e-mail",
                "pg.type": "character varying(40)", "pg.oid": 1043, "pg.typmod": -1, "pg.key": False,
            },
            {
                "name": "id", "type": ["null", "long"], "default": None, "pg.name": "id",
                "pg.type": "bigint", "pg.oid": 20, "pg.typmod": -1, "pg.key": True,
            },
        ],
    }  # fmt: skip
    assert [field["name"] for field in codec.key_avro_schema["fields"]] == ["id"]
    assert codec.key_avro_schema["name"] == "Key"


@given(ROWS_WITH_UNCHANGED, st.data())
def test_a_tuple_that_is_cut_short_raises(values: tuple[TextValue, ...], data: st.DataObject) -> None:
    message = tuple_data(values)
    end = data.draw(st.integers(0, len(message) - 1))
    for encode in (row_encoder(TABLE), key_encoder(TABLE)):
        with pytest.raises(KeepstreamError):
            encode(message[:end], 0)


@given(ROWS, st.data())
def test_a_row_that_is_cut_short_or_has_bytes_left_over_raises(
    values: tuple[bytes | None, ...], data: st.DataObject
) -> None:
    row, _ = RowCodec(TABLE).encode_row(values)
    end = data.draw(st.integers(0, len(row) - 1))
    for broken in (row[:end], row + b"\0"):
        with pytest.raises(InternalError) as malformed:
            row_decoder(TABLE)(broken, 0)
        assert malformed.value.code == "row-malformed"


@pytest.mark.parametrize("oid", TYPES)
@given(st.binary(max_size=12), st.booleans())
def test_junk_raises_or_is_a_row(oid: int, junk: bytes, as_value: bool) -> None:
    """Whatever does not raise is a row that encodes to the same bytes."""
    table = table_of(("a", oid, False))
    junk = b"\2" + junk if as_value else junk
    try:
        values = row_decoder(table)(junk, 0)
    except InternalError:
        return
    # PostgreSQL does not tell one NaN from another.
    assert values == [b"NaN"] or RowCodec(table).encode_row(values)[0] == junk


CODECS = [codec_of(oid) for oid in TYPES]


def refuse(data: bytes, position: int) -> NoReturn:
    raise ValueError(f"{len(data)} bytes from {position}")


@given(ROWS, st.data())
def test_both_decoders_take_and_refuse_the_same_bytes(
    values: tuple[bytes | None, ...], data: st.DataObject
) -> None:
    row = bytearray(RowCodec(TABLE).encode_row(values)[0])
    for _ in range(data.draw(st.integers(0, 3))):
        row[data.draw(st.integers(0, len(row) - 1))] = data.draw(st.integers(0, 255))
    outcomes: list[object] = []
    for compiled in (compile_decoder, compile_python_decoder):
        try:
            outcomes.append(compiled(CODECS, refuse)(bytes(row), 0))
        except ValueError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(253402300700 * 10**6, 253402300900 * 10**6))
def test_every_moment_is_shown_by_both_decoders_as_its_codec_shows_it(moment: int) -> None:
    data = b"\2" + encode_long(moment)
    for codec in (TIMESTAMP, TIMESTAMPTZ):
        try:
            expected = codec.decode(data, 1)[0]
        except ValueError:
            continue
        assert compile_decoder([codec], refuse)(data, 0) == [expected]


@given(ROWS_WITH_UNCHANGED, st.sets(st.integers(0, len(TYPES) - 1)))
def test_skipped_columns_leave_the_record_of_a_tuple_without_them(
    values: tuple[TextValue, ...], places: set[int]
) -> None:
    skipped = tuple(sorted(places))
    narrow, message = TABLE.without(skipped), tuple_data(values)
    kept = tuple_data([value for place, value in enumerate(values) if place not in places])
    row, absent, end = row_encoder(narrow, skipped)(message, 0)
    assert (row, absent, end) == (*row_encoder(narrow)(kept, 0)[:2], len(message))
    keys = [values[place] for place in TABLE.key_indexes if place not in places]
    if UNCHANGED not in keys:
        assert key_encoder(narrow, skipped)(message, 0)[0] == key_encoder(narrow)(kept, 0)[0]


def test_what_is_wrong_in_a_skipped_column_is_said() -> None:
    narrow = table_of(("a", 25, True), ("b", 25, False), ("c", 25, False)).without((1,))
    message = tuple_data([b"1", b"2", b"3"])
    for broken in (message[:9], message[:8] + b"t\0\0\0\x09" + message[13:]):
        for encode in (row_encoder(narrow, (1,)), key_encoder(narrow, (1,))):
            with pytest.raises(InternalError, match=r"malformed tuple for .*column 2"):
                encode(broken, 0)


@given(ROWS_WITH_UNCHANGED, st.booleans(), st.sampled_from([None, (0,), (2, 5), ()]), st.data())
def test_both_encoders_take_and_refuse_the_same_bytes(
    values: tuple[TextValue, ...], whole: bool, only: tuple[int, ...] | None, data: st.DataObject
) -> None:
    codecs = [codec if only is None or place in only else None for place, codec in enumerate(CODECS)]
    message = bytearray(b"I" + tuple_data(values) + b"N")
    for _ in range(data.draw(st.integers(0, 3))):
        message[data.draw(st.integers(1, len(message) - 1))] = data.draw(st.integers(0, 255))
    outcomes: list[object] = []
    for compiled in (compile_encoder, compile_python_encoder):
        try:
            outcomes.append(compiled(codecs, refuse, whole=whole)(bytes(message), 1))
        except ValueError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


DIGITS = st.text("0123456789", min_size=1, max_size=6)
ALMOST_A_MOMENT = st.builds(
    lambda y, mo, d, h, mi, s, fraction, zone: f"{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}{fraction}{zone}",
    st.integers(0, 10000),
    st.integers(0, 13),
    st.integers(0, 32),
    st.integers(0, 24),
    st.integers(0, 60),
    st.integers(0, 60),
    st.just("") | DIGITS.map(lambda digits: f".{digits}") | st.sampled_from([".", ".1234567"]),
    st.sampled_from(["", "+00", "+01", "-00", " BC", "+00 BC"]),
)


@pytest.mark.parametrize(
    ("codec", "texts"),
    [
        (TIMESTAMP, ALMOST_A_MOMENT),
        (TIMESTAMPTZ, ALMOST_A_MOMENT),
        (INT, st.from_regex(r"-?0?[0-9]{1,12}", fullmatch=True)),
        (LONG, st.from_regex(r"[-+]?0?[0-9]{1,21}", fullmatch=True)),
    ],
    ids=["timestamp", "timestamptz", "int", "long"],
)
@given(data=st.data())
def test_every_text_is_encoded_as_its_codec_encodes_it(
    codec: Codec, texts: st.SearchStrategy[str], data: st.DataObject
) -> None:
    text = data.draw(texts).encode()
    message = tuple_data([text])
    encode = compile_encoder([codec], refuse, whole=True)
    try:
        expected = b"\2" + codec.encode(text)
    except ValueError:
        with pytest.raises(ValueError, match="bytes from 0"):
            encode(message, 0)
    else:
        assert encode(message, 0) == (expected, (), len(message))


@pytest.mark.parametrize("kind", [b"b", b"x", b"\0", b"T"])
def test_a_column_of_another_kind_raises(kind: bytes) -> None:
    message = b"\0\1" + kind + b"\0\0\0\1a"
    for table in (table_of(("a", 25, True)), table_of(("a", 23, True))):
        for encode in (row_encoder(table), key_encoder(table)):
            with pytest.raises(InternalError) as malformed:
                encode(message, 0)
            assert malformed.value.code == "tuple-malformed"


@pytest.mark.parametrize("length", [-1, -(2**31), 5, 2**31 - 1])
def test_an_impossible_length_raises(length: int) -> None:
    for oid in (25, 17, 23, 16, 1114):
        table = table_of(("a", oid, False))
        with pytest.raises(InternalError, match=r"malformed tuple for public\.t: column a at byte 2"):
            row_encoder(table)(b"\0\1t" + struct.pack(">i", length) + b"t", 0)


def test_another_number_of_columns_raises() -> None:
    table = table_of(("a", 25, True), ("b", 25, False))
    for count in (0, 1, 3):
        with pytest.raises(InternalError, match=f"it has {count} columns, the table 2"):
            row_encoder(table)(tuple_data([b"x"] * count), 0)
    with pytest.raises(InternalError, match="3 values for the 2 columns"):
        RowCodec(table).encode_row([None] * 3)


NOT_CANONICAL = {
    16: [b"", b"true", b"T", b"1"],
    17: [b"", b"abc", b"\\x0", b"\\xAB", b"\\x0 1", b"\\xzz"],
    20: [b"", b"9223372036854775808", b"-9223372036854775809", b"1" * 5000],
    23: [
        b"",
        b"+1",
        b"01",
        b"-0",
        b"00",
        b" 1",
        b"1 ",
        b"1_0",
        b"1.0",
        b"-",
        b"\xd9\xa1",
        b"2147483648",
        b"--1",
    ],
    700: [b"1.0", b"nan", b"0.30000000000000004"],
    701: [b"1.0", b"inf", b"1e5"],
    1082: [b"01/02/2024", b"2024-02-30", b"2024-1-1"],
    1083: [b"12:00", b"25:00:00", b"24:00:00.1"],
    1114: [
        b"2024-01-01 12:00:00+00",
        b"2024-01-01 12:00:00.500000",
        b"2024-01-01 12:00:00.12345 ",
        b"tomorrow",
    ],
    1184: [b"2024-01-01 12:00:00", b"2024-01-01 12:00:00.123456+02", b"2024-01-01 12:00:00+01"],
}


@pytest.mark.parametrize(
    ("oid", "text"), [(oid, text) for oid, texts in NOT_CANONICAL.items() for text in texts]
)
def test_text_in_another_form_is_refused_by_column_and_without_its_value(oid: int, text: bytes) -> None:
    table = table_of(("first", 25, False), ("odd", oid, True))
    values = [b"x", text]
    for encode in (
        lambda: row_encoder(table)(tuple_data(values), 0),
        lambda: key_encoder(table)(tuple_data(values), 0),
        lambda: RowCodec(table).encode_row(values),
        lambda: RowCodec(table).encode_key(values),
    ):
        with pytest.raises(RefusedData, match=r"^column odd of public\.t came in a form that ") as refused:
            encode()
        assert refused.value.code == "value-not-canonical"
        assert refused.value.__suppress_context__ or refused.value.__context__ is None
        assert len(text) < 3 or text.decode("utf-8", "replace") not in str(refused.value)


def test_a_key_without_its_value_is_refused() -> None:
    table = table_of(("id", 25, True), ("note", 25, False))
    for encode in (
        lambda: key_encoder(table)(tuple_data([UNCHANGED, None]), 0),
        lambda: RowCodec(table).encode_key([UNCHANGED, None]),
    ):
        with pytest.raises(
            InternalError, match=r"key column id of public\.t came without its value"
        ) as absent:
            encode()
        assert absent.value.code == "key-absent"
    assert key_encoder(table)(tuple_data([b"1", UNCHANGED]), 0)[0] == RowCodec(table).encode_key([b"1", None])


def test_a_full_identity_encodes_every_column_as_key_and_takes_no_unchanged() -> None:
    table = table_of(("a", 25, True), ("b", 25, True))
    with pytest.raises(InternalError, match="key column b"):
        key_encoder(table)(tuple_data([b"1", UNCHANGED]), 0)


def test_tables_without_columns_and_with_1600_have_rows() -> None:
    empty = table_of()
    assert row_encoder(empty)(b"\0\0rest", 0) == (b"", (), 2)
    assert row_decoder(empty)(b"", 0) == []
    assert key_encoder(table_of(("a", 25, False)))(b"\0\1n", 0) == (b"", (), 3)
    wide = table_of(*((f"c{i}", 25 if i % 2 else 23, i == 0) for i in range(1600)))
    values = [b"%d" % i for i in range(1600)]
    data, _, end = row_encoder(wide)(tuple_data(values), 0)
    assert end == len(tuple_data(values))
    assert row_decoder(wide)(data, 0) == values


@pytest.mark.parametrize("size", [0, 1, 63, 64, 127, 128, 4095, 4096, 8191, 8192, 70_000, 3_000_000])
def test_values_of_every_size_of_length_come_back(size: int) -> None:
    for oid, text in ((25, b"x" * size), (17, b"\\x" + b"ab" * size)):
        table = table_of(("a", oid, False), ("b", 23, False))
        data, _, _ = row_encoder(table)(tuple_data([text, b"7"]), 0)
        assert data == RowCodec(table).encode_row([text, b"7"])[0]
        assert row_decoder(table)(data, 0) == [text, b"7"]


def test_memory_of_repeating_values_is_bounded_and_stays_right() -> None:
    table = table_of(("day", 1082, False), ("moment", 1114, False))
    encode, decode = row_encoder(table), row_decoder(table)
    for day in range(0, 140_000, 7):
        values = [format_date(day), format_timestamp(day * DAY_US + day)]
        assert decode(encode(tuple_data(values), 0)[0], 0) == values
