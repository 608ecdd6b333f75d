"""What a publication's column lists and row filters forbid is refused before it is in the log."""

from __future__ import annotations

import os
import signal

from tests.fix_pipeline import Pipeline
from tests.limited import LISTED, ORDERS, PEOPLE, publish, rows, told
from tests.tracked import install_triggers


def test_limits_that_would_make_writes_fail_or_that_postgresql_refuses_are_found_before_anything_is_made(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    pipeline.source.grant_ownership()
    pipeline.source.execute(ORDERS)
    pipeline.settings["source"]["tables"] = {
        "limits": {
            "public.orders": {"columns": ["note"]},
            "public.line": {"where": "no_such > 1"},
            "public.log_a": {"where": "id > (select 1)"},
            "public.gone": {"columns": ["id"]},
        }
    }
    pipeline.write_config()
    check = pipeline.run("check", "--json")
    found = {each["subject"]: each for each in check.json["findings"] if each["code"].startswith("limit-")}
    assert {subject: each["code"] for subject, each in found.items()} == {
        "public.orders": "limit-unfit",
        "public.line": "limit-refused",
        "public.log_a": "limit-refused",
        "public.gone": "limit-unused",
    }
    assert "no_such" in found["public.line"]["message"]
    assert pipeline.run("run").code == 4
    assert pipeline.source.execute("select count(*) from pg_publication") == [(0,)]


def test_a_row_that_comes_into_the_filter_without_all_of_its_values_stops_capture_and_was_warned_of(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute(
        "create table t (id int primary key, note text); alter table t alter note set storage external;"
        " insert into t values (1, repeat('x', 9999)), (2, 'short')"
    )
    publish(pipeline, "t where (id > 100)")
    warned = {each["code"]: each["fix"] for each in pipeline.run("check", "--json").json["findings"]}
    assert warned["filter-incomplete"] == 'alter table only "public"."t" replica identity full;'
    capture = pipeline.start("capture")
    pipeline.until(lambda: "log begun" in capture.output, "the log")
    pipeline.source.execute("update t set id = 102 where id = 2")
    pipeline.until(lambda: '"short"' in told(pipeline), "the row that is whole")
    pipeline.source.execute("update t set id = 101 where id = 1")
    assert capture.wait(30) == 4
    assert "error[row-incomplete]: an UPDATE of public.t brought a row into" in capture.output


REBUILT = """
    begin; alter table person rename to person_old;
    create table person (id int primary key, name text, secret text not null default 'made up');
    insert into person select id, name, secret from person_old;
    alter table plain rename to plain_old; create table plain (like plain_old including all); commit
"""


def test_a_table_that_is_built_anew_does_not_join_with_more_than_the_one_whose_name_it_has(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    source.grant_ownership()
    source.execute(PEOPLE)
    publish(pipeline, LISTED, "plain where (id < 100)")
    install_triggers(source)
    pipeline.settings["schema"] = {"policies": {"drop_table": "apply"}}
    pipeline.write_config()
    run = pipeline.start("run")
    pipeline.wait()
    source.execute(REBUILT)
    source.execute("create table other (id int primary key); drop table person_old, plain_old")
    names = "select tablename from pg_publication_tables where pubname = %s order by 1"
    pipeline.until(lambda: ("other",) in source.execute(names, [pipeline.slot]), "the other table", 60)
    pipeline.until(lambda: run.output.count("table left out") == 2, "the refusal of both", 60)
    assert "limits: {public.person: {columns: ['id', 'name', 'doc']}}" in run.output
    assert "limits: {public.plain: {where: …}}" in run.output
    assert source.execute(names, [pipeline.slot]) == [("other",)]
    run.end()
    pipeline.settings["source"]["tables"] = {"limits": {"public.person": {"columns": ["id", "name"]}}}
    pipeline.write_config()
    pipeline.start("run")
    pipeline.until(lambda: ("person",) in source.execute(names, [pipeline.slot]), "its joining", 60)
    pipeline.wait()
    pipeline.verify()
    assert rows(pipeline, "select count(*), count(secret) from person") == [(500, 0)]
    assert source.execute(names, [pipeline.slot]) == [("other",), ("person",)]


def test_capture_stops_where_a_table_without_a_limit_takes_the_name_of_one_that_has_it(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    source.execute(
        "create table t (id int primary key, n text, secret text);"
        " create table t_new (like t including all); create table u (like t including all)"
    )
    install_triggers(source)
    pipeline.settings["source"]["tables"] = {"limits": {"public.t": {"columns": ["id", "n"]}}}
    pipeline.write_config()
    capture = pipeline.start("capture")
    pipeline.until(lambda: "log begun" in capture.output, "the log")
    source.execute(
        "alter table t rename to u_old; alter table u_old rename to t; insert into u values (1, 'a')"
    )
    source.execute(
        "begin; alter table t rename to t_old; alter table t_new rename to t; commit;"
        " insert into t values (2, 'b', 'hidden')"
    )
    assert capture.wait(30) == 4
    assert "error[limit-differs]: table public.t_new was renamed to public.t" in capture.output
    again = pipeline.start("capture")
    assert again.wait(30) == 4
    assert "error[limit-differs]" in again.output
    seen = told(pipeline)
    assert '"a"' in seen
    assert "hidden" not in seen


def test_a_table_that_joins_before_the_stream_has_told_what_its_name_stands_for_is_not_in_the_log(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    source.grant_ownership()
    source.execute("create table t (id int primary key, n text)")
    publish(pipeline, "t (id)")
    install_triggers(source)
    capture = pipeline.start("capture")
    pipeline.until(lambda: "log begun" in capture.output, "the log")
    ((walsender,),) = source.execute_as_admin(
        "select active_pid from pg_replication_slots where slot_name = %s", [pipeline.slot]
    )
    os.kill(walsender, signal.SIGSTOP)
    try:
        source.execute(
            "alter table t rename to u; alter table u rename to t;"
            " create table u (like t including all); insert into u values (1, 'hidden')"
        )
        pipeline.until(lambda: "table joined table=public.u" in capture.output, "its joining", 60)
    finally:
        os.kill(walsender, signal.SIGCONT)
    assert capture.wait(30) == 4
    assert "error[limit-differs]: table public.u joins with all of it, under which name" in capture.output
    again = pipeline.start("capture")
    assert again.wait(30) == 4
    assert "error[limit-differs]: table public.u joins with all of it" in again.output
    assert "hidden" not in told(pipeline)


WHOLE = """
    create table t (id int, d int, n text, primary key (id, d));
    create table w (like t including all) partition by range (d);
    insert into t values (101, 15, 'hidden')
"""
LIMITED_PARTS = {"public.t": {"where": "id < 100"}, "public.p": {"columns": ["id", "d"]}}


def refused_part(pipeline: Pipeline, part: str, statement: str) -> str:
    """What the log tells of rows then."""
    capture = pipeline.start("capture")
    pipeline.until(lambda: "begun" in capture.output or "continued" in capture.output, "the log")
    pipeline.source.execute("insert into t values (1, 1, 'seen')")
    pipeline.until(lambda: '"seen"' in told(pipeline), "the row within the limit")
    pipeline.source.execute(statement)
    for again in (capture, pipeline.start("capture")):
        assert again.wait(30) == 4
        assert f"error[limit-differs]: table {part} is a partition of one that is" in again.output
    return told(pipeline)


def test_capture_stops_where_a_table_with_a_limit_becomes_a_part_of_a_whole_without(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute(WHOLE)
    pipeline.settings["source"] |= {"partitions": "root", "tables": {"limits": LIMITED_PARTS}}
    pipeline.write_config()
    install_triggers(pipeline.source)
    attached = "alter table w attach partition t default; insert into w values (102, 16, 'hidden')"
    assert "hidden" not in refused_part(pipeline, "public.t", attached)
    pipeline.source.execute_as_admin("drop table keepstream.schema_key cascade")
    assert "keepstream.schema_key is missing on the source" in pipeline.run("check").stdout


def test_no_part_of_a_whole_has_a_name_that_stands_for_a_limit_without_event_triggers_either(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    source.grant_ownership()
    source.execute(WHOLE)
    pipeline.settings["source"] |= {"partitions": "root", "tables": {"limits": LIMITED_PARTS}}
    pipeline.write_config()
    capture = pipeline.start("capture")
    pipeline.until(lambda: "log begun" in capture.output, "the log")
    source.execute(
        "create table x (like t including all) partition by range (d); create table p partition of x default;"
        " insert into x values (1, 1, 'hidden')"
    )
    pipeline.until(lambda: "table left out" in capture.output, "the refusal", 60)
    assert "table public.p is a partition of one that is replicated as a whole" in capture.output
    capture.end()
    source.execute("drop table x")
    assert "hidden" not in refused_part(pipeline, "public.p", "create table p partition of w default")
    checked = pipeline.run("check")
    assert checked.code == 4
    assert "table public.p is a partition of one that is replicated as a whole" in checked.stdout


def test_a_table_that_is_built_anew_as_a_partitioned_one_has_no_partition_in_the_log_with_all_of_it(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    source.grant_ownership()
    source.execute("create table t (id int primary key, n text); insert into t values (1, 'hidden')")
    publish(pipeline, "t (id)")
    install_triggers(source)
    capture = pipeline.start("capture")
    pipeline.until(lambda: "log begun" in capture.output, "the log")
    source.execute(
        "begin; alter table t rename to t_old;"
        " create table w (like t_old including all) partition by range (id);"
        " create table t partition of w for values from (0) to (10) partition by range (id);"
        " create table t_0 partition of t default partition by range (id);"
        " create table t_1 partition of t_0 default; create table w_1 partition of w default;"
        " insert into w select * from t_old; commit"
    )
    pipeline.until(lambda: "table joined table=public.w_1" in capture.output, "the other branch", 60)
    pipeline.until(lambda: "table left out table=public.t_1" in capture.output, "the refusal", 60)
    assert "it belongs to public.t, under which name only some columns or rows" in capture.output
    names = "select tablename from pg_publication_tables where pubname = %s order by 1"
    assert source.execute(names, [pipeline.slot]) == [("t_old",), ("w_1",)]


def test_capture_begins_no_log_of_lists_that_no_replica_can_hold_or_with_limits_without_effect(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    source.grant_ownership()
    source.execute(
        f"{ORDERS}; create domain some_text as text not null; truncate line;"
        " alter table line add held some_text"
    )
    pipeline.settings["source"]["tables"] = {"limits": {"public.log": {"where": "id > 50"}}}
    pipeline.write_config()
    capture = pipeline.start("capture")
    assert capture.wait(30) == 4
    assert "error[limit-unused]: public.log: source.tables.limits names it" in capture.output
    assert source.execute("select count(*) from pg_publication") == [(0,)]
    pipeline.settings["source"]["tables"] = {}
    pipeline.write_config()
    name = pipeline.slot
    source.execute(
        f"create publication {name} for table log where (id > 50) with (publish_via_partition_root)"
    )
    capture = pipeline.start("capture")
    assert capture.wait(30) == 4
    assert f"error[publication-unfit]: publication {name} sends some columns or rows" in capture.output
    source.execute(f"drop publication {name}")
    publish(pipeline, "line (id)")
    capture = pipeline.start("capture")
    assert capture.wait(30) == 4
    assert "error[limit-unfit]: public.line: column held is not listed" in capture.output
    slots = "select count(*) from pg_replication_slots where database = current_database()"
    assert source.execute(slots) == [(0,)]
