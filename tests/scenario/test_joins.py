"""Tables that are made while a pipeline runs: they join by themselves, or are left out and say why."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.join import Join
from tests.fix_pipeline import Pipeline
from tests.postgres_releases import needs_release

JOIN_S = 60.0

pytestmark = pytest.mark.usefixtures("looking_often")


def left_out(pipeline: Pipeline) -> dict[str, str]:
    """Reasons by table."""
    status: dict[str, Any] = pipeline.run("status", "--json").json
    return {each["table"]: each["reason"] for each in status["not_replicated"]}


def width(pipeline: Pipeline, table: str) -> int:
    """How many columns the replica's table has."""
    query = "select count(*) from pg_attribute where attrelid = %s::regclass and attnum > 0"
    return int(pipeline.replica.execute(query, [table])[0][0])


def has(pipeline: Pipeline, query: str) -> bool:
    found: tuple[Any, ...] = pipeline.replica.execute(query)[0]
    return bool(found[0])


def test_partitions_join_and_what_a_replica_cannot_make_is_left_out_until_it_can(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    source.execute(
        "create table ev (id int, d int, note text, primary key (id, d)) partition by range (d);"
        " create index on ev (note);"
        " create table ev1 partition of ev for values from (0) to (10);"
        " insert into ev values (1, 1, 'first')"
    )
    pipeline.start("run")
    pipeline.wait()
    source.execute(
        "create table ev2 partition of ev for values from (10) to (20);"
        " insert into ev values (2, 11, 'second');"
        " create table wholly (id int primary key, n int) partition by list (id);"
        " create table wholly1 partition of wholly for values in (1); insert into wholly values (1, 1);"
        " create schema later; create type later.mood as enum ('good', 'bad');"
        " create table later.told (id int primary key, mood later.mood);"
        " insert into later.told values (1, 'bad')"
    )
    pipeline.until(lambda: has(pipeline, "select to_regclass('ev2') is not null"), "the partition", JOIN_S)
    pipeline.until(lambda: has(pipeline, "select to_regclass('wholly1') is not null"), "the leaf", JOIN_S)
    pipeline.wait()
    assert replica.execute("select * from ev order by id") == [(1, 1, "first"), (2, 11, "second")]
    assert replica.execute("select count(*) from pg_index where indrelid = 'ev2'::regclass") == [(2,)]
    assert replica.execute("select * from wholly1") == [(1, 1)]
    pipeline.until(lambda: "later.told" in left_out(pipeline), "the table that was left out", JOIN_S)
    assert left_out(pipeline)["later.told"] == (
        "replica standby lacks what it needs: schema later, type later.mood."
        " Make that there as on the source; of a schema our role needs USAGE and CREATE;"
        " tried again within a minute"
    )
    replica.execute("create schema later; create type later.mood as enum ('good', 'bad')")
    pipeline.until(
        lambda: has(pipeline, "select to_regclass('later.told') is not null"), "the table's joining", JOIN_S
    )
    source.execute("update later.told set mood = 'good'; update ev set note = 'third' where id = 2")
    pipeline.wait()
    assert replica.execute("select mood::text from later.told") == [("good",)]
    pipeline.verify()


def test_a_column_that_is_added_to_a_partitioned_table_or_gets_its_default_later(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    source.execute(
        "create table ev (id int, d int, primary key (id, d)) partition by range (d);"
        " create table ev1 partition of ev for values from (0) to (10);"
        " create table ev2 partition of ev for values from (10) to (20);"
        " insert into ev values (1, 1), (2, 11);"
        " create table k (id int primary key); insert into k values (1)"
    )
    pipeline.start("run")
    pipeline.wait()
    source.execute(
        "alter table ev add column c int default 7; insert into ev values (3, 3), (4, 14);"
        " alter table k add column c int; alter table k alter column c set default (random() * 0)::int + 5;"
        " insert into k values (2); insert into k values (3, null)"
    )
    pipeline.wait()
    assert replica.execute("select id, c from ev order by id") == [(1, 7), (2, 7), (3, 7), (4, 7)]
    assert replica.execute("select id, c from k order by id") == [(1, None), (2, 5), (3, None)]
    pipeline.verify()


def test_a_column_reaches_a_replica_although_nobody_writes_to_its_table(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    source.execute("create table k (id int primary key); insert into k values (1)")
    pipeline.start("run")
    pipeline.wait()
    source.execute("alter table k add column c text not null default 'five'")
    pipeline.until(lambda: width(pipeline, "k") == 2, "the column", JOIN_S)
    assert replica.execute("select * from k") == [(1, "five")]
    pipeline.verify()
    source.execute("alter table k add column d int; insert into k values (2, 'two', 2)")
    source.execute("alter table k add column e int default 7")
    pipeline.until(lambda: width(pipeline, "k") == 4, "the last column", JOIN_S)
    assert replica.execute("select * from k order by id") == [(1, "five", None, 7), (2, "two", 2, 7)]
    pipeline.verify()


def test_foreign_keys_of_joining_tables_are_made_or_kept_for_later(directory_pipeline: Pipeline) -> None:
    """To itself, to a table that joins later, to each other, and to one that is never replicated."""
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    pipeline.settings["source"]["tables"] = {"exclude": ["public.private"]}
    pipeline.write_config()
    source.execute(
        "create table private (id int primary key); insert into private values (1);"
        " create table zone (id int primary key); insert into zone values (1)"
    )
    pipeline.start("run")
    pipeline.wait()
    source.execute(
        "create table a (id int primary key, boss int references a, zone int references zone,"
        " private int references private);"
        " create table b (id int primary key, a int references a deferrable);"
        " alter table a add b int; insert into a values (1, 1, 1, 1, 1), (2, 1, null, null, null);"
        " insert into b values (1, 2); alter table a add foreign key (b) references b"
    )
    pipeline.until(lambda: has(pipeline, "select to_regclass('b') is not null"), "both tables", JOIN_S)
    pipeline.wait()
    keys = (
        "select conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), convalidated"
        " from pg_constraint where contype = 'f' order by 1, 2"
    )
    at_source = source.execute(keys)
    assert len(at_source) == 5
    assert replica.execute(keys) == [key for key in at_source if key[1] != "a_private_fkey"]
    ((name, reason, statement),) = replica.execute(
        "select object, reason, statement from keepstream.deferred_ddl"
    )
    assert (name, reason) == (
        "public.a.a_private_fkey",
        "it refers to public.private, whose rows are not replicated",
    )
    replica.execute("insert into private values (1)")
    replica.execute(statement)
    assert replica.execute(keys) == at_source
    source.execute("insert into b values (2, 1); update a set b = 2, boss = 2 where id = 2")
    pipeline.wait()
    pipeline.verify()


def test_foreign_keys_of_partitions_and_to_partitioned_tables(directory_pipeline: Pipeline) -> None:
    """A replica may have the whole, or only plain tables."""
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    source.execute(
        "create table zone (id int primary key);"
        " create table ev (id int primary key, zone int references zone) partition by range (id);"
        " create table ev1 partition of ev for values from (0) to (10)"
    )
    pipeline.start("run")
    pipeline.wait()
    source.execute(
        "create table ev2 partition of ev for values from (10) to (20); insert into zone values (1);"
        " insert into ev values (11, 1);"
        " create table whole (id int primary key, zone int references zone) partition by list (id);"
        " create table whole1 partition of whole for values in (1); insert into whole values (1, 1);"
        " create table to_ev (id int primary key, ev int references ev); insert into to_ev values (1, 11);"
        " create table to_whole (id int primary key, w int references whole);"
        " insert into to_whole values (1, 1)"
    )
    all_there = "select count(*) = 4 from pg_class where relname in ('ev2', 'whole1', 'to_ev', 'to_whole')"
    pipeline.until(lambda: has(pipeline, all_there), "all tables", JOIN_S)
    source.execute(
        "create table aa (id int primary key, z int) partition by list (id);"
        " create table aa1 partition of aa for values in (1); insert into aa values (1, 1);"
        " create table zz (id int primary key); insert into zz values (1);"
        " alter table aa add foreign key (z) references zz"
    )
    pipeline.until(lambda: has(pipeline, "select to_regclass('zz') is not null"), "the last", JOIN_S)
    pipeline.wait()
    keys = (
        "select conrelid::regclass::text, confrelid::regclass::text from pg_constraint"
        " where contype = 'f' and {} order by 1, 2"
    )
    assert replica.execute(keys.format("conparentid = 0")) == [
        ("aa1", "zz"),
        ("ev", "zone"),
        ("to_ev", "ev"),
        ("whole1", "zone"),
    ]
    assert ("ev2", "zone") in replica.execute(keys.format("conparentid <> 0"))
    deferred = "select object, reason from keepstream.deferred_ddl"
    assert replica.execute(deferred) == [
        ("public.to_whole.to_whole_w_fkey", 'relation "public.whole" does not exist')
    ]
    pipeline.verify()


def test_nobody_can_forge_a_joining_table(directory_pipeline: Pipeline) -> None:
    """Any role may emit a message, and what a genuine one says is run on the replicas."""
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    source.execute("create table k (id int primary key)")
    running = pipeline.start("run")
    pipeline.wait()
    forged = Join("public", "evil", ("id",), ("create table public.evil (id int)",), ()).to_json()
    emit = "select pg_logical_emit_message(true, %s::text, %s::bytea)"
    with source.connect(autocommit=False) as session:
        session.execute(emit, ["keepstream.join", forged])
        session.execute(emit, ["keepstream.join.rows", b"1\n"])
        session.execute(emit, ["keepstream.added", b"nonsense"])
        session.execute("insert into k values (1)")
        session.commit()
    source.execute("create table l (id int primary key); insert into l values (1)")
    pipeline.until(lambda: "table joined" in running.output, "the genuine join", JOIN_S)
    pipeline.wait()
    assert running.output.count("forged message left out") == 2
    tables = "select tablename::text from pg_tables where schemaname = 'public' order by 1"
    assert replica.execute(tables) == [("k",), ("l",)]
    pipeline.verify()


def test_a_table_without_key_that_appears_later_is_a_warning_until_it_is_decided(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    pipeline.settings["source"]["keyless"] = "refuse"
    pipeline.write_config()
    pipeline.source.execute("create table k (id int primary key)")
    running = pipeline.start("run")
    pipeline.wait()
    pipeline.source.execute("create table later (a int)")

    def warned() -> bool:
        findings = pipeline.run("status", "--json").json["findings"]
        return any(each["code"] == "table-undecided" for each in findings)

    pipeline.until(warned, "the warning", JOIN_S)
    assert "table left out" in running.output
    pipeline.source.execute("alter table later add primary key (a); insert into later values (1)")
    pipeline.until(lambda: not warned(), "the decision", JOIN_S)
    pipeline.until(lambda: "table joined" in running.output, "the joining", JOIN_S)
    pipeline.wait()
    pipeline.verify()


@pytest.mark.long(25)
@needs_release("source", 18)
def test_a_published_table_whose_writes_fail_leaves_and_joins_again(directory_pipeline: Pipeline) -> None:
    """PostgreSQL 18 refuses updates under REPLICA IDENTITY FULL once a virtual generated column is added."""
    pipeline = directory_pipeline
    pipeline.source.execute("create table k (a int, b text); insert into k values (1, 'x')")
    pipeline.start("run")
    pipeline.wait()
    assert pipeline.run("pause", "standby").code == 0
    pipeline.source.execute(
        "insert into k values (2, 'last'); alter table k add column c int generated always as (a * 2) virtual"
    )

    def findings() -> list[dict[str, Any]]:
        found = pipeline.run("status", "--json").json["findings"]
        return [each for each in found if each["code"] == "table-left"]

    pipeline.until(lambda: bool(findings()), "the finding", JOIN_S)
    (found,) = findings()
    assert found["message"].startswith("public.k is not replicated any more")
    assert "public.k" in left_out(pipeline)
    pipeline.source.execute("update k set b = 'y'; create table t (id int primary key)")
    resume = "`keepstream resume standby`"
    pipeline.until(lambda: resume in findings()[0]["hint"], "what is waited for", JOIN_S)
    checked = {each["code"]: each for each in pipeline.run("check", "--json").json["findings"]}
    assert (checked["table-left"]["subject"], checked["table-left"]["fix"]) == (
        "public.k",
        findings()[0]["hint"],
    )
    assert "drop table" not in findings()[0]["hint"]
    assert pipeline.run("resume", "standby").code == 0
    pipeline.wait()
    assert pipeline.replica.execute("select b from k order by a") == [("x",), ("last",)]
    result = pipeline.run("verify", "standby", "--json").json
    assert "public.k" in {each["table"] for each in result["not_replicated"]}

    pipeline.source.execute("alter table k add primary key (a); alter table k replica identity default")
    pipeline.until(lambda: "has rows in standby" in left_out(pipeline).get("public.k", ""), "why", JOIN_S)
    (found,) = findings()
    assert "tables-join" not in {each["code"] for each in pipeline.run("check", "--json").json["findings"]}
    pipeline.replica.execute_as_admin(found["hint"].split("replica: ")[1].split(";")[0])
    pipeline.until(lambda: not findings(), "the finding's end", JOIN_S)
    assert "table-left" not in {each["code"] for each in pipeline.run("check", "--json").json["findings"]}
    pipeline.source.execute("update k set b = 'z'")
    pipeline.wait()
    pipeline.verify()


def test_a_table_joins_where_it_was_prepared_with_types_of_the_replica_s_own(
    directory_pipeline: Pipeline,
) -> None:
    """The replica never gets the enum."""
    pipeline = directory_pipeline
    pipeline.source.execute("create table work (id int primary key)")
    running = pipeline.start("run")
    pipeline.wait()
    pipeline.replica.execute("create table public.lead (id int primary key, mood text)")
    pipeline.source.execute(
        "create type mood as enum ('good', 'bad'); create table lead (id int primary key, mood mood);"
        " insert into lead values (1, 'bad')"
    )
    pipeline.until(lambda: "table joined" in running.output, "the joining", JOIN_S)
    pipeline.source.execute("insert into lead values (2, 'good')")
    pipeline.wait()
    assert pipeline.replica.execute("select * from public.lead order by id") == [(1, "bad"), (2, "good")]


def test_run_starts_again_beside_a_table_that_has_not_joined_because_a_replica_may_not_write_to_it(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute("create table work (id int primary key)")
    running = pipeline.start("run")
    pipeline.wait()
    pipeline.replica.execute_as_admin("create table later (id int primary key)")
    pipeline.source.execute("create table later (id int primary key); insert into later values (1)")
    pipeline.until(lambda: "public.later" in left_out(pipeline), "the table that was left out", JOIN_S)
    assert running.end() == 0
    running = pipeline.start("run")
    pipeline.source.execute("insert into work values (1)")
    pipeline.wait()
    assert pipeline.replica.execute("select id from work") == [(1,)]
    pipeline.until(lambda: "public.later" in left_out(pipeline), "the table that is left out still", JOIN_S)
    pipeline.replica.execute_as_admin("alter table later owner to keepstream")
    pipeline.until(lambda: "table joined" in running.output, "the joining", JOIN_S)
    pipeline.wait()
    pipeline.verify()


def test_a_table_that_joins_an_unlogged_one_makes_it_logged(directory_pipeline: Pipeline) -> None:
    """A crash of the replica would empty it, and its position would stay."""
    pipeline = directory_pipeline
    pipeline.source.execute("create unlogged table lead (id int primary key)")
    running = pipeline.start("run")
    pipeline.wait()
    kept = "select relpersistence::text from pg_class where oid = 'public.lead'::regclass"
    assert pipeline.replica.execute(kept) == [("u",)]
    pipeline.source.execute("insert into lead values (1); alter table lead set logged")
    pipeline.until(lambda: "table joined" in running.output, "the joining", JOIN_S)
    pipeline.wait()
    assert pipeline.replica.execute(kept) == [("p",)]
    pipeline.verify()


def test_a_table_that_joins_unlogged_partitions_makes_them_logged(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    running = pipeline.start("run")
    pipeline.wait()
    pipeline.replica.execute(
        "create table public.lead (id int primary key) partition by range (id);"
        "create unlogged table public.low partition of public.lead for values from (0) to (10);"
        "create table public.high partition of public.lead default"
    )
    pipeline.source.execute("create table lead (id int primary key); insert into lead values (1), (20)")
    pipeline.until(lambda: "table joined" in running.output, "the joining", JOIN_S)
    pipeline.wait()
    kept = "select relname from pg_class where relpersistence = 'u' and relkind = 'r'"
    assert pipeline.replica.execute(kept) == []
    pipeline.verify()
    pipeline.replica.execute("alter table public.high set unlogged")
    done = pipeline.run("check", "--json")
    warned = {
        finding["subject"] for finding in done.json["findings"] if finding["code"] == "replica-unlogged"
    }
    assert (done.code, warned) == (0, {"public.lead"})
