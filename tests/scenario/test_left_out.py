"""A column or table that a policy has a replica go without: compared and mended without it, and a column is
taken up once it is there."""

from __future__ import annotations

from typing import Any

from connectors.postgres.apply.plans import OLDER_ROWS
from tests.fix_pipeline import Pipeline, Running
from tests.tracked import install_triggers


def table(found: Any) -> Any:
    (only,) = found["tables"]
    return only


def begin(pipeline: Pipeline, **policies: str) -> Running:
    """With a table of fifty rows and these policies; `run`, once the replica has them."""
    pipeline.settings["schema"] = {"policies": policies}
    pipeline.write_config()
    pipeline.source.execute("create table customer (id int primary key, name text)")
    pipeline.source.execute("insert into customer select i, 'c' || i from generate_series(1, 50) i")
    install_triggers(pipeline.source)
    running = pipeline.start("run")
    pipeline.wait()
    return running


def test_a_column_left_out_is_compared_mended_and_taken_up(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    running = begin(pipeline, add_column="ignore", create_table="ignore")
    source.execute(
        "create table ignored (id int primary key); alter table customer add phone text default 'none'"
    )
    source.execute("insert into customer values (51, 'x', 'y')")
    pipeline.wait()
    assert "identical, without phone, which a policy leaves out" in pipeline.run("verify", "standby").stdout
    replica.execute("update customer set name = 'ruined' where id < 5; delete from customer where id = 9")
    done = pipeline.run("verify", "standby", "--repair", "--json").json
    assert table(done)["left_out"] == ["phone"]
    assert (done["identical"], done["repairs"][0]["changed"], done["repairs"][0]["missing"]) == (True, 4, 1)

    replica.execute("alter table customer add phone text")
    source.execute("update customer set phone = 'new' where id = 1")
    pipeline.wait()
    assert replica.execute("select phone from customer where id in (1, 2) order by id") == [("new",), (None,)]
    assert replica.execute("select table_name from keepstream.schema_left_out") == [("ignored",)]
    audited = "select details->>'column', reason from keepstream.audit where action = 'column-taken-up'"
    assert replica.execute(audited) == [("phone", f"rows from before {OLDER_ROWS}")]
    assert "column taken up" in running.output
    assert pipeline.run("snapshot", "standby", "public.customer").code == 0
    published = "select count(*) from pg_publication_tables where pubname = %s and tablename = 'ignored'"
    pipeline.until(lambda: source.execute(published, [pipeline.slot]) == [(1,)], "the other table's joining")
    done = pipeline.run("verify", "standby", "--json").json
    assert (done["identical"], table(done)["left_out"]) == (True, [])
    assert done["not_replicated"] == [
        {"table": "public.ignored", "reason": "a policy has this replica go without it"}
    ]


def test_a_column_left_out_by_which_rows_are_found_later_is_taken_up_with_a_copy(
    directory_pipeline: Pipeline,
) -> None:
    """Two rows of the source may differ in nothing else: without it the replica cannot tell them apart."""
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    running = begin(pipeline, add_column="ignore")
    source.execute(
        "alter table customer add phone text default 'none' || random();"
        " alter table customer drop constraint customer_pkey, add primary key (id, phone)"
    )
    source.execute("insert into customer values (1, 'twin', 'y'); delete from customer where id = 2")
    pipeline.until(lambda: "exit_code=4" in running.output, "apply's end")
    assert "it goes without column phone, by which the source finds its rows now" in running.output
    add = 'alter table "public"."customer" add column if not exists "phone" text;'
    assert f"  {add}  -- then its rows are copied, by the applier itself" in running.output
    running.wait(15)
    replica.execute(add)
    pipeline.start("run")
    left_out = "select count(*) from keepstream.schema_left_out"
    pipeline.until(lambda: replica.execute(left_out) == [(0,)], "the copy")
    source.execute("update customer set name = 'z' where phone = 'y'; delete from customer where id = 3")
    pipeline.wait()
    assert pipeline.verify()["identical"] is True
    for (statement,) in replica.execute("select statement from keepstream.deferred_ddl order by id"):
        replica.execute(statement)
    rows = "select * from customer order by id, phone"
    assert replica.execute(rows) == source.execute(rows)
    key = "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'customer'::regclass"
    assert ("PRIMARY KEY (id, phone)",) in replica.execute(key)
