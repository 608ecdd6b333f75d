"""`keepstream verify --repair`: every kind of damage is mended under traffic, exactly, or named."""

from __future__ import annotations

import re
import signal
import threading
from typing import Any

import pytest

from pipeline.app import verify_options
from pipeline.config import load_config
from pipeline.snapshot.recopy import lock_patiently
from pipeline.verify.repair import RepairOptions, verify_and_repair
from pipeline.verify.result import VerifyResult
from pipeline.verify.scope import Scope
from schemas.errors import RetryLater
from tests.fix_pipeline import Finished, Pipeline
from tests.repairing import TABLES, begin, contents, require_equal, traffic

DAMAGE = """
    set session_replication_role = replica;
    delete from customer where id between 10 and 19;
    insert into customer (id, email) overriding system value
    select i, 'extra' || i from generate_series(9000, 9004) i;
    update customer set body = 'short' where id = 30;
    update customer set body = repeat(body, 2) where id = 31;
    update customer set note = null where id = 32;
    update customer set email = 'swap' where id = 40;
    update customer set email = 'c40' where id = 41;
    update customer set email = 'c41' where id = 40;
    update customer set photo = photo || '\\x00' where id = 50;
    truncate invoice;
    delete from tag where label = 'old' and customer = 1;
    insert into tag select 2, 'old' from generate_series(1, 7);
    update part set v = 'wrong' where id in (5, 1005);
    delete from part where id = 1500;
    reset session_replication_role;
"""


def repair(pipeline: Pipeline, *more: str, code: int = 0) -> Finished:
    done = pipeline.run("verify", "standby", "--repair", "--json", *more)
    assert done.code == code, f"{done.stdout}\n{done.stderr}\n{pipeline.outputs()}"
    return done


def repairs(done: Finished) -> dict[str, Any]:
    return {each["table"].removeprefix("public."): each for each in done.json["repairs"]}


def counts(found: Any) -> tuple[int, int, int]:
    return found["missing"], found["extra"], found["changed"]


def test_every_kind_of_damage_is_mended_under_traffic(pipeline: Pipeline) -> None:
    begin(pipeline)
    with traffic(pipeline.source) as committed:
        pipeline.replica.execute(DAMAGE)
        before = len(committed)
        done = repair(pipeline, "--reason", "a test")
        assert len(committed) > before
        found = repairs(done)
        assert counts(found["customer"]) == (10, 5, 6)
        assert counts(found["invoice"]) == (400, 0, 0)
        assert counts(found["tag"]) == (20, 7, 0)
        assert (counts(found["part_1"]), counts(found["part_2"])) == ((0, 0, 1), (1, 0, 1))
        assert done.json["identical"]
        assert {table["lsn"] for table in done.json["tables"] if table["table"] == "public.tag"} == {
            found["tag"]["lsn"]
        }
    require_equal(pipeline)
    audited = pipeline.replica.execute(
        "select action, details->>'table', (details->>'missing')::int, position::text, who, reason"
        " from keepstream.audit where details->>'table' = 'public.customer'"
    )
    assert audited == [("repair", "public.customer", 10, found["customer"]["lsn"], "keepstream", "a test")]


