"""Rows by way of a temporary table: every type arrives as COPY would have brought it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from connectors.postgres.binary.wide_copy import Aside, copy_wide
from connectors.postgres.mend.bringing import Copying, bring
from connectors.postgres.session import Session, connect
from tests.extreme_values import ROWS, SETUP
from tests.fix_postgres import Database
from tests.scenario.test_types import made_types, shown

EVERY = sql.SQL("")


@pytest.fixture
def sessions(source: Database, replica: Database) -> Iterator[tuple[Session, Session]]:
    with (
        connect(source.owner_dsn, purpose="test") as reader,
        connect(replica.owner_dsn, purpose="test") as writer,
    ):
        yield reader, writer


def copy(sessions: tuple[Session, Session], *columns: str) -> int:
    reader, writer = sessions
    name = ("public", "bag")
    with writer.transaction():
        return copy_wide(
            reader, writer, table=name, target=name, columns=columns, where=EVERY, tick=lambda *_: None
        )


def test_every_type_arrives_unchanged(
    source: Database, replica: Database, sessions: tuple[Session, Session]
) -> None:
    values = made_types(source, replica)
    replica.execute(SETUP)
    columns = [f"c{number}" for number in range(len(values))]
    declared = ", ".join(f"{column} {name}" for column, name in zip(columns, values, strict=True))
    for database in (source, replica):
        database.execute(f"create table bag (n int, {declared})")
    places = ", ".join(["%s"] * (len(values) + 1))
    with source.connect() as connection:
        for number in range(ROWS):
            texts = [texts[number] if number < len(texts) else None for texts in values.values()]
            connection.execute(f"insert into bag values ({places})".encode(), [number, *texts])
    assert copy(sessions, "n", *columns) == ROWS
    assert shown(replica, bag="n") == shown(source, bag="n")


def test_a_prepared_table_takes_what_fits_and_cuts_nothing(
    source: Database, replica: Database, sessions: tuple[Session, Session]
) -> None:
    source.execute(
        "create domain image as bytea;"
        "create table bag (id int generated always as identity, body image, v text)"
    )
    replica.execute(
        "create table bag (v varchar(3), body bytea, id int generated always as identity, more int default 7)"
    )
    source.execute("insert into bag (body, v) values ('\\x00ff', 'abc'), (null, null)")
    assert copy(sessions, "id", "body", "v") == 2
    assert replica.execute("select * from bag order by id") == [("abc", b"\0\xff", 1, 7), (None, None, 2, 7)]
    source.execute("insert into bag (v) values ('abcd')")
    with pytest.raises(psycopg.errors.StringDataRightTruncation):
        copy(sessions, "id", "body", "v")
    assert replica.execute("select count(*) from bag") == [(2,)]


def test_rows_wait_aside_with_their_places(
    source: Database, replica: Database, sessions: tuple[Session, Session]
) -> None:
    reader, writer = sessions
    for database in (source, replica):
        database.execute("create type mood as enum ('sad'); create table bag (id int, body bytea, mood mood)")
    source.execute("insert into bag values (1, '\\x00ff', 'sad'), (2, null, null)")
    name = ("public", "bag")
    with writer.transaction():
        writer.execute("create temp table aside as select ''::text as place, * from public.bag limit 0")
        aside = Aside(sql.Identifier("pg_temp", "aside"), "place", sql.SQL("ctid::text"))
        came = copy_wide(
            reader,
            writer,
            table=name,
            target=name,
            columns=("id", "body", "mood"),
            where=sql.SQL(" where id = 1"),
            aside=aside,
            in_chunks=True,
            tick=lambda *_: None,
        )
        rows = writer.execute("select place, id, body, mood::text from aside").fetchall()
    assert came == 1
    assert rows == [("(0,1)", 1, b"\0\xff", "sad")]


def test_rows_before_one_that_is_too_long_come_once(
    source: Database, replica: Database, sessions: tuple[Session, Session]
) -> None:
    """What PostgreSQL says of a gigabyte is said here by a function: the slow tests have real rows."""
    reader, writer = sessions
    for database in (source, replica):
        database.execute("create type mood as enum ('sad'); create table bag (id int primary key, mood mood)")
    source.execute(
        "insert into bag select i, 'sad' from generate_series(1, 50000) i;"
        " create function sent(int) returns int language plpgsql as $$ begin if $1 = 49000 then"
        " raise 'invalid memory alloc request size 1080000005' using errcode = 'XX000'; end if;"
        " return $1; end $$"
    )
    copying = Copying(
        "copy (select public.sent(id), mood from public.bag) to stdout",
        "copy public.bag from stdin",
        binary=False,
    )
    seen = []

    def wide() -> int:
        seen.append(writer.execute("select count(*) from public.bag").fetchall())
        where, name = sql.SQL(""), ("public", "bag")
        return copy_wide(
            reader,
            writer,
            table=name,
            target=name,
            columns=("id", "mood"),
            where=where,
            tick=lambda *_: None,
            in_chunks=True,
        )

    with reader.transaction(), writer.transaction():
        came = bring(reader, writer, copying, table="public.bag", wide=wide, tick=lambda *_: None)
    assert (came, seen) == (50000, [[(0,)]])
    assert replica.execute("select count(*), max(mood) from bag") == [(50000, "sad")]
