"""Equal rows have equal digests in whatever order, encoding or shape; any single change shows."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from connectors.postgres.copy.snapshot_tables import named_tables
from connectors.postgres.digest import (
    Blocks,
    Digest,
    DigestColumn,
    RowTooLong,
    Shape,
    bucket_digests,
    column_digests,
    rows_in_order,
    table_digest,
)
from connectors.postgres.session import Session, connect
from schemas.errors import OperatorNeeded
from tests.fix_postgres import Database, Server

ONE = ("pg_temp", "one")
OTHER = ("pg_temp", "other")


@pytest.fixture(scope="module")
def session_of_module(source_server: Server) -> Iterator[Session]:
    database = source_server.new_database()
    with connect(database.dsn, purpose="test") as opened:
        yield opened
    database.drop()


@pytest.fixture
def session(session_of_module: Session) -> Iterator[Session]:
    """A session without temporary objects."""
    yield session_of_module
    session_of_module.rollback()
    session_of_module.execute("discard temp")


def shape(*names: str, key: Sequence[str] = (), wide: bool = False, binary: Sequence[str] = ()) -> Shape:
    return Shape(tuple(DigestColumn(name, name in binary) for name in names), tuple(key), wide)


# Properties

texts = st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=6)
row_values = st.tuples(texts, texts, st.none() | st.integers(-9, 9), st.none() | st.binary(max_size=3))
ROWS = shape("a", "b", "n", "data", binary=["data"])


def _fill(session: Session, rows: Sequence[tuple[Any, ...]], name: str) -> Digest:
    session.execute(f"drop table if exists pg_temp.{name}".encode())
    session.execute(f"create temp table {name} (a text, b varchar, n numeric, data bytea)".encode())
    with session.cursor() as cursor:
        cursor.executemany(
            f"insert into pg_temp.{name} values (%s, %s, %s, %s)".encode(),
            rows,
        )
    return table_digest(session, ("pg_temp", name), ROWS)


@given(st.data())
@settings(max_examples=25)
def test_the_same_rows_in_any_order_are_equal_and_any_change_shows(
    session_of_module: Session, data: st.DataObject
) -> None:
    session = session_of_module
    rows = data.draw(st.lists(row_values, min_size=1, max_size=6))
    digest = _fill(session, rows, "one")
    assert _fill(session, data.draw(st.permutations(rows)), "other") == digest
    assert digest.rows == len(rows)
    index = data.draw(st.integers(0, len(rows) - 1))
    changed = data.draw(row_values.filter(lambda row: row != rows[index]))
    assert _fill(session, [*rows[:index], changed, *rows[index + 1 :]], "other") != digest
    assert _fill(session, [*rows, rows[index]], "other") != digest
    assert _fill(session, [*rows[:index], *rows[index + 1 :]], "other") != digest


def test_two_rows_that_swap_a_duplicate_are_not_equal(session: Session) -> None:
    assert _fill(session, [("a", "", 1, None)] * 2 + [("b", "", 1, None)], "one") != _fill(
        session, [("a", "", 1, None)] + [("b", "", 1, None)] * 2, "other"
    )


# Values that a comparison must tell apart

DISTINCT = {
    "text": ["null", "''", "'NULL'", "' '", "'\"'", "'\"\"'", r"'\'", r"'\\'", "','", "'('", "')'", "E'\\n'"],
    "char(4)": ["null", "''", "'a'"],
    "bpchar": ["'a'", "'a '", "'a  '"],
    "numeric": ["1.0", "1.00", "1", "'NaN'", "'Infinity'", "'-Infinity'"],
    "float8": ["0.0", "'-0'", "'NaN'", "0.1", "0.1 + 1e-17 * 2", "'Infinity'"],
    "bool": ["null", "true", "false"],
    "int[]": ["null", "'{}'", "'{NULL}'", "'[0:0]={1}'", "'{1}'", "'{{1}}'"],
    "pg_temp.pair": ["null", "row(null, null)", "row('', null)", "row(null, '')", "row('NULL', null)"],
    "json": ["'{}'", "'{ }'", "'null'", "null", '\'{"a":1,"a":1}\''],
    "jsonb": ["'{}'", "'null'", "null", "'1.0'", "'1.00'"],
    "point": ["'(0,0)'", "'(0,1)'"],
    "timestamptz": ["'infinity'", "'-infinity'", "'2026-01-01 00:00:00.000001Z'", "'2026-01-01Z'"],
    "interval": ["'1 day'", "'24 hours'", "'1 mon'", "'30 days'"],
    "inet": ["'10.0.0.1'", "'10.0.0.1/8'"],
    "tsvector": ["'a:1'", "'a:2'", "'a'"],
    "int4range": ["'empty'", "'(,)'", "'[1,2)'", "null"],
    "bytea": ["null", "''", r"'\x00'", r"'\x0000'"],
}


@pytest.mark.parametrize("wide", [False, True], ids=["whole rows", "each column for itself"])
@pytest.mark.parametrize("type_name", DISTINCT)
def test_values_that_look_alike_are_told_apart(session: Session, type_name: str, wide: bool) -> None:
    session.execute("create type pg_temp.pair as (a text, b text)")
    session.execute(f"create temp table one (v {type_name}, w {type_name})".encode())
    by = shape("v", "w", wide=wide, binary=["v", "w"] if type_name == "bytea" else [])
    seen: dict[Digest, tuple[str, str]] = {}
    for value, other in itertools.product(DISTINCT[type_name], repeat=2):
        session.execute("truncate pg_temp.one")
        session.execute(f"insert into pg_temp.one values ({value}, {other})".encode())
        digest = table_digest(session, ONE, by)
        assert digest not in seen, f"({value}, {other}) looks like {seen[digest]}"
        seen[digest] = (value, other)


def test_one_column_of_text_with_a_comma_is_not_two_columns(session: Session) -> None:
    session.execute("create temp table one (a text, b text)")
    session.execute("insert into pg_temp.one values ('x,y', null), ('x', 'y')")
    rows = list(_all_rows(session, shape("a", "b")))
    assert len({row.digest for row in rows}) == 2


def _all_rows(session: Session, by: Shape, table: tuple[str, str] = ONE) -> Iterator[Any]:
    session.execute("begin")
    yield from rows_in_order(session, [table], by, range(4096))
    session.execute("rollback")


# Shapes

ODD = 'a "quoted" %s {} név; ' + "x" * 38  # 63 bytes


def test_names_of_every_kind_are_read(session: Session) -> None:
    assert len(ODD.encode()) <= 63
    table, name = sql.Identifier(ODD), sql.Identifier(ODD)
    session.execute(
        sql.SQL(
            "create temp table {} ({} int primary key, k int, d text, b text, n0 text, r text, n int)"
        ).format(table, name)
    )
    session.execute(sql.SQL("insert into pg_temp.{} values (1, 2, 'd', 'b', 'n0', 'r', 5)").format(table))
    by = shape(ODD, "k", "d", "b", "n0", "r", "n", key=[ODD])
    where = ("pg_temp", ODD)
    assert table_digest(session, where, by).rows == 1
    (row,) = _all_rows(session, by, where)
    assert row.names == ("1",)
    (bucket,) = bucket_digests(session, [where], by)
    assert bucket == row.key_digest[0] * 16 + row.key_digest[1] // 16
    assert len(column_digests(session, [where], by, [("1",)])[("1",)]) == 7


def test_a_table_of_1600_columns_is_read_at_once_and_column_by_column(session: Session) -> None:
    names = [f"c{i}" for i in range(1600)]
    session.execute(f"create temp table one ({', '.join(f'{name} bool' for name in names)})".encode())
    session.execute("insert into pg_temp.one (c7) values (true)")
    first = [table_digest(session, ONE, shape(*names, wide=wide)) for wide in (False, True)]
    session.execute("update pg_temp.one set c7 = null, c8 = true")
    second = [table_digest(session, ONE, shape(*names, wide=wide)) for wide in (False, True)]
    assert all(one.rows == 1 and one != other for one, other in zip(first, second, strict=True))


def test_a_table_without_columns_is_compared_by_its_rows(session: Session) -> None:
    session.execute("create temp table one ()")
    session.execute("insert into pg_temp.one default values")
    session.execute("insert into pg_temp.one default values")
    assert table_digest(session, ONE, shape()).rows == 2
    assert len(list(_all_rows(session, shape()))) == 2


def test_other_order_of_columns_other_types_and_more_columns_do_not_matter(session: Session) -> None:
    session.execute("create temp table one (id int, note varchar(20), credit numeric(10, 2))")
    session.execute("create temp table other (more text default 'x', credit numeric, note text, id bigint)")
    session.execute("insert into pg_temp.one select i, 'n' || i, i * 1.5 from generate_series(1, 50) i")
    session.execute(
        "insert into pg_temp.other (id, note, credit) select * from pg_temp.one order by random()"
    )
    by = shape("id", "note", "credit", key=["id"])
    assert table_digest(session, ONE, by) == table_digest(session, OTHER, by)
    assert bucket_digests(session, [ONE], by) == bucket_digests(session, [OTHER], by)
    ours, theirs = ([row[:3] for row in _all_rows(session, by, table)] for table in (ONE, OTHER))
    assert ours == theirs


def test_parts_add_up_to_the_whole_and_children_are_not_counted(session: Session) -> None:
    session.execute("create temp table one (id int, note text)")
    session.execute("create temp table child () inherits (pg_temp.one)")
    session.execute("insert into pg_temp.one select i, repeat('x', 100) from generate_series(1, 1000) i")
    session.execute("insert into pg_temp.child values (1, 'child')")
    by = shape("id", "note")
    whole = table_digest(session, ONE, by)
    bounds = [Blocks(None, 3), Blocks(3, 4), Blocks(4, 4), Blocks(4, None)]
    parts = [table_digest(session, ONE, by, blocks) for blocks in bounds]
    assert sum(parts, Digest()) == whole
    assert whole.rows == 1000
    assert [part.rows > 0 for part in parts] == [True, True, False, True]
    assert sum(bucket_digests(session, [ONE], by).values(), Digest()) == whole
    together = bucket_digests(session, [ONE, ("pg_temp", "child")], by)
    assert sum(digest.rows for digest in together.values()) == 1001


def test_keys_are_shown_as_their_types_write_them(session: Session) -> None:
    session.execute("create temp table one (code char(5), day date, yes bool, v int)")
    session.execute("insert into pg_temp.one values ('ab', '2026-01-31', true, 1)")
    by = shape("code", "day", "yes", "v", key=["code", "day", "yes"])
    (row,) = _all_rows(session, by)
    assert row.names == ("ab   ", "2026-01-31", "t")
    first = column_digests(session, [ONE], by, [row.names])[row.names]
    session.execute("update pg_temp.one set v = 2")
    second = column_digests(session, [ONE], by, [row.names])[row.names]
    assert [one == other for one, other in zip(first, second, strict=True)] == [True, True, True, False]


def test_a_key_of_a_composite_type_finds_its_row(session: Session) -> None:
    session.execute("create type pg_temp.place as (a int, b text)")
    session.execute("create temp table one (at pg_temp.place primary key, v int)")
    session.execute("insert into pg_temp.one values ((1, 'x y'), 1), ((2, 'z'), 2)")
    by = shape("at", "v", key=["at"])
    names = {row.names for row in _all_rows(session, by)}
    assert names == {('(1,"x y")',), ("(2,z)",)}
    assert column_digests(session, [ONE], by, sorted(names)).keys() == names


@pytest.mark.parametrize("type_name", ["varchar(9)", "cidr", "json", "pg_temp.odd"])
def test_a_key_of_any_type_finds_its_row(session: Session, type_name: str) -> None:
    """json has no equality, and varchar another type's."""
    session.execute("create domain pg_temp.odd as cidr[]")
    session.execute(f"create temp table one (k {type_name}, v int)".encode())
    values = {"json": ("{}", "{ }"), "pg_temp.odd": ("{10.0.0.0/8}", "{}")}.get(
        type_name, ("1::/16", "2::/16")
    )
    session.execute("insert into pg_temp.one values (%s, 1), (%s, 2)", values)
    by = shape("k", "v", key=["k"])
    names = {row.names for row in _all_rows(session, by)}
    assert names == {(value,) for value in values}
    assert column_digests(session, [ONE], by, sorted(names)).keys() == names


