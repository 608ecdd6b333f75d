"""Names of any kind, and tables as wide as PostgreSQL makes them, go every way."""

from __future__ import annotations

import json

import psycopg
import pytest
from psycopg import sql

from pipeline.config import TablePattern
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database
from tests.tracked import install_triggers

ODD = [
    'quo"te', "apos'trophe", "dot.ted", "select", "größe 漢字 😀", "x" * 63, "ü" * 31, "a b", "a_b", "a.b",
    "A_B", "1st", "$1", "%s", "{0}", "back\\slash", "new\nline", "tab\t", "*",
    "; drop table t --", "\u202egnp",
]  # fmt: skip


def identifier(*names: str) -> str:
    return sql.Identifier(*names).as_string()


def make_type(database: Database, schema: str, table: str) -> str:
    """In a schema of its own, an enum with odd labels."""
    mood = identifier(schema, f"mood of {table}"[:60])
    labels = ", ".join(sql.Literal(label).as_string() for label in ODD)
    database.execute(f"create schema {identifier(schema)}; create type {mood} as enum ({labels})")
    return mood


def make(source: Database, schema: str, table: str, mood: str) -> None:
    """A table with a column of each odd name, and a row."""
    columns = ", ".join(f"{identifier(name)} {mood}" for name in ODD)
    source.execute(f"create table {identifier(schema, table)} (id int primary key, {columns})")
    write(source, schema, table, 1)


def write(source: Database, schema: str, table: str, key: int) -> None:
    """A row in which each column's value is its name."""
    marks = ", ".join(["%s"] * len(ODD))
    into = identifier(schema, table).replace("%", "%%")
    source.execute(f"insert into {into} values ({key}, {marks})", ODD)


def rows(database: Database, schema: str, table: str) -> list[tuple[object, ...]]:
    try:
        return database.execute(f"select * from {identifier(schema, table)} order by id")
    except psycopg.errors.UndefinedTable:
        return []


@pytest.mark.long(25)
@pytest.mark.usefixtures("looking_often")
def test_names_of_any_kind_go_every_way(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    tables = [*zip(ODD, reversed(ODD), strict=True), ("dot.t", "ed"), ("dot", "t.ed")]
    for schema, table in tables[::2]:
        make(source, schema, table, make_type(source, schema, table))
    named = [TablePattern.naming(*each).text for each in tables]
    limits = {name: {"where": "id > 0"} for name in named}
    pipeline.settings["source"]["tables"] = {"include": named, "exclude": ['"*".t'], "limits": limits}
    pipeline.write_config()
    pipeline.start("run")
    pipeline.wait()
    for schema, table in tables[1::2]:  # a table that joins needs its schema and types there
        make_type(replica, schema, table)
        make(source, schema, table, make_type(source, schema, table))
    for schema, table in tables:
        write(source, schema, table, 2)
        source.execute(f"update {identifier(schema, table)} set id = 3 where id = 1")
    last = tables[-2]
    pipeline.until(lambda: all(rows(replica, *each) for each in tables), "the joining", 60)
    pipeline.wait()
    wanted = [(2, *ODD), (3, *ODD)]
    assert {each: rows(replica, *each) for each in tables} == dict.fromkeys(tables, wanted)
    install_triggers(source)
    for schema, table in tables:
        source.execute(f"update {identifier(schema, table)} set id = 1 where id = 3")
    pipeline.wait()
    assert [rows(replica, *each)[0][0] for each in tables] == [1] * len(tables)
    chosen = [part for name in named for part in ("--tables", name)]
    assert len(pipeline.verify(*chosen)["tables"]) == len(tables)
    done = pipeline.run("snapshot", "standby", *named, "--json")
    assert (done.code, len(done.json["tables"])) == (0, len(tables)), done.stderr
    tail = pipeline.run("events", "tail", "--json", "--from", "start", "--no-follow")
    events = [json.loads(line) for line in tail.stdout.splitlines()]
    inserted = [
        each["after"] for each in events if (each["schema"], each["name"], each["op"]) == (*last, "insert")
    ]
    assert {"id": "2", **{name: name for name in ODD}} in inserted


def test_a_table_of_1600_columns_goes_every_way(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica

    def wide(name: str) -> None:
        columns = ", ".join(f"c{number} int" for number in range(1599))
        values = ", ".join(str(number) for number in range(1599))
        source.execute(f"create table {name} (id int primary key, {columns})")
        source.execute(f"insert into {name} values (1, {values}), (2, {values})")

    wide("copied")
    pipeline.start("run")
    pipeline.wait()
    source.execute("insert into copied (id, c1598) select g, g from generate_series(3, 200) g")
    source.execute("update copied set c0 = null; update copied set id = 0, c1 = 7 where id = 1")
    wide("joined")
    pipeline.until(lambda: bool(rows(replica, "public", "joined")), "the joining", 60)
    source.execute("update joined set c1598 = -1; delete from joined where id = 2")
    pipeline.wait()
    for table in ("copied", "joined"):
        assert rows(replica, "public", table) == rows(source, "public", table) != []
    pipeline.verify()
