"""`keepstream snapshot`: a table of a running replica has all its old rows, or all the source's as of S."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest

from connectors.postgres.copy.part_copier import Part
from connectors.postgres.ddl import left_out
from connectors.postgres.mend import transaction
from connectors.postgres.mend.bringing import bring
from connectors.postgres.replica.hold import hold, release
from connectors.postgres.replica.progress import HoldKind
from connectors.postgres.session import Session, connect
from pipeline.app import verify_options
from pipeline.capture.history.timelines import old_timeline
from pipeline.config import load_config
from pipeline.selection import parse_tables
from pipeline.snapshot import recopy
from pipeline.snapshot.recopy import CopyWish, Recopy
from pipeline.snapshot.run import SnapshotResult, snapshot
from pipeline.verify import meeting, standing
from pipeline.verify.meeting import Steps
from pipeline.verify.scope import Scope
from schemas.errors import KeepstreamError, OperatorNeeded
from tests.fix_pipeline import Finished, Pipeline
from tests.repairing import begin, contents, require_equal, traffic
from tests.tracked import install_triggers

ROWS_LEFT = 80
RUIN = "set session_replication_role = replica; update customer set note = 'ruined', body = 'x';"
RUIN += " insert into customer (id, email) overriding system value values (9000, 'extra');"
RUIN += " reset session_replication_role"


def copy(pipeline: Pipeline, *more: str, code: int = 0, failpoint: str = "") -> Finished:
    env = {"KEEPSTREAM_FAILPOINT": failpoint} if failpoint else {}
    done = pipeline.run("snapshot", "standby", "--json", *more, env=env)
    assert done.code == code, f"{done.stdout}\n{done.stderr}\n{pipeline.outputs()}"
    return done


def in_process(
    pipeline: Pipeline, table: str, at: Callable[[], None], *, automatic: bool = False
) -> tuple[SnapshotResult, int]:
    """A snapshot that calls `at` once, when the replica stands; and how often it stood."""
    config, stood = load_config(pipeline.config_path), list[str]()

    def tell(text: str) -> None:
        if text.startswith("copying "):
            stood.append(text)
            if len(stood) == 1:
                at()

    options = verify_options(config, "standby", workers=1, timeout_s=60, verb="snapshot")
    result = snapshot(
        replace(options, automatic=automatic),
        Scope(config.source.tables, config.source.keyless, parse_tables([table])),
        CopyWish(),
        stop=threading.Event(),
        tell=tell,
        on_progress=lambda _: None,
    )
    return result, len(stood)


def audited(pipeline: Pipeline) -> list[Any]:
    query = "select details->>'table', details->>'rows', position::text, reason from keepstream.audit"
    return pipeline.replica.execute(f"{query} where action = 'snapshot' order by id")


def holds(pipeline: Pipeline) -> list[Any]:
    return pipeline.replica.execute("select hold_at from keepstream.progress")


def test_tables_of_every_kind_are_copied_anew_under_traffic(pipeline: Pipeline) -> None:
    begin(pipeline)
    with traffic(pipeline.source) as committed:
        pipeline.replica.execute(
            f"{RUIN}; delete from tag where label = 'old'; delete from part_1 where id < 500"
        )
        before = len(committed)
        wanted = ("public.customer", "public.tag", "public.part")
        done = copy(pipeline, *wanted, "--reason", "ruined").json
        assert len(committed) > before
    rows = {table["table"]: table["rows"] for table in done["tables"]}
    assert (rows["public.customer"], rows["public.part_1"], rows["public.part_2"]) == (400, 1000, 1000)
    assert rows["public.tag"] > 100
    (lsn,) = {table["lsn"] for table in done["tables"]}
    assert ("public.customer", "400", lsn, "ruined") in audited(pipeline)
    require_equal(pipeline)


def test_what_is_not_replicated_is_refused_with_the_reason(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline, "create unlogged table cache (id int primary key); create table t (id int)", "select")
    done = copy(pipeline, "public.cache", code=4)
    assert (
        "error[table-not-replicated]: `public.cache` names no replicated table (public.cache:" in done.stderr
    )
    assert "unlogged table)" in done.stderr
    assert "(the source has no such table)" in copy(pipeline, "public.gone", code=4).stderr
    pipeline.replica.execute("alter table t alter id type smallint")
    done = copy(pipeline, "public.t", code=4)
    assert "error[replica-schema]: public.t of standby cannot hold what public.t holds" in done.stderr
    assert 'alter column "id" type integer;' in done.stderr
    assert "error[table-pattern-invalid]" in copy(pipeline, "t", code=2).stderr
    pipeline.replica.execute("alter table t alter id type int")
    assert pipeline.run("pause", "standby").code == 0
    assert "cannot be copied into: it is paused" in copy(pipeline, "public.t", code=4).stderr
    assert audited(pipeline) == []


def test_a_schema_change_to_which_the_replica_has_not_come_is_no_misfit(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.settings["schema"] = {"policies": {"add_column": "pause"}}
    pipeline.source.execute("create table t (id int primary key)")
    install_triggers(pipeline.source)
    pipeline.write_config()
    pipeline.start("run")
    pipeline.wait()
    pipeline.source.execute("alter table t add column a int default 7; insert into t values (1)")
    done = pipeline.run("snapshot", "standby", "public.t", "--timeout", "2")
    assert done.code == 7
    assert "did not come to one LSN in time at " in done.stderr
    assert "it waits for approval of the schema changes at " in done.stderr
    assert pipeline.run("schema", "approve", "standby", "--all").code == 0
    copy(pipeline, "public.t")
    assert pipeline.replica.execute("select * from t") == [(1, 7)]


def test_values_that_only_the_replica_has_are_not_lost(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    schema = "create table t (id int primary key, v text)"
    begin(
        pipeline,
        schema,
        "insert into t select i, 'v' from generate_series(1, 9) i",
        f"{schema}; alter table t add mine text",
    )
    pipeline.replica.execute("update t set v = 'wrong'")
    assert copy(pipeline, "public.t").json["tables"][0]["own_columns"] == ["mine"]
    require_equal_but_mine = "select count(*) from t where v = 'v' and mine is null"
    assert pipeline.replica.execute(require_equal_but_mine) == [(9,)]
    pipeline.replica.execute("update t set mine = 'kept', v = 'wrong' where id = 3")
    done = copy(pipeline, "public.t", code=4)
    assert (
        "error[replica-columns-lost]: copying public.t anew would lose what only the replica has"
        in done.stderr
    )
    assert "--repair" in done.stderr
    assert pipeline.replica.execute("select v, mine from t where id = 3") == [("wrong", "kept")]
    assert holds(pipeline) == [(None,)]


@pytest.mark.long(20)
def test_a_killed_snapshot_leaves_all_old_rows_or_all_new(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute(RUIN)
    ruined, right = contents(pipeline.replica), contents(pipeline.source)
    for at in ("mend.emptied", "mend.proven"):
        copy(pipeline, "public.customer", code=-signal.SIGKILL, failpoint=at)
        assert contents(pipeline.replica) == ruined
    assert audited(pipeline) == []
    copy(pipeline, "public.customer", code=-signal.SIGKILL, failpoint="mend.committed")
    assert contents(pipeline.replica) == right
    pipeline.replica.execute(RUIN)
    copy(pipeline, "public.customer")
    require_equal(pipeline)


def test_rows_of_a_position_that_the_replica_has_left_are_never_committed(
    directory_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hold expires without our noticing, as it does of a process that is frozen."""
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute(RUIN)
    replica = pipeline.replica
    begin_steps, prolong, begun, lapsed = Steps.begin, Steps.prolong, list[Steps](), list[Steps]()

    def note(self: Steps, **sessions: Session) -> None:
        begun.append(self)
        begin_steps(self, **sessions)

    monkeypatch.setattr(Steps, "begin", note)
    monkeypatch.setattr(Steps, "prolong", lambda self: None if self in lapsed else prolong(self))

    def move_on() -> None:
        lapsed.append(begun[-1])
        pipeline.source.execute("update customer set note = 'newer'")
        pipeline.until(
            lambda: replica.execute("select count(*) from customer where note = 'newer'") == [(400,)],
            "the replica to move on",
        )

    _, stood = in_process(pipeline, "public.customer", move_on)
    assert stood == 2
    assert len(audited(pipeline)) == 1
    require_equal(pipeline)


