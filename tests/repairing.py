"""What the tests of `snapshot` and `verify --repair` share: a replica with something of everything."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database

SCHEMA = """
    create table customer (id int generated always as identity primary key, email text unique, note text,
                           body text, photo bytea, credit numeric, upper_email text
                           generated always as (upper(email)) stored);
    create table invoice (id int primary key, customer int references customer, total numeric);
    create table tag (customer int, label text);
    create table busy (id int primary key, n int);
    create table part (id int, v text, primary key (id)) partition by range (id);
    create table part_1 partition of part for values from (0) to (1000);
    create table part_2 partition of part for values from (1000) to (2000);
"""
TABLES = ("customer", "invoice", "tag", "part", "busy")
FILL = """
    insert into customer (email, note, body, photo, credit)
    select 'c' || i, nullif('', 'x'), repeat(md5(i::text), 200 + i % 100), sha256(i::text::bytea), i / 7.0
      from generate_series(1, 400) i;
    insert into invoice select i, i, i from generate_series(1, 400) i;
    insert into tag select i % 5, 'old' from generate_series(1, 100) i;
    insert into part select i, 'p' || i from generate_series(0, 1999) i;
    insert into busy select i, 0 from generate_series(1, 50) i;
"""


def begin(pipeline: Pipeline, schema: str = SCHEMA, fill: str = FILL, replica: str | None = None) -> None:
    """A replica that follows and is equal."""
    pipeline.source.execute(schema)
    pipeline.replica.execute(replica or schema)
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.wait()
    pipeline.source.execute(fill)
    pipeline.wait()


@contextmanager
def traffic(source: Database) -> Iterator[list[int]]:
    """An application at work, on rows that nobody damages; yields a list that grows with each commit."""
    stop, committed, failed = threading.Event(), list[int](), list[BaseException]()

    def work() -> None:
        n = 0
        with source.connect() as connection:
            while not stop.wait(0.005):
                n += 1
                try:
                    connection.execute("update busy set n = n + 1 where id = %s", [n % 50 + 1])
                    connection.execute("insert into tag values (%s, 'new')", [n + 1000])
                    connection.execute("update part set v = 'later' where id = %s", [1900 + n % 100])
                    committed.append(n)
                except psycopg.Error as error:
                    failed.append(error)
                    return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield committed
    finally:
        stop.set()
        thread.join()
    assert not failed


def contents(database: Database, tables: tuple[str, ...] = TABLES) -> dict[str, str]:
    """A digest of each table that knows nothing of ours."""
    query = "select md5(coalesce(string_agg(t::text, e'\\n' order by t::text collate \"C\"), '')) from {} t"
    return {table: database.execute(query.format(table))[0][0] for table in tables}


def require_equal(pipeline: Pipeline, tables: tuple[str, ...] = TABLES) -> None:
    """By their contents, as soon as the replica has caught up; and by a verification."""
    pipeline.wait()
    assert contents(pipeline.replica, tables) == contents(pipeline.source, tables)
    assert pipeline.verify()["identical"]
