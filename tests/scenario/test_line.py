"""The thin line end to end: capture and apply as a user runs them, then wait, verify, status."""

from __future__ import annotations

from tests.fix_pipeline import Pipeline

SCHEMA = """
    create table customer (id int primary key, name text, credit numeric(10,2),
                           created timestamptz default now());
    create table contact (id bigint generated always as identity primary key,
                          customer int references customer on delete cascade, note text);
"""


def test_changes_reach_a_prepared_replica_and_verify_proves_it(pipeline: Pipeline) -> None:
    for side in (pipeline.source, pipeline.replica):
        side.execute(SCHEMA)
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.wait()
    pipeline.source.execute(
        "insert into customer select i, 'c' || i, i * 1.5 from generate_series(1, 500) i;"
        " insert into contact (customer, note) select i, repeat('x', i) from generate_series(1, 500) i"
    )
    pipeline.source.execute("update customer set name = name || '!' where id % 2 = 0")
    pipeline.source.execute("update customer set id = id + 10000 where id = 7 and false")
    pipeline.source.execute("delete from customer where id <= 50")
    pipeline.wait()
    result = pipeline.verify()
    assert result["identical"] is True
    assert {table["table"]: table["rows"] for table in result["tables"]} == {
        "public.contact": 450,
        "public.customer": 450,
    }


def test_run_copies_an_empty_replica_and_then_streams(pipeline: Pipeline) -> None:
    pipeline.source.execute(SCHEMA)
    pipeline.source.execute("insert into customer select i, 'c' || i, 1 from generate_series(1, 2000) i")
    running = pipeline.start_process("run")
    pipeline.wait()
    pipeline.source.execute("update customer set credit = id where id <= 100")
    pipeline.source.execute("delete from customer where id > 1900")
    pipeline.source.execute("insert into contact (customer, note) values (1, 'first')")
    pipeline.wait()
    result = pipeline.verify()
    assert {table["table"]: table["rows"] for table in result["tables"]} == {
        "public.contact": 1,
        "public.customer": 1900,
    }
    assert running.end() == 0


def test_a_file_that_others_may_read_is_warned_of_once_a_run(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute("create table t (id int primary key)")
    pipeline.config_path.chmod(0o644)
    running = pipeline.start("run")
    pipeline.wait()
    assert running.output.count("readable by others") == 1
    assert running.output.count("chmod 600") == 1


def test_a_row_altered_on_the_replica_is_named(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    for side in (pipeline.source, pipeline.replica):
        side.execute(SCHEMA)
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.wait()
    pipeline.source.execute("insert into customer select i, 'c' || i, 1 from generate_series(1, 100) i")
    pipeline.wait()
    pipeline.replica.execute(
        "update customer set credit = 2 where id = 42; delete from customer where id = 43"
    )
    done = pipeline.run("verify", "standby", "--json")
    assert done.code == 6
    (differing,) = (table for table in done.json["tables"] if not table["identical"])
    assert differing["table"] == "public.customer"
    assert differing["differing_keys"] == [
        {"key": {"id": "42"}, "difference": "values differ", "columns": ["credit"]},
        {"key": {"id": "43"}, "difference": "missing on the replica", "columns": []},
    ]