def test_a_row_that_is_too_long_is_told_and_can_be_read_column_by_column(session: Session) -> None:
    """Not by a gigabyte: the server says the same when it lacks memory for less."""
    session.execute("create temp table one (a text, b text)")
    session.execute("insert into pg_temp.one values ('x', 'y')")
    session.execute(
        "create function pg_temp.fail(text) returns text language plpgsql as"
        " $$begin raise program_limit_exceeded using message = 'string buffer exceeds maximum'; end$$"
    )
    session.execute("create temp view long as select pg_temp.fail(a) as a, b from pg_temp.one")
    with pytest.raises(RowTooLong, match=r"reading pg_temp\.long: string buffer exceeds maximum"):
        table_digest(session, ("pg_temp", "long"), shape("a", "b"))
    assert table_digest(session, ONE, shape("a", "b", wide=True)).rows == 1


def test_bytes_are_compared_column_by_column_however_they_are_held(session: Session) -> None:
    """Their text would be twice as long: from half a gigabyte on there is none."""
    columns = (DigestColumn("a", is_bytea=True), DigestColumn("b", is_bytea_array=True))
    by = Shape(columns, wide=True)
    session.execute(
        "create domain pg_temp.image as bytea; create temp table one (a pg_temp.image, b bytea[])"
    )
    session.execute("insert into pg_temp.one values (null, null), ('', '{}'), ('x', '{x,NULL}')")
    digests = [table_digest(session, ONE, by)]
    for values in ("a = null", "b = '{}'", "b = '[0:1]={x,NULL}'", "b = '{x,\"\"}'", "b = '{NULL,x}'"):
        session.execute("update pg_temp.one set b = '{x,NULL}' where a = 'x'")
        session.execute(f"update pg_temp.one set {values} where a = 'x'".encode())
        digests.append(table_digest(session, ONE, by))
        session.execute("update pg_temp.one set a = 'x' where a is null and b is not null")
    assert len(set(digests)) == len(digests)


