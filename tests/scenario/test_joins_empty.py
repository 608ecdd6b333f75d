"""A table with more rows than go through the source's WAL joins without them, and loses them where it is
rewritten: exact once it is copied."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.app import capture_options, open_log
from pipeline.capture.joins import joining
from pipeline.config import load_config
from pipeline.dev.process import wait_until
from tests.capturing import capturing
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database
from tests.postgres_releases import needs_release, release
from tests.tracked import install_triggers

ROWS = 3000
BIG = (
    "create table big (id int primary key, n int, pad text);"
    f" insert into big select i, 0, repeat(md5(i::text), 3) from generate_series(1, {ROWS}) i;"
    " create table listed (id int primary key, a int, secret text);"
    f" insert into listed select i, i, 'secret' from generate_series(1, {ROWS}) i"
)
COPY = "keepstream snapshot standby"
TABLES = ["public.big", "public.listed"]
AWAITING = (
    "select schema_name || '.' || table_name from keepstream.schema_left_out where awaits_copy order by 1"
)

COPIES = (
    "select details ->> 'table', details ->> 'automatic', reason from keepstream.audit"
    " where action = 'snapshot' order by 1"
)


@contextmanager
def following(
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    schema: str,
    *,
    copy_awaited: str = "manual",
    env: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """With a limit of 100 kB; capture runs in this process. Table `listed` has a column list and a filter.
    `env`: of apply."""
    monkeypatch.setattr(joining, "JOIN_LIMIT_BYTES", 100_000)
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.1)
    for side in (pipeline.source, pipeline.replica):
        side.execute(schema)
    pipeline.settings["replicas"]["standby"] |= {
        "initial": "none",
        "copy_awaited": copy_awaited,
        "schema": {"policies": {"drop_table": "apply", "alter_type": "apply"}},
    }
    pipeline.settings["source"]["tables"] = {
        "limits": {"public.listed": {"columns": ["id", "a"], "where": "id >= 20"}}
    }
    pipeline.write_config()
    install_triggers(pipeline.source)
    config = load_config(pipeline.config_path)
    with capturing(capture_options(config, open_log(config))):
        pipeline.start("apply", "standby", env=env)
        pipeline.wait()
        yield


@contextmanager
def writing(source: Database) -> Iterator[list[int]]:
    """To all rows of `big`, old and new, in transactions of their own; yields a list that grows with each."""
    stop, committed = threading.Event(), list[int]()

    def write() -> None:
        with source.connect() as session:
            for n in itertools.count(1):
                if stop.wait(0.003):
                    return
                session.execute("update big set n = n + 1 where id = %s", [n % ROWS + 1])
                session.execute("insert into big (id, n, pad) values (%s, 0, 'new')", [ROWS + n])
                session.execute("delete from big where id = %s", [ROWS + n - 5])
                committed.append(n)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield committed
    finally:
        stop.set()
        thread.join()


def awaits(pipeline: Pipeline) -> list[str]:
    there = "select from pg_tables where tablename = 'schema_left_out'"
    return [name for (name,) in pipeline.replica.execute(AWAITING)] if pipeline.replica.execute(there) else []


def snapshot(pipeline: Pipeline, table: str, *, code: int = 0, failpoint: str = "") -> None:
    env = {"KEEPSTREAM_FAILPOINT": failpoint} if failpoint else {}
    done = pipeline.run("snapshot", "standby", table, env=env)
    assert done.code == code, f"{done.stdout}\n{done.stderr}\n{pipeline.outputs()}"


def contents(database: Database) -> Any:
    return database.execute("select count(*), md5(string_agg(b::text, e'\\n' order by id)) from big b")


def test_a_large_table_joins_under_writes_and_is_exact_from_its_copy_on(
    directory_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, source, replica = directory_pipeline, directory_pipeline.source, directory_pipeline.replica
    with following(pipeline, monkeypatch, "create table zone (id int primary key)"):
        source.execute(BIG)
        with writing(source) as committed:
            pipeline.until(lambda: awaits(pipeline) == TABLES, "the joining of both")
            source.execute(
                "update listed set secret = 'x', a = 0 where id < 20; delete from listed where id < 10"
            )
            source.execute("alter table big add column extra int default 7; create index on big (extra)")
            pipeline.started[-1].kill()
            pipeline.start("apply", "standby")
            before = len(committed)
            pipeline.wait()
            assert wait_until(lambda: len(committed) > before + 9, 30)
            assert replica.execute("select (select count(*) from big), (select count(*) from listed)") == [
                (0, 0)
            ]
            assert pipeline.verify()["not_replicated"] == [
                {"table": table, "reason": f"its rows are not in the log; `{COPY} {table}` copies them"}
                for table in TABLES
            ]
            alone = pipeline.run("verify", "standby", "--tables", "public.big")
            assert (alone.code, "error[no-table-comparable]: standby has no rows" in alone.stderr) == (
                4,
                True,
            )
            status = pipeline.run("status", "--json").json
            assert status["replicas"]["standby"]["awaits_copy"] == ["public.big", "public.listed"]
            snapshot(pipeline, "public.big", code=-signal.SIGKILL, failpoint="mend.proven")
            assert (awaits(pipeline), contents(replica)[0][0]) == (TABLES, 0)
            snapshot(pipeline, "public.listed")
            snapshot(pipeline, "public.big", code=-signal.SIGKILL, failpoint="mend.committed")
            assert awaits(pipeline) == []
            assert contents(replica)[0][0] >= ROWS
            before = len(committed)
            assert wait_until(lambda: len(committed) > before + 50, 30)
            source.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 100000")
            source.execute("alter table big alter n type bigint using n + 1, alter pad type varchar(200)")
            pipeline.until(lambda: awaits(pipeline) == ["public.big"], "the rewrite")
            pipeline.started[-1].kill()
            pipeline.start("apply", "standby")
            before = len(committed)
            assert wait_until(lambda: len(committed) > before + 9, 30)
            snapshot(pipeline, "public.big")
            assert contents(replica)[0][0] >= ROWS
            before = len(committed)
            assert wait_until(lambda: len(committed) > before + 50, 30)
        pipeline.wait()
        assert contents(replica) == contents(source)
        assert replica.execute("select count(*), count(secret) from listed") == [(ROWS - 19, 0)]
        assert pipeline.verify()["not_replicated"] == []
        assert "table was copied: its changes are applied table=public.big" in pipeline.outputs()


def standby(pipeline: Pipeline) -> Any:
    """What `status` says of the replica, with the messages of its findings."""
    seen = pipeline.run("status", "--json").json
    return seen["replicas"]["standby"] | {"findings": [each["message"] for each in seen["findings"]]}


@contextmanager
def written_to(database: Database, table: str) -> Iterator[None]:
    """Somebody else has it locked, as whoever writes to it."""
    with database.connect(autocommit=False) as session:
        session.execute(f"lock table {table} in row exclusive mode".encode())
        yield


def test_the_applier_copies_it_by_itself_also_once_it_is_rewritten_and_gives_way_to_a_pause(
    directory_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, source, replica = directory_pipeline, directory_pipeline.source, directory_pipeline.replica
    killed = {"KEEPSTREAM_FAILPOINT": "mend.proven"}
    with following(
        pipeline, monkeypatch, "create table zone (id int primary key)", copy_awaited="auto", env=killed
    ):
        source.execute(BIG)
        with writing(source) as committed:
            assert pipeline.started[-1].wait(30) == -signal.SIGKILL
            assert replica.execute("select count(*) from big") == [(0,)]
            assert "public.big" in awaits(pipeline)
            with written_to(replica, "big"):
                assert pipeline.run("resume", "standby").code == 0  # it would expire, too
                pipeline.start("apply", "standby")
                pipeline.until(lambda: "used by pid" in str(standby(pipeline)), "the copy to wait")
                seen = standby(pipeline)
                assert (seen["state"], seen["hold"]["kind"]) == ("copying", "verify")
                assert seen["waiting_for"].startswith("the copy of public.")
                assert any("; the applier copies them now: " in told for told in seen["findings"])
                assert pipeline.run("pause", "standby").code == 0
            pipeline.until(lambda: "gives way code=replica-held" in pipeline.outputs(), "it to give way")
            assert "public.big" in awaits(pipeline)
            assert pipeline.run("resume", "standby").code == 0
            pipeline.until(lambda: awaits(pipeline) == [], "the copy")
            source.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 100000")
            source.execute("alter table big alter n type bigint using n + 1, alter pad type varchar(200)")
            pipeline.until(lambda: len(replica.execute(COPIES)) == 3, "the copy of what was rewritten")
            before = len(committed)
            assert wait_until(lambda: len(committed) > before + 50, 30)
        pipeline.wait()
        assert contents(replica) == contents(source)
        assert replica.execute("select count(*), count(secret) from listed") == [(ROWS - 19, 0)]
        assert pipeline.verify()["not_replicated"] == []
        assert replica.execute(COPIES) == [
            (table, "true", "by the applier itself: the table awaited its copy")
            for table in ("public.big", *TABLES)
        ]
        assert "table was copied: its changes are applied table=public.big" in pipeline.outputs()
        assert pipeline.started[-1].end() == 0


@needs_release("replica", release("source"))  # else there is no first copy of its schema
def test_a_table_whose_rows_name_an_index_is_copied_once_the_first_copy_has_made_it(
    directory_pipeline: Pipeline,
) -> None:
    pipeline, source, replica = directory_pipeline, directory_pipeline.source, directory_pipeline.replica
    source.execute(
        "create table t (id int primary key, named regclass); insert into t values (1, 't_pkey'), (2, 't');"
        " create table u (id int primary key references t); insert into u values (1)"
    )
    pipeline.start("run")
    pipeline.until(
        lambda: replica.execute("select to_regclass('keepstream.schema_left_out')") != [(None,)],
        "the copy",
        60,
    )
    source.execute("insert into t values (3, 'u_pkey'); insert into u values (3)")
    pipeline.until(lambda: awaits(pipeline) == [], "the applier's copy", 60)
    pipeline.wait()
    assert replica.execute("select id, named::text from t order by id") == [
        (1, "t_pkey"),
        (2, "t"),
        (3, "u_pkey"),
    ]
    assert replica.execute("select count(*) from pg_constraint where conname = 'u_id_fkey'") == [(1,)]
    assert pipeline.verify()["not_replicated"] == []
