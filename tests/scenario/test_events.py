"""`keepstream events tail`: what scripts rely on, on both logs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from tests.fix_pipeline import Pipeline

SCHEMA = """
    create table customer (id int primary key, name text, note text, amount numeric);
    alter table customer alter note set storage external;
    create table pair (a int, b text);
    create table big (id int primary key, filler text);
"""
FIELDS = {
    "schema", "name", "op", "key", "before", "after", "absent",
    "commit_lsn", "end_lsn", "ordinal", "xid", "commit_time",
}  # fmt: skip


def captured(pipeline: Pipeline) -> None:
    """Capture alone, and nothing missing in the log that is committed now."""
    pipeline.until(lambda: bool(slot(pipeline)), "the slot")

    def done() -> bool:
        ((at,),) = pipeline.source.execute("select pg_current_wal_insert_lsn()")
        ((reached,),) = pipeline.source.execute_as_admin(
            "select confirmed_flush_lsn >= %s from pg_replication_slots where slot_name = %s",
            [at, pipeline.slot],
        )
        return bool(reached)

    pipeline.source.execute("select pg_logical_emit_message(true, 'keepstream.wait', '')")
    pipeline.until(done, "a log that holds everything")


def slot(pipeline: Pipeline) -> list[Any]:
    return pipeline.source.execute_as_admin(
        "select 1 from pg_replication_slots where slot_name = %s and active", [pipeline.slot]
    )


def events(pipeline: Pipeline, *options: str) -> list[dict[str, Any]]:
    done = pipeline.run("events", "tail", "--json", "--no-follow", *options)
    assert done.code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def begun(pipeline: Pipeline) -> Any:
    pipeline.source.execute(SCHEMA)
    pipeline.settings["replicas"] = {}
    pipeline.write_config()
    running = pipeline.start("capture")
    pipeline.until(lambda: bool(slot(pipeline)), "the slot")
    return running


def test_every_kind_of_change_is_one_json_object_with_the_fields_that_scripts_rely_on(
    pipeline: Pipeline,
) -> None:
    begun(pipeline)
    source = pipeline.source
    source.execute("insert into customer values (1, 'Ada', repeat('n', 9000), 1.50), (2, null, '', 'NaN')")
    source.execute("update customer set name = 'Ada L.' where id = 1")
    source.execute("update customer set id = 10 where id = 2")
    source.execute("delete from customer where id = 10")
    source.execute("insert into pair values (1, 'x'); update pair set b = null where a = 1")
    source.execute("alter table customer add column phone text not null default '?'")
    source.execute("update customer set phone = '1' where id = 1")
    source.execute("select pg_logical_emit_message(true, 'crm', 'hello')")
    captured(pipeline)  # a new file beside a column not yet seen would be a doubt
    source.execute("truncate customer, pair")
    captured(pipeline)
    seen = events(pipeline, "--from", "start")
    assert all(set(event) == FIELDS for event in seen)
    assert [(event["name"], event["op"]) for event in seen] == [
        ("customer", "insert"), ("customer", "insert"), ("customer", "update"), ("customer", "update"),
        ("customer", "delete"), ("pair", "insert"), ("pair", "update"), ("customer", "ddl"),
        ("customer", "update"), (None, "message"), ("customer", "truncate"), ("pair", "truncate"),
    ]  # fmt: skip
    ada, second, toast, key_change, delete, _, full, ddl, phone, message, truncate, _ = seen
    assert ada["after"] == {"id": "1", "name": "Ada", "note": "n" * 9000, "amount": "1.50"}
    assert (ada["key"], ada["before"], ada["absent"]) == ({"id": "1"}, None, [])
    assert second["after"] == {"id": "2", "name": None, "note": "", "amount": "NaN"}
    assert (ada["ordinal"], second["ordinal"], ada["xid"]) == (0, 1, second["xid"])
    assert toast["after"] == {"id": "1", "name": "Ada L.", "amount": "1.50"}
    assert toast["absent"] == ["note"]
    assert (key_change["key"], key_change["before"]) == ({"id": "2"}, {"id": "2"})
    assert key_change["after"]["id"] == "10"
    assert (delete["key"], delete["before"], delete["after"]) == ({"id": "10"}, {"id": "10"}, None)
    assert (full["before"], full["after"]) == ({"a": "1", "b": "x"}, {"a": "1", "b": None})
    assert ddl["after"]["add_columns"][0]["name"] == "phone"
    assert ddl["after"]["add_columns"][0]["type"] == "text"
    assert (phone["after"]["phone"], phone["absent"]) == ("1", ["note"])
    assert message["after"] == {"prefix": "crm", "content": "hello"}
    assert (truncate["key"], truncate["before"], truncate["after"]) == (None, None, None)
    lsns = [(number(event["commit_lsn"]), event["ordinal"]) for event in seen]
    assert lsns == sorted(lsns)
    assert all(number(event["commit_lsn"]) < number(event["end_lsn"]) for event in seen)
    when = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
    assert all(when.fullmatch(event["commit_time"]) for event in seen)


def test_where_to_begin_and_which_tables(pipeline: Pipeline) -> None:
    begun(pipeline)
    for i in range(4):
        pipeline.source.execute("insert into customer values (%s)", [i])
        pipeline.source.execute("insert into pair values (%s)", [i])
    captured(pipeline)
    seen = events(pipeline, "--from", "start")
    assert [event["name"] for event in seen] == ["customer", "pair"] * 4
    third = seen[2]
    assert events(pipeline, "--from", third["commit_lsn"]) == seen[2:]
    assert events(pipeline, "--from", third["end_lsn"]) == seen[3:]
    assert events(pipeline, "--from", third["commit_time"]) == seen[2:]
    assert events(pipeline, "--from", "now") == []
    assert events(pipeline, "--from", "start", "--table", "*.pair") == seen[1::2]
    assert events(pipeline, "--from", "start", "--table", "public.customer", "--table", "public.pair") == seen
    assert events(pipeline, "--from", "start", "--table", "other.*") == []


def test_following_begins_with_what_is_committed_next_even_if_its_parts_came_before(
    pipeline: Pipeline,
) -> None:
    begun(pipeline)
    pipeline.source.execute("insert into customer values (1)")
    captured(pipeline)
    following = pipeline.start("events", "tail", "--json")
    pipeline.until(lambda: following.alive and bool(slot(pipeline)), "the tail")
    marks = 0

    def marked() -> bool:
        nonlocal marks
        marks += 1
        pipeline.source.execute("insert into customer values (%s)", [100 + marks])
        return "insert" in following.output

    pipeline.until(marked, "the first event")
    assert following.end() == 0
    first = json.loads(following.output.splitlines()[0])
    assert first["after"]["id"] != "1"


def test_a_transaction_larger_than_a_frame_comes_whole_and_an_aborted_run_of_parts_does_not(
    pipeline: Pipeline,
) -> None:
    pipeline.source.execute(SCHEMA)
    pipeline.settings["replicas"] = {}
    pipeline.write_config()
    pipeline.start("capture", env={"KEEPSTREAM_FAILPOINT": "capture.part_appended:2"})
    pipeline.until(lambda: bool(slot(pipeline)), "the slot")
    pipeline.source.execute(
        "insert into big select i, repeat(md5(i::text), 100) from generate_series(1, 2000) i;"
        " insert into big values (0, repeat('z', 1500000))"
    )
    (killed,) = pipeline.started
    assert killed.wait(30) == -9
    assert events(pipeline, "--from", "start") == []
    pipeline.start("capture")
    captured(pipeline)
    seen = events(pipeline, "--from", "start")
    assert [event["ordinal"] for event in seen] == list(range(2001))
    assert [event["after"]["id"] for event in seen] == [str(i) for i in range(1, 2001)] + ["0"]
    assert seen[-1]["after"]["filler"] == "z" * 1_500_000
    assert len({(event["xid"], event["commit_lsn"], event["end_lsn"]) for event in seen}) == 1


def test_a_joining_table_comes_with_its_definition_and_its_rows(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begun(pipeline)
    pipeline.source.execute(
        "create table late (id int primary key, body text);"
        " insert into late values (1, E'tab\\tline\\nback\\\\slash'), (2, null), (3, '')"
    )
    found: list[dict[str, Any]] = []

    def joined() -> bool:
        found[:] = events(pipeline, "--from", "start", "--table", "public.late")
        return len(found) >= 4

    pipeline.until(joined, "the table's rows", 40)
    ddl, *rows = found
    assert (ddl["op"], ddl["after"]["create_table"]) == ("ddl", ["id", "body"])
    assert [row["after"] for row in rows] == [
        {"id": "1", "body": "tab\tline\nback\\slash"},
        {"id": "2", "body": None},
        {"id": "3", "body": ""},
    ]
    assert {row["op"] for row in rows} == {"insert"}


def test_a_reader_that_goes_away_ends_it_without_an_error(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begun(pipeline)
    pipeline.source.execute("insert into customer select i, repeat('x', 500) from generate_series(1, 5000) i")
    captured(pipeline)
    command = [sys.executable, "-m", "pipeline.cli", "-c", str(pipeline.config_path)]
    command += ["events", "tail", "--from", "start", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["op"] == "insert"
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read() == ""


def test_a_beginning_before_the_log_s_is_refused_with_where_it_begins(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begun(pipeline)
    pipeline.source.execute("insert into customer values (1)")
    captured(pipeline)
    done = pipeline.run("events", "tail", "--no-follow", "--from", "0/1")
    begins = re.search(r"begins at ([0-9A-F]+/[0-9A-F]+), after position 0/1\n", done.stderr)
    assert (done.code, done.stdout) == (4, "")
    assert begins, done.stderr
    assert "error[log-trimmed]: the log " in done.stderr
    hint = f"hint: Begin where the log does, with `--from start`, or with an LSN from {begins[1]} on.\n"
    assert done.stderr.endswith(hint)
    assert len(events(pipeline, "--from", begins[1])) == 1


def test_text_has_one_line_for_each_event_whatever_its_names_are(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute('create table "x\x1b]0;y\x07\n\x9b" (id int primary key, "a\nb" text)')
    begun(pipeline)
    pipeline.source.execute("""insert into "x\x1b]0;y\x07\n\x9b" values (1, e'\\x1b\u009b')""")
    captured(pipeline)
    (line,) = pipeline.run("events", "tail", "--no-follow", "--from", "start").stdout.splitlines()
    assert line.isprintable()
    assert line.endswith(r'public.x\x1b]0;y\x07\n\x9b  id="1"  a\nb="\u001b\x9b"')


def test_what_cannot_be_understood_ends_with_2(directory_pipeline: Pipeline) -> None:
    for options, code in (
        (["--from", "yesterday"], "from-invalid"),
        (["--from", "2026-01-01T00:00:00"], "from-invalid"),
        (["--table", "customer"], "table-pattern-invalid"),
    ):
        done = directory_pipeline.run("events", "tail", *options)
        assert (done.code, done.stdout) == (2, "")
        assert f"error[{code}]" in done.stderr


def test_a_log_that_does_not_exist_ends_with_4(pipeline: Pipeline) -> None:
    done = pipeline.run("events", "tail", "--from", "start", "--no-follow")
    assert (done.code, done.stdout) == (4, "")
    assert "error[log-missing]" in done.stderr


def number(lsn: str) -> int:
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)
