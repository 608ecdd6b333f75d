"""Rows by way of a temporary table: every type arrives as COPY would have brought it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from connectors.postgres.binary.wide_copy import copy_wide
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
