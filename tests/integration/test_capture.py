"""Capture against a real source, into a directory log: what the log then holds."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from connectors.interfaces import ChangeLog
from pipeline.capture.options import CaptureOptions
from pipeline.capture.writing.chainwriter import ChainWriter
from pipeline.config.model import Keyless, Tables
from pipeline.dev.process import require
from tests.capturing import LogContent, RunningCapture, begun, capture_options, capturing
from tests.fix_postgres import Database


@pytest.fixture
def options(source: Database, change_log: ChangeLog) -> CaptureOptions:
    source.grant_ownership()
    return capture_options(source, change_log)


def test_committed_changes_reach_the_log_in_order(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table customer (id int primary key, name text, credit numeric(10,2))")
    with capturing(options):
        content = begun(change_log)
        source.execute("insert into customer values (1, 'Ada', 10.50), (2, null, null)")
        source.execute("update customer set name = 'Eve' where id = 2; delete from customer where id = 1")
        content.wait(lambda c: len(c.transactions) >= 2, "both transactions")
    assert content.rows("public.customer") == [
        ("INSERT", [b"1", b"Ada", b"10.50"]),
        ("INSERT", [b"2", None, None]),
        ("UPDATE", [b"2", b"Eve", None]),
        ("DELETE", [b"1"]),
    ]


def test_capture_continues_without_gap_or_repetition_after_a_restart(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table customer (id int primary key, name text)")
    with capturing(options):
        content = begun(change_log)
        source.execute("insert into customer values (1, 'Ada')")
        content.wait(lambda c: len(c.transactions) == 1, "the first transaction")
    source.execute("insert into customer values (2, 'Bob')")
    with capturing(options):
        content.wait(lambda c: len(c.transactions) == 2, "the second transaction")
    assert [row[1][0] for row in content.rows("public.customer")] == [b"1", b"2"]
    assert content.follower.chain.epoch == 2


def test_a_transaction_larger_than_a_frame_is_whole_in_the_log(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table note (id int primary key, body text)")
    with capturing(options):
        content = begun(change_log)
        source.execute("insert into note select i, repeat(md5(i::text), 50) from generate_series(1, 2000) i")
        source.execute("insert into note values (0, repeat('wide', 1000000))")
        content.wait(lambda c: len(c.transactions) == 2, "both transactions")
    rows = [row for _, row in content.rows("public.note")]
    assert [int(row[0] or b"") for row in rows] == [*range(1, 2001), 0]
    assert rows[-1][1] == b"wide" * 1_000_000


def test_a_new_table_joins_with_the_rows_it_already_has(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.2)
    source.execute("create table customer (id int primary key)")
    with capturing(options):
        content = begun(change_log)
        source.execute(
            "create table lead (id int primary key, name text); insert into lead values (1, 'a\tb')"
        )
        content.wait(lambda c: len(c.transactions) == 1, "the join")
        source.execute("insert into lead values (2, 'later')")
        content.wait(lambda c: len(c.transactions) == 2, "the insert")
    messages = [change.payload for change in content.transactions[0]]
    assert [message.prefix for message in messages] == [  # type: ignore[union-attr]
        "keepstream.join",
        "keepstream.join.rows",
    ]
    assert messages[1].content == b"1\ta\\tb\n"  # type: ignore[union-attr]
    assert content.rows("public.lead") == [("INSERT", [b"2", b"later"])]


def test_an_altered_publication_is_a_gap(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table customer (id int primary key)")
    with capturing(options):
        begun(change_log)
    source.execute_as_admin("alter publication keepstream_crm drop table customer")
    source.execute_as_admin("alter publication keepstream_crm add table customer")
    error = RunningCapture(options).ended_with()
    assert (error.code, error.exit_code) == ("publication-changed", 4)


def test_a_dropped_slot_beside_a_log_stops(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        require(change_log.exists, 10, what="the log")
        LogContent(change_log).wait(lambda c: c.follower.chain.promised, "the first anchor")
    source.drop_slot(options.slot)
    assert RunningCapture(options).ended_with().code == "slot-missing"


def test_a_slot_advanced_by_hand_stops(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table customer (id int primary key)")
    with capturing(options):
        require(change_log.exists, 10, what="the log")
        LogContent(change_log).wait(lambda c: c.follower.chain.promised, "the first anchor")
    source.execute("insert into customer values (1)")
    source.execute_as_admin(f"select pg_replication_slot_advance('{options.slot}', pg_current_wal_lsn())")
    assert RunningCapture(options).ended_with().code == "slot-advanced"


def test_a_slot_beside_an_empty_log_stops(source: Database, options: CaptureOptions) -> None:
    source.execute_as_admin(f"select pg_create_logical_replication_slot('{options.slot}', 'pgoutput')")
    assert RunningCapture(options).ended_with().code == "slot-without-log"


def test_the_log_of_another_cluster_is_refused(
    source: Database, options: CaptureOptions, change_log: ChangeLog, new_source: Callable[..., Database]
) -> None:
    with capturing(options):
        require(change_log.exists, 10, what="the log")
        LogContent(change_log).wait(lambda c: c.follower.chain.promised, "the first anchor")
    other = new_source()
    moved = CaptureOptions(
        name="crm",
        source=other.dsn,
        log=change_log,
        publication="keepstream_crm",
        slot=options.slot,
        tables=Tables(),
        keyless=Keyless.EXCLUDE,
    )
    assert RunningCapture(moved).ended_with().code == "source-other-cluster"


def test_streams_are_named_by_uuid(options: CaptureOptions, change_log: ChangeLog) -> None:
    with capturing(options):
        content = begun(change_log)
    stream = content.follower.chain.stream
    assert stream is not None
    assert uuid.UUID(bytes=stream).version == 4


def test_readers_of_a_table_without_key_keep_capture_waiting_and_no_writer(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """REPLICA IDENTITY FULL takes a lock that writers would queue behind."""
    source.execute("create table visit (page text)")
    with source.connect(autocommit=False) as reader:
        reader.execute("select from visit")
        with capturing(replace(options, keyless=Keyless.FULL)) as running:
            require(lambda: "replica identity" in (running.waiting_for or ""), 10, what="capture to wait")
            for _ in range(10):
                source.execute("set lock_timeout = '1s'; insert into visit values ('a')")
                time.sleep(0.1)
            reader.rollback()
            content = begun(change_log)
            source.execute("update visit set page = 'b'")
            content.wait(lambda c: bool(c.rows("public.visit")), "the update")
            assert running.error is None


def test_those_that_the_slot_waits_for_are_named_and_logged_when_they_change(
    source: Database, options: CaptureOptions, change_log: ChangeLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "keepstream.capture")
    source.execute("create table customer (id int primary key)")
    source.execute("begin; insert into customer values (1); prepare transaction 'left behind'")
    with psycopg.connect(source.owner_dsn, application_name="nightly report") as idle:
        idle.execute("insert into customer values (2)")
        one = rf"pid {idle.info.backend_pid} \(nightly report, crm, idle in transaction, open for \d+ s\)"
        other = r"prepared transaction 'left behind' of crm, open for \d+ s"
        with capturing(options) as running:
            waits = rf"slot {options.slot}: open transactions on the source must end first \(\d+ s\): "
            require(lambda: bool(running.waiting_for), 20, what="the slot's wait")
            first = running.waiting_for
            require(lambda: running.waiting_for != first, 10, what="its next second")
            assert re.fullmatch(f"{waits}{other}; {one}", running.waiting_for or "")
            idle.commit()
            require(lambda: "nightly" not in (running.waiting_for or ""), 10, what="one to wait for")
            assert re.fullmatch(waits + other, running.waiting_for or "")
            source.execute("rollback prepared 'left behind'")
            begun(change_log)
    said = [record.__dict__["waiting_for"] for record in caplog.records if record.msg == "capture waits"]
    assert [len(re.findall("open for", waits)) for waits in said] == [2, 1]


def test_a_new_table_without_key_never_makes_the_applications_writes_fail(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.2)
    source.execute("create table customer (id int primary key, name text)")
    with capturing(replace(options, keyless=Keyless.FULL)):
        content = begun(change_log)
        source.execute("create table visit (page text); insert into visit values ('a')")
        content.wait(lambda c: len(c.transactions) == 1, "the join")
        source.execute("update visit set page = 'b'")
        source.execute("alter table customer drop constraint customer_pkey")
        full = "select relreplident = 'f' from pg_class where relname = 'customer'"
        require(lambda: source.execute(full) == [(True,)], 10, what="replica identity full")
        source.execute("update customer set name = 'x'")
        content.wait(lambda c: bool(c.rows("public.visit")), "the update")
    assert content.rows("public.visit") == [("UPDATE", [b"b"])]


def test_a_new_table_without_key_is_left_out_until_it_was_decided(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.2)
    with capturing(replace(options, keyless=Keyless.REFUSE)) as running:
        require(change_log.exists, 10, what="the log")
        LogContent(change_log).wait(lambda c: c.follower.chain.promised, "the first anchor")
        source.execute("create table visit (page text); insert into visit values ('a')")
        source.execute("create table later (id int primary key)")

        def reason() -> str:
            """Beside it `later` may stand, which joins soon."""
            named = running.reports[-1].not_replicated if running.reports else ()
            return next((each.reason for each in named if each.table == "public.visit"), "")

        require(lambda: bool(reason()), 10, what="the table named")
        assert "no primary key" in reason()
        source.execute("update visit set page = 'b'")


def test_a_table_in_our_schema_is_named_among_those_that_are_not_replicated(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """But for our own tables, which a source has that is a replica, too."""
    source.execute_as_admin("create schema keepstream; create table keepstream.orders (id int primary key)")
    source.execute_as_admin("create table keepstream.progress (id int primary key)")
    with capturing(options) as running:
        begun(change_log)
        require(lambda: bool(running.reports and running.reports[-1].not_replicated), 10, what="a look")
    assert [each.table for each in running.reports[-1].not_replicated] == ["keepstream.orders"]
    assert "Keepstream's own" in running.reports[-1].not_replicated[0].reason


def frames_of_fifty_commits(source: Database, options: CaptureOptions, change_log: ChangeLog) -> int:
    source.execute("create table customer (id int primary key)")
    with capturing(options):
        content = begun(change_log)
        first = content.follower.chain.number
        for key in range(50):
            source.execute("insert into customer values (%s)", [key])
            time.sleep(0.01)  # the stream's rate: slow enough for a frame each
        content.wait_for(50)
        assert content.ids("public.customer") == list(range(50))
        return content.follower.chain.number - first


def test_transactions_gather_while_the_log_is_busy_but_never_for_long(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of this test never has an answer for the frame before."""
    asked: list[float] = []

    def is_idle(_: ChainWriter, timeout_s: float) -> bool:
        asked.append(timeout_s)
        time.sleep(timeout_s)
        return False

    monkeypatch.setattr(ChainWriter, "is_idle", is_idle)
    monkeypatch.setattr("pipeline.capture.writing.gathering.HOLD_S", 0.5)
    assert frames_of_fifty_commits(source, options, change_log) < 10
    assert max(asked) <= 0.5


