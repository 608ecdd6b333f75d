"""P4–P6, P8: one capture at a time writes, and whoever comes after it knows exactly where it ended."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from connectors.interfaces import ChangeLog
from connectors.log import open_log
from connectors.postgres.replication.stream import SlotStream
from connectors.postgres.replication.walsender import Walsender
from connectors.postgres.session import Session, connect
from pipeline.capture.options import CaptureOptions
from pipeline.dev.process import require
from pipeline.follow import Follower, find_tail
from schemas.errors import RetryLater
from schemas.frame import NO_DIGEST, CaptureStart
from schemas.framecodec import FrameHeader, encode_capture_start, seal_frame
from schemas.lsn import parse_lsn
from schemas.validity import Verdict, ignorable
from tests.capturing import RunningCapture, begun, capture_options, capturing, close_readers, once
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database


def open_new(url: str) -> ChangeLog:
    return open_log(url, f"t{secrets.token_hex(6)}")


@pytest.fixture
def change_log(log_url: str) -> Iterator[ChangeLog]:
    """Both homes."""
    log = open_new(log_url)
    yield log
    close_readers()
    if log.exists():
        log.destroy()
    log.close()


@pytest.fixture
def directory_log(directory_url: str) -> Iterator[ChangeLog]:
    log = open_new(directory_url)
    yield log
    close_readers()
    log.close()


@pytest.fixture
def kafka_log(kafka_server: str) -> Iterator[ChangeLog]:
    log = open_new(f"kafka://{kafka_server}")
    yield log
    close_readers()
    if log.exists():
        log.destroy()
    log.close()


def made_options(source: Database, log: ChangeLog, **changes: Any) -> CaptureOptions:
    source.grant_ownership()
    source.execute("create table customer (id int primary key)")
    return capture_options(source, log, **changes)


def confirmed(source: Database) -> int:
    ((lsn,),) = source.execute_as_admin(
        "select confirmed_flush_lsn::text from pg_replication_slots where database = current_database()"
    )
    return parse_lsn(str(lsn))


def walsenders(source: Database) -> int:
    ((count,),) = source.execute_as_admin(
        "select count(*) from pg_stat_activity"
        " where backend_type = 'walsender' and datname = current_database()"
    )
    return int(count)


def stands_by(running: RunningCapture) -> bool:
    return "standing by" in (running.waiting_for or "")


def capture_start(log: ChangeLog) -> tuple[bytes, int, bytes]:
    """(stream, epoch, record) of an honest capture that would come next."""
    tail = find_tail(log)
    tail.close()
    stream, epoch = tail.chain.stream, tail.highest_epoch + 1
    assert stream is not None
    body = encode_capture_start(CaptureStart(secrets.token_bytes(16), "1", 1, 0))
    record, _ = seal_frame(FrameHeader(stream, epoch, 0, NO_DIGEST, 0), (), body)
    return stream, epoch, record


def begin_foreign_epoch(log: ChangeLog) -> None:
    """As another capture does that is killed right after its CAPTURE_START."""
    stream, epoch, record = capture_start(log)
    log.begin_epoch(epoch, record, is_ignorable=ignorable(stream=stream, epoch=epoch)).close()


def lose_everything() -> None:
    raise RetryLater("killed by the test", code="killed")


# P4


def test_p4_a_second_capture_stands_by_and_goes_on_where_the_first_ended(
    source: Database, change_log: ChangeLog
) -> None:
    options = made_options(source, change_log)
    first = RunningCapture(options)
    content = begun(change_log)
    second = RunningCapture(options)
    require(lambda: stands_by(second), 20, what="the standby")
    require(lambda: walsenders(source) == 2, 20, what="one walsender of each")
    source.execute("insert into customer values (1)")
    content.wait_for(1)
    assert (content.follower.chain.epoch, first.last_error) == (1, None)
    first.end()
    source.execute("insert into customer values (2)")
    content.wait_for(2)
    second.end()
    assert content.follower.chain.epoch == 2
    assert content.ids("public.customer") == [1, 2]


def test_a_starting_capture_connects_its_sessions_at_once(
    source: Database, directory_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_there = threading.Event()

    class Seen(Walsender):
        def __init__(self, conninfo: str, *, purpose: str) -> None:
            super().__init__(conninfo, purpose=purpose)
            is_there.set()

    def connect_behind(conninfo: str, *, purpose: str) -> Session:
        assert is_there.wait(20)
        return connect(conninfo, purpose=purpose)

    monkeypatch.setattr("pipeline.capture.startup.attempt.Walsender", Seen)
    monkeypatch.setattr("pipeline.capture.startup.startup.connect", connect_behind)
    with capturing(made_options(source, directory_log)):
        begun(directory_log)


def test_p4_a_frozen_owner_is_replaced_and_harmless_when_it_wakes(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pipeline.source
    source.execute("create table customer (id int primary key)")
    log = open_log(pipeline.settings["log"]["url"], pipeline.name)
    names = {"name": pipeline.name, "slot": pipeline.slot, "publication": pipeline.slot}
    frozen = pipeline.start("capture")
    content = begun(log)
    source.execute("insert into customer values (1)")
    content.wait_for(1)
    frozen.process.send_signal(signal.SIGSTOP)
    source.execute("insert into customer values (2)")
    monkeypatch.setattr("connectors.postgres.replication.slot.SILENCE_LIMIT_S", 1.5)
    with capturing(capture_options(source, log, **names)) as second:
        content.wait_for(2)
        monkeypatch.undo()
        frozen.process.send_signal(signal.SIGCONT)
        require(lambda: "standing by" in frozen.output, 20, what="the woken capture as standby")
        source.execute("insert into customer values (3)")
        content.wait_for(3)
        assert second.last_error is None
    source.execute("insert into customer values (4)")
    content.wait_for(4)
    frozen.end()
    assert content.ids("public.customer") == [1, 2, 3, 4]
    close_readers()
    log.close()


def test_p4_an_owner_whose_clock_is_slow_is_not_silent(
    source: Database, directory_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL shows when the owner says that it answered, and it says a minute ago."""

    class SlowClock:
        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        def time_ns(self) -> int:
            return time.time_ns() - 60_000_000_000

    monkeypatch.setattr("connectors.postgres.replication.stream.time", SlowClock())
    defaults = SlotStream.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "status_interval_s", 0.2)
    monkeypatch.setattr("connectors.postgres.replication.slot.SILENCE_LIMIT_S", 1.5)
    options = made_options(source, directory_log)
    with capturing(options) as first:
        content = begun(directory_log)
        seen = "select true from pg_stat_replication where clock_timestamp() - reply_time > '50 s'"
        require(lambda: bool(source.execute_as_admin(seen)), 10, what="the slow clock's time")
        with capturing(options) as second:
            require(lambda: stands_by(second), 20, what="the standby")
            deadline = time.monotonic() + 2.5
            require(lambda: time.monotonic() > deadline, 5, what="longer than an owner may be silent")
            assert stands_by(second)
            assert first.last_error is None
            first.end()
            source.execute("insert into customer values (1)")
            content.wait_for(1)