# Servers

LATIN = ["é", "ß", "ÿ", "Ä b", "x\u00a0y"]


def test_databases_of_other_encodings_have_the_same_digests(source_server: Server, session: Session) -> None:
    server = source_server.postgres
    name = f"latin_{secrets.token_hex(4)}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(
            f"create database {name} encoding 'LATIN1' locale 'C' template template0 owner crm".encode()
        )
    try:
        with connect(server.dsn(name), purpose="test") as latin:
            digests = []
            for one in (session, latin):
                one.execute("create temp table one (id text primary key, note text)")
                with one.cursor() as cursor:
                    cursor.executemany("insert into pg_temp.one values (%s, %s)", [(x, x) for x in LATIN])
                by = shape("id", "note", key=["id"])
                wide = table_digest(one, ONE, shape("id", "note", wide=True))
                digests.append((table_digest(one, ONE, by), wide, list(_all_rows(one, by))))
        assert digests[0] == digests[1]
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(f"drop database {name} with (force)".encode())


def test_a_policy_that_hides_rows_raises_instead(source: Database) -> None:
    source.execute("create table guarded (id int); insert into guarded values (1)")
    source.execute("alter table guarded enable row level security")
    guarded = ("public", "guarded")
    with connect(source.dsn, purpose="test") as session:
        with pytest.raises(OperatorNeeded) as told:
            table_digest(session, guarded, shape("id"))
        assert told.value.code == "row-security-hides-rows"
        with pytest.raises(OperatorNeeded, match="from our role on the replica") as told:
            named_tables(session, [guarded], server="the replica")
        assert told.value.code == "row-security-hides-rows"
