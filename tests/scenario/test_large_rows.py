"""Values of hundreds of megabytes go every way unchanged: a text of 300 MB, and a bytea of 540 MB, whose text
PostgreSQL cannot make."""

from __future__ import annotations

import json

import pytest

from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database

MEGABYTES = 540
TEXT_MEGABYTES = 300
_SOME = "from generate_series(1, 31250) n"
BYTEA = f"(select convert_to(repeat(string_agg(md5(n::text), '') || 'x', {MEGABYTES}), 'UTF8') {_SOME})"
TEXT = f"(select repeat(string_agg(md5(n::text), '') || E'\\t漢\\\\', {TEXT_MEGABYTES}) {_SOME})"
"""Blocks of an odd megabyte, so that no piece of a value is like its neighbour."""

pytestmark = [pytest.mark.timeout(600), pytest.mark.long(60)]


def make_tables(source: Database) -> None:
    source.execute(
        """create type mood as enum ('sad', 'ok');
           create table doc (id int primary key, body bytea, note text, mood mood, at timestamptz,
                              tags text[]);
           create table bag (n int, body bytea, mood mood);
           alter table bag replica identity full;
           alter table doc alter body set storage external, alter note set storage external;
           alter table bag alter body set storage external"""
    )


def insert_doc(source: Database, number: int, *, body: str = "null", note: str = "null") -> None:
    source.execute(f"insert into doc values ({number}, {body}, {note}, 'sad', 'infinity', '{{a,NULL}}')")


def sizes(database: Database) -> list[tuple[object, ...]]:
    return database.execute(
        """select id::text, length(body), length(note), mood::text, at::text, tags::text from doc
            union all select n::text, length(body), null, mood::text, null, null from bag order by 1"""
    )


def test_a_bytea_whose_text_is_too_long_goes_every_way_and_what_follows_comes_as_text(
    directory_pipeline: Pipeline,
) -> None:
    pipeline, source = directory_pipeline, directory_pipeline.source
    make_tables(source)
    running = pipeline.start("run")
    pipeline.wait()
    insert_doc(source, 1, body=BYTEA)
    pipeline.wait(240)
    assert "rows come in binary form" in running.output
    pipeline.until(lambda: "rows come as text again" in running.output, "text form", 120)
    insert_doc(source, 2)
    pipeline.wait()
    assert sizes(pipeline.replica) == sizes(source)
    assert pipeline.verify()["identical"] is True
    tail = pipeline.run("events", "tail", "--json", "--from", "start", "--no-follow", "--longest", "100")
    events = [json.loads(line) for line in tail.stdout.splitlines()]
    assert [event["after"]["body"] for event in events] == [{"length": 2 + 2 * 1_000_001 * MEGABYTES}, None]
    assert [event["after"]["at"] for event in events] == ["infinity", "infinity"]
    running.end()


@pytest.mark.slow
def test_large_values_go_every_way_by_insert_update_and_delete(pipeline: Pipeline) -> None:
    source, replica = pipeline.source, pipeline.replica
    make_tables(source)
    pipeline.start("run")
    pipeline.wait()
    insert_doc(source, 1, body=BYTEA)
    insert_doc(source, 2, note=TEXT)
    source.execute(f"insert into bag values (3, {BYTEA}, 'ok')")
    source.execute("update doc set mood = 'ok'; update bag set mood = 'sad'")
    pipeline.wait(300)
    assert sizes(replica) == sizes(source)
    assert pipeline.verify()["identical"] is True
    source.execute("update bag set n = 4, body = ''")
    pipeline.wait(300)
    assert sizes(replica) == sizes(source)
    source.execute(f"update bag set body = {BYTEA}")
    source.execute("delete from bag")
    pipeline.wait(300)
    assert sizes(replica) == sizes(source)


@pytest.mark.slow
def test_the_first_copy_brings_rows_that_copy_cannot_send_as_text(directory_pipeline: Pipeline) -> None:
    """`doc` has columns whose binary form means something on its own server only."""
    pipeline, source = directory_pipeline, directory_pipeline.source
    make_tables(source)
    insert_doc(source, 1, body=BYTEA)
    insert_doc(source, 2, note=TEXT)
    source.execute(f"insert into bag values (3, {BYTEA}, 'ok')")
    running = pipeline.start("run")
    pipeline.wait(300)
    assert "rows too long for COPY" in running.output
    assert sizes(pipeline.replica) == sizes(source)
    assert pipeline.verify()["identical"] is True


@pytest.mark.slow
def test_a_table_with_such_rows_is_copied_anew_and_mended(directory_pipeline: Pipeline) -> None:
    """`doc` cannot go in binary form; on the replica it has a column of its own."""
    pipeline, source, replica = directory_pipeline, directory_pipeline.source, directory_pipeline.replica
    make_tables(source)
    source.execute("insert into doc (id, note) select i, 'n' || i from generate_series(2, 2000) i")
    insert_doc(source, 1, body=BYTEA)
    pipeline.start("run")
    pipeline.wait(300)
    replica.execute("update doc set note = 'ruined' where id < 9")
    done = pipeline.run("snapshot", "standby", "public.doc", timeout_s=240)
    assert done.code == 0, done.stderr
    assert sizes(replica) == sizes(source)
    replica.execute("alter table doc add own int default 7; update doc set mood = 'ok' where id = 1")
    replica.execute("delete from doc where id = 5")
    done = pipeline.run("verify", "standby", "--repair", "--json", timeout_s=240)
    assert done.json["identical"], done.stdout
    assert sizes(replica) == sizes(source)
    assert replica.execute("select own from doc where id = 1") == [(7,)]
