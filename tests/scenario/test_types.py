"""Every type that the server has goes every way: first copy, log, join, events and verify."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from schemas.pgtypes import FIRST_USER_OID, format_type
from tests.extreme_values import CONTRIB, EXTENSIONS, ROWS, SETUP, VALUES
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database

LATER = 1000
# They take no input. And xml, which the wheel's server is built without.
WITHOUT_VALUES = {
    "gtsvector", "ghstore", "ltree_gist", "intbig_gkey",
    "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_dependencies", "pg_mcv_list",
    "pg_ndistinct", "pg_node_tree", "xml",
}  # fmt: skip


@dataclass(frozen=True)
class Typed:
    """A pipeline whose source has tables `kept`, with a key, and `bag`, without: a column for each type."""

    pipeline: Pipeline
    values: dict[str, list[str]]

    @property
    def columns(self) -> list[str]:
        return [f"c{number}" for number in range(len(self.values))]

    def insert(self, first: int) -> None:
        """All values, from this id on, into both tables."""
        places = ", ".join(["%s"] * (len(self.values) + 1))
        columns = ", ".join(self.columns)
        with self.pipeline.source.connect(autocommit=False) as connection:
            for number in range(ROWS):
                texts = [texts[number] if number < len(texts) else None for texts in self.values.values()]
                for into in (f"kept (id, {columns})", f"bag (n, {columns})"):
                    statement = f"insert into {into} values ({places})"
                    connection.execute(statement.encode(), [first + number, *texts])


def made_types(*databases: Database) -> dict[str, list[str]]:
    """Make what types need on all of these; the values of those that the servers have."""
    values = dict(VALUES)
    for database in databases:
        there = {name for (name,) in database.execute("select name from pg_available_extensions")}
        for extension in [*EXTENSIONS, *(name for name in CONTRIB if name in there)]:
            database.execute_as_admin(f"create extension {extension} schema public cascade")
            values.update(CONTRIB.get(extension, {}))
    databases[0].execute(SETUP)
    return values


def make_typed(pipeline: Pipeline, more: Mapping[str, list[str]]) -> Typed:
    """`more`: values of types that only some servers have."""
    made = Typed(pipeline, {**made_types(pipeline.source, pipeline.replica), **more})
    declared = ", ".join(f"{column} {name}" for column, name in zip(made.columns, made.values, strict=True))
    made.pipeline.source.execute(f"create table kept (id int primary key, touched int, {declared})")
    made.pipeline.source.execute(f"create table bag (n int, {declared})")
    made.insert(0)
    return made


@pytest.fixture
def typed(directory_pipeline: Pipeline) -> Typed:
    return make_typed(directory_pipeline, {})


def shown(database: Database, **keys: str) -> dict[str, list[bytes]]:
    """The rows of these tables as COPY shows them, each in the order of its key."""
    with psycopg.connect(database.owner_dsn) as connection:
        return {table: copied(connection, table, key) for table, key in keys.items()}


def copied(connection: psycopg.Connection, table: str, key: str) -> list[bytes]:
    query = f"copy (select * from {table} order by {key}) to stdout"
    with connection.cursor().copy(query.encode()) as copy:
        return b"".join(copy).splitlines()


def test_every_type_goes_every_way_unchanged(typed: Typed) -> None:
    typed.pipeline.start("run")
    typed.pipeline.wait()
    here, there = go_every_way(typed)
    assert here == there


def go_every_way(typed: Typed) -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    """What replica and source hold in the end. By copy, insert, update, delete by all values, and with a
    table that joins; `verify` says so, too. The pipeline runs."""
    pipeline, source, replica = typed.pipeline, typed.pipeline.source, typed.pipeline.replica
    assert shown(replica, kept="id", bag="n") == shown(source, kept="id", bag="n")
    assert pipeline.verify()["identical"] is True
    typed.insert(LATER)
    columns, others = ", ".join(typed.columns), ", ".join(f"o.{column}" for column in typed.columns)
    source.execute("create table later as table kept; alter table later add primary key (id)")
    source.execute("update kept set touched = 1; update bag set n = n + 1")
    source.execute(
        f"update kept k set ({columns}) = row({others}) from kept o where k.id = o.id + {LATER - 1}"
    )
    source.execute("delete from bag where n % 5 = 2; delete from kept where id % 5 = 2")
    pipeline.until(lambda: has_table(replica, "later"), "the joining", 60)
    pipeline.wait()
    assert pipeline.verify()["identical"] is True
    keys = {"kept": "id", "bag": "n", "later": "id"}
    return shown(replica, **keys), shown(source, **keys)


def has_table(database: Database, name: str) -> bool:
    return bool(database.execute("select 1 from pg_class where relname = %s", [name]))


def test_events_show_every_type_as_sql_does(typed: Typed) -> None:
    pipeline = typed.pipeline
    pipeline.start("run")
    pipeline.wait()
    typed.insert(LATER)
    pipeline.wait()
    tail = pipeline.run(
        "events", "tail", "--json", "--from", "start", "--no-follow", "--table", "public.kept"
    )
    events = [json.loads(line) for line in tail.stdout.splitlines()]
    seen = [[event["after"][column] for column in typed.columns] for event in events]
    with psycopg.connect(pipeline.source.owner_dsn) as connection:
        connection.execute("set extra_float_digits = 1; set intervalstyle = postgres")
        query = sql.SQL("select {} from kept where id >= {} order by id").format(
            sql.SQL(", ").join(
                sql.SQL("nullif(format('%s-', {0}), case when {0}::text is null then '-' end)").format(
                    sql.Identifier(column)
                )
                for column in typed.columns
            ),
            LATER,
        )
        rows = connection.execute(query).fetchall()
    assert seen == [[None if value is None else value[:-1] for value in row] for row in rows]


def test_no_type_of_the_server_is_forgotten(source: Database) -> None:
    """A type that a column may have, and that nobody thought of, is found here and not by a user."""
    for number, name in enumerate(made_types(source)):
        source.execute(f"create table tried_{number} (c {name})")
    forgotten = source.execute(
        """select t.oid::regtype::text from pg_type t
             left join pg_class c on c.oid = t.typrelid
            where t.typtype in ('b', 'c', 'd', 'e', 'm', 'r') and t.typcategory <> 'A'
              and (t.typrelid = 0 or c.relkind = 'c')
              and t.typnamespace <> 'information_schema'::regnamespace
              and not exists (select from pg_attribute a join pg_class r on r.oid = a.attrelid
                               where r.relname like 'tried\\_%' and a.atttypid = t.oid)"""
    )
    assert {name for (name,) in forgotten} <= WITHOUT_VALUES


def test_every_type_that_the_stream_does_not_name_is_known(source: Database) -> None:
    """Catalogs' row types, too, and arrays."""
    unnamed = source.execute(
        """select t.oid::int, format_type(t.oid, -1) from pg_type t left join pg_type e on e.oid = t.typelem
            where t.oid < %s and t.typtype <> 'p' and (t.typcategory <> 'A' or e.typtype <> 'p')""",
        [FIRST_USER_OID],
    )
    assert {oid: format_type(oid, -1) for oid, _ in unnamed} == dict(unnamed)