def test_p4_two_captures_that_were_told_to_take_over_do_not_end_each_other_for_ever(
    source: Database, directory_log: ChangeLog
) -> None:
    options = made_options(source, directory_log, take_over=True)
    first = RunningCapture(options)
    content = begun(directory_log)
    second = RunningCapture(options)
    require(lambda: stands_by(first), 20, what="the replaced capture as standby")
    epoch = content.read().follower.chain.epoch
    deadline = time.monotonic() + 2
    require(lambda: time.monotonic() > deadline, 5, what="some time")
    source.execute("insert into customer values (1)")
    content.wait_for(1)
    assert content.follower.chain.epoch == epoch == 2
    first.end()
    second.end()


# P5, P6


def test_p5_two_captures_that_begin_a_log_together_leave_one_writer_and_one_standby(
    source: Database, change_log: ChangeLog
) -> None:
    options = made_options(source, change_log)
    pair = [RunningCapture(options), RunningCapture(options)]
    content = begun(change_log)
    require(lambda: sum(map(stands_by, pair)) == 1, 30, what="one writer and one standby")
    source.execute("insert into customer values (1)")
    content.wait_for(1)
    (writer,) = (running for running in pair if not stands_by(running))
    writer.end()
    source.execute("insert into customer values (2)")
    content.wait_for(2)
    for running in pair:
        running.end()
        assert running.error is None
    assert content.ids("public.customer") == [1, 2]