@pytest.mark.long(25)
def test_a_repair_that_is_killed_is_made_whole_by_the_next(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute(DAMAGE)
    damaged, right = contents(pipeline.replica), contents(pipeline.source)
    for at in ("mend.written", "mend.proven", "mend.committed:2"):
        env = {"KEEPSTREAM_FAILPOINT": at}
        done = pipeline.run("verify", "standby", "--repair", "--json", env=env)
        assert done.code == -signal.SIGKILL
        found = contents(pipeline.replica)
        mended = {table for table in TABLES if found[table] == right[table]}
        assert {table: found[table] for table in TABLES if table not in mended} == {
            table: damaged[table] for table in TABLES if table not in mended
        }
        assert len(mended) == (3 if at == "mend.committed:2" else 1)
    repair(pipeline)
    require_equal(pipeline)


def test_more_than_the_limit_is_copied_anew(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute(DAMAGE)
    done = repair(
        pipeline, "--repair-limit", "20", "--tables", "public.invoice", "--tables", "public.customer"
    )
    found = repairs(done)
    assert found["invoice"]["copied_rows"] == 400
    assert found["customer"]["copied_rows"] == 400
    assert [table["table"] for table in done.json["tables"]] == ["public.customer", "public.invoice"]
    actions = pipeline.replica.execute("select action, details->>'rows' from keepstream.audit order by id")
    assert actions == [("snapshot", "400")] * 2
    assert repairs(repair(pipeline)).keys() == {"part_1", "part_2", "tag"}
    require_equal(pipeline)


OTHER_SCHEMA = """
    create table wider (id int primary key, v text, mine text default 'mine', code text unique);
    create table narrow (id int primary key, v text);
    create table gone (id int primary key, v text);
    create table whole (id int primary key, v text);
"""
OTHER_REPLICA = """
    create table wider (mine text default 'mine', id int primary key, code text unique, v text);
    create table narrow (id int primary key, v text);
    create table gone (id int primary key, v text);
    create table whole (id int, v text, primary key (id)) partition by range (id);
    create table whole_low partition of whole for values from (0) to (50);
    create table whole_high partition of whole for values from (50) to (1000);
"""


def test_a_replica_of_another_shape_is_mended_as_far_as_it_can_be(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    schema = OTHER_SCHEMA.replace(", mine text default 'mine'", "")
    fill = "; ".join(
        f"insert into {table} (id, v) select i, 'v' from generate_series(1, 99) i"
        for table in ("wider", "narrow", "gone", "whole")
    )
    begin(pipeline, schema, f"{fill}; update wider set code = 'c' || id", OTHER_REPLICA)
    pipeline.replica.execute(
        "update wider set mine = 'kept' || id; update wider set code = 'x' where id = 1;"
        " update wider set code = 'c1' where id = 2; delete from wider where id = 3;"
        " delete from whole where id = 10; update whole set id = 500 where id = 60;"
        " alter table narrow drop column v; drop table gone"
    )
    done = repair(pipeline, code=6)
    found = repairs(done)
    assert counts(found["wider"]) == (1, 0, 2)
    assert counts(found["whole"]) == (2, 1, 0)
    assert "it lacks column v (text) (replica-schema)" in found["narrow"]["problem"]
    assert 'alter table "public"."narrow" add column if not exists "v" text;' in found["narrow"]["remedy"]
    assert found["gone"]["problem"] == "public.gone does not exist in the replica (replica-schema)"
    tables = {table["table"]: table["identical"] for table in done.json["tables"]}
    assert tables == {
        "public.gone": False,
        "public.narrow": False,
        "public.whole": True,
        "public.wider": True,
    }
    mine = "select id, code, mine from wider where id < 5 order by id"
    expected = [(1, "c1", "kept1"), (2, "c2", "kept2"), (3, "c3", "mine"), (4, "c4", "kept4")]
    assert pipeline.replica.execute(mine) == expected
    told = pipeline.run("verify", "standby", "--repair")
    assert told.code == 6
    assert "public.gone: not repaired: public.gone does not exist in the replica" in told.stdout
    assert "hint: Create it as it is on the source" in told.stdout


def in_process(pipeline: Pipeline) -> VerifyResult:
    config = load_config(pipeline.config_path)
    return verify_and_repair(
        verify_options(config, "standby", workers=1, timeout_s=60),
        Scope(config.source.tables, config.source.keyless),
        RepairOptions(),
        stop=threading.Event(),
        tell=lambda _: None,
        on_progress=lambda _: None,
        on_copy_progress=lambda _: None,
    )


def test_what_somebody_else_does_to_the_rows_meanwhile_is_noticed(
    directory_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute("update invoice set total = 0 where id < 9")
    between = ["update invoice set total = 5 where id = 5"]

    def interfere(*where: Any, **how: Any) -> bool:
        if between:
            pipeline.replica.execute(between.pop())
        return lock_patiently(*where, **how)

    monkeypatch.setattr("pipeline.verify.mend.lock_patiently", interfere)
    with pytest.raises(RetryLater) as raised:
        in_process(pipeline)
    assert raised.value.code == "rows-moved"
    assert raised.value.message == "7 of 8 rows of public.invoice are where they were found"
    assert pipeline.replica.execute("select count(*) from invoice where total = 0") == [(7,)]
    between.append("vacuum full invoice")  # every row is elsewhere, and others are where they were
    assert in_process(pipeline).identical
    require_equal(pipeline)


def test_a_replica_whose_applier_stopped_is_skipped_on_and_repaired(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute("delete from invoice where id = 3")
    pipeline.source.execute(
        "begin; update invoice set total = 0 where id = 3; update busy set n = 7 where id = 7; commit"
    )
    applier = pipeline.started[1]
    assert applier.wait(30) == 6
    skipped = re.findall(r"--skip-transaction (\S+) ", applier.output)[-1]
    done = pipeline.run("apply", "standby", "--skip-transaction", skipped, "--reason", "a lost row")
    assert done.code == 0, done.stderr
    pipeline.start("apply", "standby")
    found = repairs(repair(pipeline))
    assert (counts(found["invoice"]), counts(found["busy"])) == ((1, 0, 0), (0, 0, 1))
    require_equal(pipeline)
