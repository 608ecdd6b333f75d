"""PostgreSQL itself as the oracle: what it sends for extreme values of its types, through Avro and back,
must be the same bytes."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Iterator
from io import BytesIO

import fastavro
import psycopg
import pytest
from psycopg import sql

from connectors.postgres.session import Session, connect
from schemas.avro import RowCodec, row_decoder, row_encoder
from schemas.pgcodec import STRING, codec_of
from schemas.pgfloat import decode_float4, decode_float8, encode_float4, encode_float8
from schemas.pgtime import (
    format_date,
    format_time,
    format_timestamp,
    format_timestamptz,
    parse_date,
    parse_time,
    parse_timestamp,
    parse_timestamptz,
)
from schemas.pgtypes import format_type
from schemas.table import Column, ReplicaIdentity, TableSchema
from schemas.varint import LONG_MAX, LONG_MIN
from tests.extreme_values import EXTENSIONS, ROWS, SETUP, VALUES
from tests.fix_postgres import Database


@pytest.fixture
def session(source: Database) -> Iterator[Session]:
    """Pinned as every session of ours, where any type may be made."""
    with connect(source.admin_dsn, purpose="test") as session:
        yield session


def copy_out(session: Session, query: str) -> Iterator[list[bytes | None]]:
    """Rows of COPY TO STDOUT, unescaped."""
    with session.cursor().copy(query.encode()) as copy:
        for line in b"".join(copy).split(b"\n")[:-1]:
            yield [None if field == b"\\N" else unescape(field) for field in line.split(b"\t")]


_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v", b"\\": b"\\"}


def unescape(field: bytes) -> bytes:
    return re.sub(rb"\\(.)", lambda match: _ESCAPES[match[1]], field)


def read_table(session: Session, name: str) -> TableSchema:
    """The table as a Relation message would give it; PostgreSQL's own format_type() as the name."""
    rows = session.execute(
        """select attname, atttypid, atttypmod, pg_catalog.format_type(atttypid, atttypmod)
             from pg_attribute where attrelid = %s::regclass and attnum > 0 order by attnum""",
        [name],
    ).fetchall()
    columns = tuple(Column(name, oid, modifier, sql_name, False) for name, oid, modifier, sql_name in rows)
    return TableSchema("public", "values", ReplicaIdentity.FULL, columns)


def make_values(session: Session) -> TableSchema:
    """One table with a column for each type and as many rows as the longest list of values."""
    session.execute(SETUP)
    for extension in EXTENSIONS:
        session.execute(sql.SQL("create extension {} schema public").format(sql.Identifier(extension)))
    declared = ", ".join(f"c{i} {name}" for i, name in enumerate(VALUES))
    session.execute(f"create table public.values ({declared})".encode())
    places = sql.SQL(", ").join([sql.Placeholder()] * len(VALUES))
    insert = sql.SQL("insert into public.values values ({})").format(places)
    for row in range(ROWS):
        session.execute(insert, [texts[row] if row < len(texts) else None for texts in VALUES.values()])
    return read_table(session, "public.values")


def inserted_tuples(session: Session, slot: str) -> list[bytes]:
    """The TupleData of each Insert message that pgoutput makes of the slot's transactions."""
    messages = session.execute(
        """select data from pg_logical_slot_get_binary_changes(
               %s, null, null, 'proto_version', '1', 'publication_names', 'everything')""",
        [slot],
    )
    return [data[6:] for (data,) in messages if data[:1] == b"I"]


def test_every_type_comes_back_from_pgoutput_as_sql_shows_it(session: Session) -> None:
    session.execute("create publication everything for all tables")
    session.execute("select pg_create_logical_replication_slot('types_roundtrip', 'pgoutput')")
    try:
        table = make_values(session)
        tuples = inserted_tuples(session, "types_roundtrip")
    finally:
        session.execute("select pg_drop_replication_slot('types_roundtrip')")
    shown = list(copy_out(session, "copy public.values to stdout"))
    assert len(tuples) == len(shown) == ROWS
    encode, decode = row_encoder(table), row_decoder(table)
    codec = RowCodec(table)
    for tuple_data, values in zip(tuples, shown, strict=True):
        row, absent, end = encode(tuple_data, 0)
        assert (absent, end) == ((), len(tuple_data))
        assert (row, ()) == codec.encode_row(values)
        assert decode(row, 0) == values