def test_frames_of_a_steady_stream_keep_their_pace_though_the_log_is_free(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChainWriter, "pace_s", 0.5)
    assert frames_of_fifty_commits(source, options, change_log) < 10


def test_what_comes_late_gathers_though_the_log_is_free(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.capture.writing.gathering.BEHIND_US", -(10**12))
    monkeypatch.setattr("pipeline.capture.writing.gathering.HOLD_S", 0.5)
    monkeypatch.setattr("pipeline.capture.writing.gathering.BEHIND_HOLD_S", 0.5)
    monkeypatch.setattr("pipeline.capture.pump._DRY_S", 0.3)
    assert frames_of_fifty_commits(source, options, change_log) < 10


def test_a_table_version_that_comes_back_is_announced_again(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table customer (id int primary key, name text)")
    with capturing(options):
        content = begun(change_log)
        source.execute("insert into customer values (1, 'a')")
        source.execute("alter table customer replica identity full; insert into customer values (2, 'b')")
        content.wait(lambda c: len(c.transactions) == 2, "two versions")
    with capturing(options):
        source.execute("alter table customer replica identity default; insert into customer values (3, 'c')")
        content.wait(lambda c: len(c.transactions) == 3, "the first version again")
        source.execute("update customer set name = 'd' where id = 1")
        content.wait(lambda c: len(c.transactions) == 4, "the update")
    assert [row[0] for _, row in content.rows("public.customer")] == [b"1", b"2", b"3", b"1"]
    (live,) = content.follower.live_tables
    assert live.replica_identity.name == "DEFAULT"