def test_an_operator_s_pause_ends_a_copy_that_the_applier_makes_itself(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    pipeline.settings["replicas"]["standby"]["copy_awaited"] = "manual"
    begin(pipeline)
    with connect(pipeline.replica.dsn, purpose="test") as session:
        left_out.await_copy(session, pipeline.name, ("public", "tag"), replica="standby")
    pipeline.replica.execute("delete from tag where customer = 1")
    kind = "select hold_kind from keepstream.progress"

    def pause() -> None:
        assert pipeline.replica.execute(kind) == [("verify",)]
        assert pipeline.run("pause", "standby").code == 0

    with pytest.raises(OperatorNeeded, match="cannot be copied into: it is paused at ") as refused:
        in_process(pipeline, "public.tag", pause, automatic=True)
    assert refused.value.code == "replica-held"
    assert (audited(pipeline), pipeline.replica.execute(kind)) == ([], [("pause",)])
    assert pipeline.run("resume", "standby").code == 0
    with connect(pipeline.replica.dsn, purpose="test") as session:
        hold(session, pipeline.name, HoldKind.VERIFY, expires_s=60, replica="standby")
        with pytest.raises(OperatorNeeded, match="held by a verification, or by a copy, which goes first"):
            in_process(pipeline, "public.tag", lambda: None, automatic=True)
        release(session, pipeline.name)
    result, _ = in_process(pipeline, "public.tag", lambda: None, automatic=True)
    assert (result.rows, audited(pipeline)[0][:2]) == (100, ("public.tag", "100"))
    assert in_process(pipeline, "public.tag", lambda: None, automatic=True)[0].tables == ()
    require_equal(pipeline)


def test_a_copy_that_fails_leaves_nothing_behind_and_a_frozen_source_keeps_no_replica(
    directory_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who tries again by himself must not fill the disk, nor hold the replica for ever."""
    pipeline = directory_pipeline
    pipeline.settings["replicas"]["standby"]["copy_awaited"] = "manual"
    begin(pipeline, "create table t (id int, v text)", "select")
    with connect(pipeline.replica.dsn, purpose="test") as session:
        left_out.await_copy(session, pipeline.name, ("public", "t"), replica="standby")
    pipeline.source.execute(
        "insert into t select least(i, 8999), repeat('v', 99) from generate_series(1, 9000) i"
    )
    left = "select pg_relation_size('t'), (select hold_at from keepstream.progress)"
    pipeline.replica.execute("create unique index u on t (id)")

    def fail(match: str) -> None:
        with pytest.raises(KeepstreamError, match=match):
            in_process(pipeline, "public.t", lambda: None, automatic=True)
        assert (pipeline.replica.execute(left), audited(pipeline)) == ([(0, None)], [])

    fail(r"UniqueViolation \(23505\) at table public.t, constraint u")
    assert [record for record in caplog.records if record.name.startswith("psycopg")] == []
    pipeline.replica.execute("drop index u")
    with monkeypatch.context() as patched:
        patched.setattr(recopy, "require_followed", Mock(side_effect=old_timeline(1, 2)))
        fail("the source is on timeline 1")
    with monkeypatch.context() as patched:
        patched.setattr(meeting, "STALL_S", 0.5)
        patched.setattr(recopy, "bring", frozen := Freezing())
        try:
            fail("no row of public.t has come for 500 ms; the table was not changed")
        finally:
            frozen.wake()
    assert in_process(pipeline, "public.t", lambda: None, automatic=True)[0].rows == 9000


class Freezing:
    """`bring`, with a source whose process stops before it has sent a row."""

    pid = 0

    def __call__(self, source: Session, *others: Any, **more: Any) -> int:
        self.pid = source.info.backend_pid
        os.kill(self.pid, signal.SIGSTOP)
        return bring(source, *others, **more)

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def test_the_copy_that_an_applier_makes_itself_ends_with_it(directory_pipeline: Pipeline) -> None:
    """It is replaced, or told to stop, while somebody on the replica keeps the copy waiting."""
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute("delete from tag where customer = 1")
    holding = "select from pg_stat_activity where application_name like 'keepstream:%:copy-awaited'"
    with pipeline.replica.connect(autocommit=False) as writer:
        writer.execute("lock table tag in row exclusive mode")
        with connect(pipeline.replica.dsn, purpose="test") as session:
            left_out.await_copy(session, pipeline.name, ("public", "tag"), replica="standby")
        pipeline.until(lambda: pipeline.replica.execute(holding) == [()], "the copy")
        done = pipeline.run("verify", "standby", "--timeout", "1")
        assert "it is held at 0/" in done.stderr
        assert "`keepstream pause standby` ends a copy that its applier makes itself." in done.stderr
        first, second = pipeline.started[-1], pipeline.start("apply", "standby", "--take-over")
        assert first.wait(15) == 4
        assert "error[applier-replaced]" in first.output
        pipeline.until(lambda: "copy of tables that await it begins" in second.output, "the second's copy")
        pipeline.until(lambda: pipeline.replica.execute(holding) == [()], "its hold")
        assert second.end() == 0
        assert (pipeline.replica.execute(holding), holds(pipeline)) == ([], [(None,)])
    assert (audited(pipeline), pipeline.replica.execute("select count(*) from tag")) == ([], [(ROWS_LEFT,)])


def test_an_applier_may_be_replaced_meanwhile(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute(RUIN)
    token = "select token from keepstream.progress"
    before, replica = pipeline.replica.execute(token), pipeline.replica

    def replace() -> None:
        pipeline.start("apply", "standby", "--take-over")
        pipeline.until(lambda: replica.execute(token) != before, "the take-over")
        pipeline.source.execute(
            "insert into customer (email) values ('b'); update customer set note = 'b' where id = 8"
        )

    result, _ = in_process(pipeline, "public.customer", replace)
    assert result.rows == 400
    require_equal(pipeline)


def test_a_table_truncated_between_two_parts_is_copied_at_a_later_lsn(
    directory_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRUNCATE is not MVCC-safe (P19): the old snapshot shows an empty table."""
    pipeline = directory_pipeline
    fill = "insert into tag select i, 'some' from generate_series(1, 9000) i"
    begin(pipeline, fill=fill)
    pipeline.replica.execute("delete from tag")
    write, parts = Recopy._write_part, list[int]()

    def write_and_truncate(self: Recopy, session: Session, part: Part) -> int:
        rows = write(self, session, part)
        parts.append(part.number)
        if len(parts) == 1:
            pipeline.source.execute(f"truncate tag; {fill}; delete from tag where customer < 10")
        return rows

    monkeypatch.setattr(recopy, "PART_BYTES", 200_000)
    monkeypatch.setattr(Recopy, "_write_part", write_and_truncate)
    result, stood = in_process(pipeline, "public.tag", lambda: None)
    assert (result.rows, stood) == (8991, 2)
    assert parts == [0, *range(parts[-1] + 1)]
    assert parts[-1] > 0
    require_equal(pipeline)


def test_the_replica_s_session_outlives_a_wait_for_the_source_s_table(
    directory_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute("delete from tag")
    monkeypatch.setattr(transaction, "IDLE_S", 1)
    monkeypatch.setattr(standing, "_AWAKE_S", 0.2)
    with pipeline.source.connect(autocommit=False) as application:

        def lock() -> None:
            application.execute("lock table tag in access exclusive mode")
            threading.Timer(2.5, application.rollback).start()

        _, stood = in_process(pipeline, "public.tag", lock)
    assert stood == 1
    require_equal(pipeline)


@contextmanager
def reading(pipeline: Pipeline) -> Iterator[psycopg.Connection[Any]]:
    """A reader of the replica with a snapshot from before, that has a table in use."""
    with pipeline.replica.connect(autocommit=False) as reader:
        reader.execute("set transaction isolation level repeatable read")
        assert _rows_of(reader) == ROWS_LEFT
        yield reader


def _rows_of(reader: psycopg.Connection[Any]) -> int:
    return int(reader.execute("select count(*) from tag").fetchall()[0][0])


def test_readers_of_the_replica_see_the_old_rows_and_wait_for_nothing(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute("delete from tag where customer = 1")
    with reading(pipeline) as reader:
        copy(pipeline, "public.tag", "--timeout", "30")
        assert _rows_of(reader) == ROWS_LEFT
    require_equal(pipeline)


def test_whoever_is_in_the_way_of_truncate_is_named_and_waited_for_in_time(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute("delete from tag where customer = 1")
    with reading(pipeline) as reader:
        done = copy(pipeline, "public.tag", "--truncate", "--timeout", "8", code=7)
        pid = reader.info.backend_pid
        assert (
            "error[snapshot-timeout]: waited 8.0 s for the lock on public.tag of the replica, which is used"
            f" by pid {pid} (" in done.stderr
        )
        running = pipeline.start("snapshot", "standby", "public.tag", "--truncate")
        pipeline.until(lambda: f"used by pid {pid} " in running.output, "it to be told")
    assert running.wait(60) == 0, running.output
    require_equal(pipeline)


def test_a_signal_ends_it_and_leaves_nothing(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute("delete from tag where customer = 1")
    before = contents(pipeline.replica)
    with reading(pipeline):
        running = pipeline.start("snapshot", "standby", "public.tag", "--truncate")
        pipeline.until(lambda: "used by pid" in running.output, "it to wait")
        running.process.send_signal(signal.SIGINT)
        assert running.wait(8) == 130
    ours = "select pid from pg_stat_activity where application_name like 'keepstream:%:snapshot'"
    for side in (pipeline.source, pipeline.replica):
        pipeline.until(lambda: side.execute_as_admin(ours) == [], "its sessions to end")  # noqa: B023
    query = "select from keepstream.progress where hold_expires > clock_timestamp()"
    pipeline.until(lambda: pipeline.replica.execute(query) == [], "the hold to end")
    assert contents(pipeline.replica) == before


def test_a_frozen_snapshot_that_wakes_up_does_no_harm(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.replica.execute("delete from tag where customer = 1")
    with reading(pipeline):
        running = pipeline.start("snapshot", "standby", "public.tag", "--truncate")
        pipeline.until(lambda: "used by pid" in running.output, "it to wait")
        running.process.send_signal(signal.SIGSTOP)
        pipeline.source.execute("insert into tag values (77, 'meanwhile')")
    pipeline.wait()
    running.process.send_signal(signal.SIGCONT)
    assert running.wait(60) == 0, running.output
    require_equal(pipeline)
