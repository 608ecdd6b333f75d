"""Capture of a table as a whole, and what happens to its partitions while it looks elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from connectors.interfaces import ChangeLog
from pipeline.capture.options import CaptureOptions
from pipeline.config.model import Partitions
from pipeline.dev.process import require
from schemas.lsn import Lsn, format_lsn
from tests.capturing import RunningCapture, begun, capture_options, capturing
from tests.fix_postgres import Database
from tests.tracked import install_triggers

TREE = """
    create table ev (id int, d int, primary key (id, d)) partition by range (d);
    create table ev1 partition of ev for values from (0) to (10);
    create table ev2 partition of ev for values from (10) to (20);
    insert into ev values (1, 1), (2, 11)
"""


@pytest.fixture
def options(source: Database, change_log: ChangeLog) -> CaptureOptions:
    source.grant_ownership()
    source.execute(TREE)
    return capture_options(source, change_log, partitions=Partitions.ROOT)


def looking(monkeypatch: pytest.MonkeyPatch, every_s: float) -> None:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", every_s)
    monkeypatch.setattr("pipeline.capture.housekeeping.HEARTBEAT_EVERY_S", every_s)


def test_what_vacuum_full_does_to_partitions_is_told_from_truncate_and_the_slot_goes_on(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking(monkeypatch, 0.1)
    with capturing(options):
        content = begun(change_log)
        source.execute("insert into ev values (3, 3)")
        source.execute("vacuum full ev1")
        source.execute("begin; delete from ev1; truncate ev; insert into ev values (4, 4); commit")
        ((at,),) = source.execute_as_admin("select pg_current_wal_insert_lsn()")
        content.wait(lambda c: c.ids("public.ev")[-1:] == [4], "the rows")
        confirmed = "select confirmed_flush_lsn >= %s from pg_replication_slots where slot_name = %s"
        require(lambda: source.execute(confirmed, [at, options.slot]) == [(True,)], 20.0, what="the slot")
    assert [operation for operation, _ in content.rows("public.ev")] == [
        "INSERT",
        "DELETE",
        "DELETE",
        "INSERT",
    ]


@pytest.mark.parametrize("is_tracked", [False, True], ids=["untracked", "tracked"])
def test_a_truncated_and_analyzed_partition_is_known_after_a_restart_whatever_came_behind_it(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_tracked: bool,
) -> None:
    if is_tracked:
        install_triggers(source)
    renaming = "alter table ev1 rename to renamed;" if is_tracked else ""
    looking(monkeypatch, 3600)
    with capturing(options):
        content = begun(change_log)
        source.execute("insert into ev values (3, 3)")
        content.wait(lambda c: c.ids("public.ev") == [3], "the first row")
        source.execute(f"truncate ev1; analyze ev1; {renaming} insert into ev values (4, 4)")
        content.wait(lambda c: c.ids("public.ev") == [3, 4], "the second row")
    looking(monkeypatch, 0.1)
    error = RunningCapture(options).ended_with()
    assert error.code == "partition-truncated"
    assert "schema changes are not tracked any more" not in caplog.messages
    if is_tracked:
        _, anew, _ = error.hint.split("`", 2)
        source.execute(f"{anew} insert into ev values (5, 5)")
        with capturing(options):
            content.wait(
                lambda c: c.ids("public.ev") == [3, 4, 5], "the row behind the whole's being sent anew"
            )


def test_a_partition_that_was_unlogged_for_a_moment_is_known_by_its_schema_messages(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_triggers(source)
    looking(monkeypatch, 3600)
    running = RunningCapture(options)
    begun(change_log)
    source.execute("begin; alter table ev1 set unlogged; alter table ev1 set logged; commit")
    source.execute("analyze ev1")
    assert running.ended_with().code == "partition-unlogged"


UNFIT = {
    "ev1 with (publish_via_partition_root = true)": "lists public.ev1, a partition of public.ev, instead",
    "ev with (publish_via_partition_root = false)": "lists public.ev, and sends their rows under the names",
    "ev1, ev2 with (publish_via_partition_root = false)": "against source.partitions: root",
}


def test_capture_begins_no_log_of_partitions_under_other_names_than_check_lets_through(
    source: Database, options: CaptureOptions
) -> None:
    for tables, problem in UNFIT.items():
        source.execute(f"create publication {options.publication} for table {tables}")
        error = RunningCapture(options).ended_with()
        assert error.code == "publication-unfit"
        assert problem in error.message
        source.execute(f"drop publication {options.publication}")


def test_the_slot_goes_on_where_capture_begins_again_before_it_has_looked(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_triggers(source)
    looking(monkeypatch, 3600)
    with capturing(options):
        content = begun(change_log)
        source.execute("insert into ev values (3, 3)")
        content.wait(lambda c: c.ids("public.ev") == [3], "the row")
    with capturing(options):
        confirmed = "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
        asked = [format_lsn(Lsn(content.committed[-1].end_lsn)), options.slot]
        require(lambda: source.execute(confirmed, asked) == [(True,)], 20.0, what="the slot")
    assert source.execute(confirmed, asked) == [(True,)]


def test_a_partition_that_is_locked_for_long_holds_up_neither_capture_nor_its_looks(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was done to it is found when it is free, although what came behind is in the log."""
    monkeypatch.setattr("pipeline.capture.startup.startup._LOCK_WAIT_MS", 100)
    monkeypatch.setattr("pipeline.capture.ddl.locked.LOCKED_FOR_S", 0)
    looking(monkeypatch, 0.1)
    with capturing(options):
        content = begun(change_log)
    with source.connect(autocommit=False) as holding:
        holding.execute("lock table ev1")
        running = RunningCapture(options)
        locked = f"nobody sees what is done to them: public.ev1 (process {holding.info.backend_pid})"
        require(lambda: locked in (running.waiting_for or ""), 20.0, what="its wait")
        source.execute("insert into ev values (11, 11); create table other (id int primary key)")
        content.wait(
            lambda c: "other" in {table.name for table in c.follower.live_tables}, "a table that joins"
        )
        holding.execute("truncate ev1; analyze ev1")
    assert running.ended_with().code == "partition-truncated"
    assert (content.read().follower.chain.epoch, content.ids("public.ev")) == (2, [11])


