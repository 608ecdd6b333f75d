"""Sequences of a replica are where an application can go on at once (P23)."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import Any

from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database

SCHEMA = """
    create table customer (id int generated always as identity primary key, name text);
    create table invoice (id serial primary key, name text);
    create sequence "Odd ""name" increment -2 cache 20;
    create table numbered (id bigint primary key default nextval('"Odd ""name"'), name text);
    create sequence beside;
    create sequence round minvalue 1 maxvalue 5 cycle;
    create unlogged sequence crashy;
"""
ALL = ("customer_id_seq", "invoice_id_seq", '"Odd ""name"', "beside", "round", "crashy")


def begin(pipeline: Pipeline, schema: str = SCHEMA) -> None:
    pipeline.source.execute(schema)
    pipeline.start("run")
    pipeline.wait()


def standing(database: Database, *names: str) -> list[Any]:
    return [database.execute(f"select last_value, is_called from {name}")[0] for name in names]


def told(pipeline: Pipeline) -> int:
    """How many frames of the log are about sequences."""
    lines = pipeline.run("log", "ls", "--json", "--limit", "0").stdout.splitlines()
    return sum(json.loads(line)["kind"] == "sequences" for line in lines)


def read_at(pipeline: Pipeline) -> float:
    """When capture last read the sequences."""
    return float(pipeline.run("status", "--json").json["capture"]["sequences"]["read_at"])


def read_after(pipeline: Pipeline, at: float) -> bool:
    return read_at(pipeline) > at


def test_after_wait_an_application_can_go_on_at_the_replica(pipeline: Pipeline) -> None:
    begin(pipeline)
    pipeline.source.execute("insert into customer (name) select 'a' from generate_series(1, 70)")
    pipeline.source.execute("insert into invoice (name) select 'a' from generate_series(1, 7)")
    pipeline.source.execute("insert into numbered (name) select 'a' from generate_series(1, 7)")
    pipeline.source.execute(
        "select nextval('beside'), setval('crashy', 90, false) from generate_series(1, 3)"
    )
    pipeline.source.execute("select nextval('round') from generate_series(1, 7)")
    done = pipeline.run("wait", "standby", "--json")
    assert (done.json["sequences"], done.json["missing_sequences"]) == (6, [])
    assert standing(pipeline.replica, *ALL) == standing(pipeline.source, *ALL)
    pipeline.replica.execute(
        "insert into customer (name) values ('b'); insert into invoice (name) values ('b')"
    )


def test_what_no_row_tells_of_reaches_the_replica_and_then_nothing_is_written(pipeline: Pipeline) -> None:
    begin(pipeline)
    pipeline.source.execute("select nextval('beside') from generate_series(1, 30)")
    pipeline.until(lambda: standing(pipeline.replica, "beside") == [(30, True)], "the sequence")
    before = told(pipeline)
    for _ in range(2):
        last_at = read_at(pipeline)
        pipeline.until(partial(read_after, pipeline, last_at), "the next reading")
    assert told(pipeline) == before


def test_load_that_never_pauses_keeps_no_sequence_back(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    ended = threading.Event()

    def write() -> None:
        with pipeline.source.connect() as connection:
            while not ended.is_set():
                connection.execute("insert into invoice (name) values ('a')")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for least in (1, 500, 1000):
            pipeline.until(
                lambda: standing(pipeline.replica, "invoice_id_seq")[0][0] > least,  # noqa: B023
                "the sequence",
            )
    finally:
        ended.set()
        writer.join()
    pipeline.wait()
    last = standing(pipeline.replica, "invoice_id_seq")
    assert [(row[0], True) for row in pipeline.replica.execute("select max(id) from invoice")] == last


def test_a_sequence_that_was_set_back_is_followed_behind_the_rows_before(pipeline: Pipeline) -> None:
    begin(pipeline)
    pipeline.source.execute("insert into invoice (name) select 'a' from generate_series(1, 900)")
    pipeline.source.execute("insert into customer (name) select 'a' from generate_series(1, 900)")
    pipeline.wait()
    assert standing(pipeline.replica, "invoice_id_seq", "customer_id_seq") == [(900, True), (900, True)]
    pipeline.source.execute("delete from invoice; alter sequence invoice_id_seq restart 10")
    pipeline.source.execute("truncate customer restart identity")
    pipeline.source.execute(
        "insert into customer (name) values ('b'); insert into invoice (name) values ('b')"
    )
    names = ("invoice_id_seq", "customer_id_seq")
    pipeline.until(
        lambda: standing(pipeline.replica, *names) == standing(pipeline.source, *names), "both to go back"
    )
    assert standing(pipeline.replica, *names) == [(10, True), (1, True)]
    pipeline.verify()


def test_a_restart_changes_nothing(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.source.execute("insert into invoice (name) select 'a' from generate_series(1, 900)")
    pipeline.wait()
    before = standing(pipeline.replica, *ALL)
    pipeline.started[0].end()
    pipeline.source.execute("alter sequence invoice_id_seq restart")
    pipeline.start("run")
    pipeline.wait()
    assert standing(pipeline.replica, *ALL) == before, "nobody saw that it was set back: it stays past that"


def test_a_sequence_that_came_with_a_joining_table_is_kept(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.source.execute("create table late (id serial primary key, name text)")
    pipeline.source.execute("insert into late (name) select 'a' from generate_series(1, 50)")
    there = "select to_regclass('late_id_seq') is not null"
    pipeline.until(lambda: pipeline.replica.execute(there) == [(True,)], "the table to join")
    pipeline.wait()
    assert standing(pipeline.replica, "late_id_seq") == [(50, True)]


def test_a_replica_that_lacks_a_sequence_or_may_not_set_one_goes_on(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute("drop sequence beside; alter sequence crashy maxvalue 10")
    pipeline.source.execute("select nextval('beside'), setval('crashy', 90)")
    pipeline.source.execute("insert into invoice (name) values ('a')")
    done = pipeline.run("wait", "standby", "--timeout", "3")
    assert done.code == 7, pipeline.outputs()
    assert (
        "it holds all rows, but its sequence public.crashy is at 1, the source's was at 90\n" in done.stderr
    ), pipeline.outputs()
    pipeline.replica.execute("alter sequence crashy maxvalue 100 restart 100")
    done = pipeline.run("wait", "standby")
    assert done.code == 0
    assert "wait: standby has no sequence public.beside\n" in done.stderr
    assert pipeline.replica.execute("select id from invoice") == [(1,)]


def test_nobody_can_forge_where_a_sequence_stands(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.source.execute(
        "select pg_logical_emit_message(true, 'keepstream.sequences', 'public.beside 99')"
    )
    pipeline.source.execute("select pg_logical_emit_message(true, 'keepstream.wait', 'public.beside 99')")
    pipeline.wait()
    assert standing(pipeline.replica, "beside") == [(1, False)]