def test_fastavro_reads_and_writes_every_type_as_we_do(session: Session) -> None:
    table = make_values(session)
    codec = RowCodec(table)
    for field in codec.avro_schema["fields"]:
        if isinstance(field["type"][1], dict):  # fastavro makes dates that Python does not have
            field["type"][1] = field["type"][1]["type"]
    schema = fastavro.parse_schema(codec.avro_schema)
    for values in copy_out(session, "copy public.values to stdout"):
        row, _ = codec.encode_row(values)
        record = fastavro.schemaless_reader(BytesIO(row), schema, None)
        assert isinstance(record, dict)
        out = BytesIO()
        fastavro.schemaless_writer(out, schema, record)
        assert out.getvalue() == row
        for column, value in zip(table.columns, values, strict=True):
            if value is not None and codec_of(column.type_oid) is STRING:
                assert record[column.name] == value.decode()


def test_type_names_are_postgresqls_own_and_make_the_same_column(session: Session) -> None:
    table = make_values(session)
    named = session.execute(
        """select a.atttypid, n.nspname, t.typname from pg_attribute a join pg_type t on t.oid = a.atttypid
             join pg_namespace n on n.oid = t.typnamespace
            where a.attrelid = 'public.values'::regclass and a.attnum > 0"""
    ).fetchall()
    user_types = {oid: (namespace, name) for oid, namespace, name in named if oid >= 10000}
    names = [format_type(c.type_oid, c.type_modifier, user_types.get(c.type_oid)) for c in table.columns]
    built_in = [i for i, column in enumerate(table.columns) if column.type_oid not in user_types]
    assert [names[i] for i in built_in] == [table.columns[i].type_name for i in built_in]
    declared = ", ".join(f"c{i} {name}" for i, name in enumerate(names))
    session.execute(f"create table public.again ({declared})".encode())
    again = read_table(session, "public.again").columns
    assert [(c.type_oid, c.type_modifier) for c in again] == [
        (c.type_oid, c.type_modifier) for c in table.columns
    ]


def test_every_built_in_type_has_the_name_that_postgresql_gives_it(session: Session) -> None:
    types = session.execute(
        """select t.oid::bigint, format_type(t.oid, -1)
             from pg_type t left join pg_type e on e.oid = t.typelem
            where t.oid < 10000 and t.typtype in ('b', 'r', 'm')
              and coalesce(e.typtype, 'b') not in ('c', 'p')"""
    ).fetchall()
    assert len(types) > 100
    assert {oid: format_type(oid, -1) for oid, _ in types} == dict(types)


_GUARD = random.Random(20240501)
_DATES = [_GUARD.randrange(-2_451_545, 2_145_031_949) for _ in range(5000)] + list(
    range(-731_000, 40_000, 11)
)
_OFFSET = 946_684_800_000_000  # PostgreSQL counts from 2000
_MOMENTS = [
    *(_GUARD.randrange(-211_813_488_000_000_000, 9_223_371_331_200_000_000) for _ in range(5000)),
    *(_GUARD.randrange(-(10**17), 10**15) for _ in range(5000)),
    *(LONG_MAX - _OFFSET + step for step in range(-3, 4)),
    LONG_MAX,
    LONG_MIN,
]
_CLOCKS = [_GUARD.randrange(86_400_000_001) for _ in range(5000)]