def test_rows_of_an_attached_table_wait_until_somebody_can_look_into_that(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking(monkeypatch, 3600)
    with capturing(options):
        begun(change_log)
    source.execute("create table late (like ev including all)")
    source.execute("alter table ev attach partition late for values from (20) to (30)")
    source.execute("insert into ev values (25, 25)")
    with source.connect(autocommit=False) as holding:
        holding.execute("lock table late")
        running = RunningCapture(options)
        require(lambda: running.last_error == "partition-locked", 20.0, what="another try")
    assert running.ended_with().code == "partition-attached"


def test_a_stop_ends_a_reading_of_the_wal_and_the_next_start_reads_it_again(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking(monkeypatch, 0.1)
    doing = "the source to read its WAL for what was done to public.ev1"
    with monkeypatch.context() as patch:
        patch.setattr("connectors.postgres.partitions.truncates._READ", "select pg_sleep(60)::text, 1")
        with capturing(options) as running:
            begun(change_log)
            source.execute("truncate ev1; analyze ev1")
            require(lambda: running.waiting_for == doing, 20.0, what="a reading in between")
        with capturing(options) as running:
            require(lambda: running.waiting_for == doing, 20.0, what="a reading at its start")
        assert running.last_error is None
    assert RunningCapture(options).ended_with().code == "partition-truncated"


COMMITTING = (
    "select count(*) > 0 from pg_stat_activity where datname = current_database() and wait_event_type = 'IPC'"
)


def test_what_the_stream_has_passed_before_others_see_it_is_known_by_a_later_look(
    new_source: Callable[..., Database], change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = new_source({"synchronous_standby_names": "nobody", "synchronous_commit": "local"})
    source.grant_ownership()
    source.execute(TREE)
    install_triggers(source)
    monkeypatch.setattr("pipeline.capture.ddl.locked.LOCKED_FOR_S", 0)
    looking(monkeypatch, 3600)
    running = RunningCapture(capture_options(source, change_log, partitions=Partitions.ROOT))
    content = begun(change_log)
    source.execute("insert into ev values (11, 11)")
    content.wait(lambda c: c.ids("public.ev") == [11], "the first row")
    with source.connect() as connection:
        connection.execute("set synchronous_commit = on")
        truncating = threading.Thread(target=connection.execute, args=("truncate ev1",))
        truncating.start()
        require(lambda: source.execute_as_admin(COMMITTING) == [(True,)], 20.0, what="its commit")
        source.execute("insert into ev values (12, 12)")
        content.wait(lambda c: c.ids("public.ev") == [11, 12], "what was committed behind it")
        looking(monkeypatch, 0.1)
        require(lambda: "public.ev1" in (running.waiting_for or ""), 20.0, what="a look")
        looking(monkeypatch, 3600)
        connection.cancel()
        truncating.join()
    source.execute("analyze ev1")
    looking(monkeypatch, 0.1)
    assert running.ended_with().code == "partition-truncated"