def test_p5_a_capture_start_that_came_second_begins_again(
    source: Database, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote after that would be ignored by every reader, and confirmed."""
    options = made_options(source, change_log)
    with capturing(options):
        content = begun(change_log)
    source.execute("insert into customer values (1)")
    once(
        monkeypatch,
        "pipeline.capture.startup.epoch",
        "capture.after_start_record",
        lambda: begin_foreign_epoch(change_log),
    )
    with capturing(options) as running:
        content.wait_for(1)
        assert running.last_error == "epoch-lost"
    assert content.follower.chain.epoch == 4
    assert content.ids("public.customer") == [1]


def test_p5_a_tail_that_is_another_one_behind_the_capture_start_begins_again(
    source: Database, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same number and position: the log lost its end, and the same was written again. Two reads are
    enough where nobody writes: one before the slot is ours, one behind the CAPTURE_START."""
    options = made_options(source, change_log)
    with capturing(options):
        content = begun(change_log)
    source.execute("insert into customer values (1)")
    reads: list[Follower] = []

    def find_another(log: ChangeLog, **given: Any) -> Follower:
        tail = find_tail(log, **given)
        if not reads:
            tail.chain = replace(tail.chain, digest=bytes(len(tail.chain.digest)))
        reads.append(tail)
        return tail

    monkeypatch.setattr("pipeline.capture.startup.attempt.find_tail", find_another)
    monkeypatch.setattr("pipeline.capture.startup.epoch.find_tail", find_another)
    with capturing(options) as running:
        content.wait_for(1)
        assert running.last_error == "epoch-lost"
    assert len(reads) == 4
    assert content.follower.chain.epoch == 3


@pytest.mark.parametrize(
    ("module", "step"),
    [
        ("epoch", "capture.before_start_record"),
        ("epoch", "capture.after_start_record"),
        ("publishing", "capture.publication_created"),
        ("beginning", "capture.slot_created"),
        ("beginning", "capture.before_anchor"),
    ],
)
def test_p6_set_up_killed_after_a_step_is_done_anew(
    source: Database, directory_log: ChangeLog, monkeypatch: pytest.MonkeyPatch, module: str, step: str
) -> None:
    """Rows 1 … are committed while nothing was promised: they belong to the first copy."""
    options = made_options(source, directory_log)

    def commit_and_die() -> None:
        source.execute("insert into customer values (1)")
        lose_everything()

    once(monkeypatch, f"pipeline.capture.startup.{module}", step, commit_and_die)
    with capturing(options) as running:
        content = begun(directory_log)
        assert running.last_error == "killed"
        source.execute("insert into customer values (2)")
        content.wait_for(1)
    assert content.ids("public.customer") == [2]
    assert content.committed[0].commit_lsn >= content.anchors[0].at.lsn


def test_p6_a_slot_that_another_capture_dropped_in_set_up_is_made_anew(
    source: Database, directory_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = made_options(source, directory_log)
    drop = f"select pg_drop_replication_slot('{options.slot}')"
    action: Callable[[], object] = lambda: source.execute_as_admin(drop)  # noqa: E731
    once(monkeypatch, "pipeline.capture.startup.beginning", "capture.slot_created", action)
    with capturing(options) as running:
        begun(directory_log)
        assert running.last_error == "slot-lost"


def test_p6_a_capture_in_set_up_is_left_alone_while_its_slot_waits(
    source: Database, directory_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipeline.backoff.FIRST_S", 10.0
    )  # a slot that does not wait any more may be made anew
    options = made_options(source, directory_log)
    with source.connect(autocommit=False) as open_transaction:
        open_transaction.execute("insert into customer values (1)")
        with capturing(options) as first:
            require(lambda: "must end first" in (first.waiting_for or ""), 20, what="the slot's waiting")
            with capturing(options) as second:
                require(lambda: second.last_error == "slot-active", 20, what="the standing back")
                open_transaction.commit()
                assert begun(directory_log).follower.chain.epoch == 1
                assert first.last_error is None


def test_p6_a_log_that_promised_something_is_never_begun_anew(
    source: Database, directory_log: ChangeLog
) -> None:
    options = made_options(source, directory_log)
    with capturing(options):
        begun(directory_log)
    source.drop_slot(options.slot)
    for _ in range(2):
        assert RunningCapture(options).ended_with().code == "slot-missing"
    assert (
        source.execute_as_admin(
            "select slot_name from pg_replication_slots where database = current_database()"
        )
        == []
    )


# P8


@pytest.fixture
def admin(kafka_server: str) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=kafka_server)
    yield client
    client.close()


def topic_of(log: ChangeLog) -> str:
    return log.name.rpartition("/")[2]


def test_p8_what_was_acknowledged_behind_a_foreign_capture_start_is_not_confirmed(
    source: Database, kafka_server: str, kafka_log: ChangeLog
) -> None:
    """Kafka acknowledges the transaction, and every reader ignores it: it must come again."""
    options = made_options(source, kafka_log)
    producer = KafkaProducer(bootstrap_servers=kafka_server, acks="all")
    with capturing(options) as running:
        content = begun(kafka_log)
        _, _, record = capture_start(kafka_log)
        producer.send(topic_of(kafka_log), value=record, partition=0).get(20)
        source.execute("insert into customer values (1)")
        content.wait_for(1)
        assert running.last_error == "log-fenced"
        tail = content.follower.chain.tail.lsn
        require(lambda: confirmed(source) >= tail, 20, what="the confirmation")
    producer.close()
    assert content.follower.ignored[Verdict.STALE] >= 1
    assert content.ids("public.customer") == [1]


def test_p8_a_topic_made_anew_under_capture_is_not_written_to(
    source: Database, kafka_log: ChangeLog, admin: Any
) -> None:
    """It would acknowledge everything, and nothing of what came before would be there. Whether row 2
    reached it before that was noticed decides only how the stop is called."""
    options = made_options(source, kafka_log)
    running = RunningCapture(options)
    content = begun(kafka_log)
    source.execute("insert into customer values (1)")
    content.wait_for(1)
    tail = content.committed[0].end_lsn
    require(lambda: confirmed(source) >= tail, 20, what="the confirmation")
    make_anew(admin, topic_of(kafka_log))
    source.execute("insert into customer values (2)")
    ((row_2,),) = source.execute("select pg_current_wal_insert_lsn()::text")
    error = running.ended_with()
    assert error.code in ("slot-without-log", "log-cut")
    assert error.exit_code == 4
    assert confirmed(source) < parse_lsn(str(row_2))


def make_anew(admin: Any, topic: str) -> None:
    admin.delete_topics([topic])
    gone: Callable[[], bool] = lambda: admin.describe_topics([topic])[0]["error_code"] != 0  # noqa: E731
    require(gone, 20, what="the topic's end")
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