def written(session: Session, type_name: str, packed: str, numbers: list[int]) -> list[bytes | None]:
    """What PostgreSQL writes for values stored by their binary form."""
    session.execute(f"create temporary table numbers (i int, v {type_name})".encode())
    with session.cursor().copy("copy numbers from stdin (format binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for i, number in enumerate(numbers):
            value = struct.pack(packed, number)
            copy.write(struct.pack(">hiii", 2, 4, i, len(value)) + value)
        copy.write(b"\xff\xff")
    return [row[0] for row in copy_out(session, "copy (select v from numbers order by i) to stdout")]


@pytest.mark.parametrize(
    ("type_name", "packed", "numbers", "text_of"),
    [
        ("date", ">i", _DATES, lambda text: format_date(parse_date(text))),
        ("time", ">q", _CLOCKS, lambda text: format_time(parse_time(text))),
        ("timestamp", ">q", _MOMENTS, lambda text: format_timestamp(parse_timestamp(text))),
        ("timestamptz", ">q", _MOMENTS, lambda text: format_timestamptz(parse_timestamptz(text))),
    ],
    ids=["date", "time", "timestamp", "timestamptz"],
)
def test_times_of_all_ages_come_back(
    session: Session, type_name: str, packed: str, numbers: list[int], text_of: Callable[[bytes], bytes]
) -> None:
    texts = written(session, type_name, packed, numbers)
    assert len(texts) == len(numbers)
    assert [text for text in texts if text is None or text_of(text) != text] == []


def _float_bits(bits: int, mantissa: int, unpack: str, pack: str) -> list[int]:
    """Random floats, those around every power of two, subnormals, integers with few digits."""
    exponents = range((1 << bits - mantissa - 1) - 1)
    floats = [_GUARD.getrandbits(bits) for _ in range(10_000)]
    floats += [max(0, (e << mantissa) + step) for e in exponents for step in (-1, 0, 1)]
    floats += [_GUARD.getrandbits(_GUARD.randrange(1, mantissa)) for _ in range(2000)]
    for _ in range(5000):
        number = _GUARD.randrange(10 ** _GUARD.randrange(1, 7)) * 10.0 ** _GUARD.randrange(-6, 30)
        floats.append(struct.unpack(unpack, struct.pack(pack, number))[0])
    return floats


@pytest.mark.parametrize(
    ("type_name", "packed", "numbers", "text_of"),
    [
        ("float4", ">I", _float_bits(32, 23, ">I", ">f"), lambda text: decode_float4(encode_float4(text))),
        ("float8", ">Q", _float_bits(64, 52, ">Q", ">d"), lambda text: decode_float8(encode_float8(text))),
    ],
    ids=["float4", "float8"],
)
def test_floats_of_all_sizes_come_back_in_postgresqls_digits(
    session: Session, type_name: str, packed: str, numbers: list[int], text_of: Callable[[bytes], bytes]
) -> None:
    texts = written(session, type_name, packed, numbers)
    assert len(texts) == len(numbers)
    assert [text for text in texts if text is None or text_of(text) != text] == []


def test_xml_comes_back_where_the_server_has_it(session: Session) -> None:
    try:
        [[text]] = copy_out(session, "copy (select '<a b=''c''>&amp;</a>'::xml) to stdout")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL was built without libxml")
    assert codec_of(142) is STRING
    assert text == b"<a b='c'>&amp;</a>"


@pytest.mark.parametrize(
    ("setting", "value", "oid"),
    [
        ("set datestyle = 'SQL, DMY'", "date '2024-02-01'", 1082),
        ("set datestyle = 'SQL, DMY'", "timestamp '2024-02-01 12:00:00'", 1114),
        ("set timezone = 'Asia/Kathmandu'", "timestamptz '2024-02-01 12:00:00+00'", 1184),
        ("set bytea_output = escape", r"bytea '\x00ff'", 17),
    ],
    ids=["date", "timestamp", "timestamptz", "bytea"],
)
def test_text_of_a_session_that_is_not_pinned_is_refused_not_misread(
    session: Session, setting: str, value: str, oid: int
) -> None:
    session.execute(setting.encode())
    [[text]] = copy_out(session, f"copy (select {value}) to stdout")
    assert text is not None
    with pytest.raises(ValueError):
        codec_of(oid).encode(text)
