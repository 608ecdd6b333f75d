"""P1–P3, P9, P17, P22: what a position holds, what is durable and confirmed, what a snapshot shows."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from connectors.interfaces import ChangeLog
from connectors.log import open_log
from connectors.log.directory_writer import DirectoryWriter
from connectors.postgres.copy.snapshot import begin_in_snapshot, export_snapshot
from connectors.postgres.replication.stream import SlotStream
from connectors.postgres.session import connect
from pipeline.capture.options import CaptureOptions
from pipeline.capture.pump import Pump
from pipeline.control.wait import mark_now
from pipeline.dev.process import require
from pipeline.reentry import follow_from
from schemas.errors import RetryLater
from schemas.frame import FRAME_TARGET_BYTES
from schemas.lsn import Lsn, Position, parse_lsn
from tests.capturing import LogContent, RunningCapture, begun, capture_options, capturing, once
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database, Row


@pytest.fixture
def options(source: Database, change_log: ChangeLog) -> CaptureOptions:
    return made_options(source, change_log)


@pytest.fixture
def frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.capture.housekeeping.HEARTBEAT_EVERY_S", 0.05)


def made_options(source: Database, log: ChangeLog) -> CaptureOptions:
    source.grant_ownership()
    source.execute("create table customer (id int primary key, name text)")
    return capture_options(source, log)


def lsn_of(source: Database, query: str) -> int:
    ((lsn,),) = source.execute_as_admin(query)
    return 0 if lsn is None else parse_lsn(str(lsn))


def insert_lsn(source: Database) -> int:
    return lsn_of(source, "select pg_current_wal_insert_lsn()::text")


def confirmed(source: Database) -> int:
    return lsn_of(
        source,
        "select confirmed_flush_lsn::text from pg_replication_slots"
        " where database = current_database() and not temporary",
    )


# P1


@pytest.mark.usefixtures("frequent")
def test_p1_a_commit_that_starts_exactly_at_a_heartbeat_is_after_it(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """With `<=` the capture that continues would skip it: its commit_lsn is the tail itself."""
    content: LogContent | None = None
    for number in range(1, 8):
        open_transaction = source.connect(autocommit=False)
        with capturing(options):
            content = content or begun(change_log)
            open_transaction.execute("insert into customer values (%s)", [number])
            source.execute("select pg_current_xact_id()")  # its commit flushes the row's record, too
            now = insert_lsn(source)
            content.wait(lambda c, n=now: c.follower.chain.tail.lsn >= n, "a heartbeat")  # type: ignore[misc]
        tail = content.read().follower.chain.tail.lsn
        open_transaction.commit()
        open_transaction.close()
        with capturing(options):
            content.wait_for(number)
        assert content.ids("public.customer") == list(range(1, number + 1))
        if content.committed[-1].commit_lsn == tail:
            return
    pytest.fail("something else wrote WAL each time")


def test_p1_a_commit_that_starts_exactly_at_the_slots_snapshot_is_in_the_log(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends building the slot with a transaction open that began meanwhile."""
    with ExitStack() as stack:
        first, second, third = (
            stack.enter_context(psycopg.connect(source.owner_dsn, autocommit=False)) for _ in range(3)
        )
        first.execute("insert into customer values (1)")
        once(monkeypatch, "pipeline.capture.startup.beginning", "capture.slot_created", third.commit)
        stack.enter_context(capturing(options))
        wait_for_walsender_behind(source, first)
        second.execute("insert into customer values (2)")
        first.commit()
        wait_for_walsender_behind(source, second)
        third.execute("insert into customer values (3)")
        second.commit()
        content = begun(change_log)
        content.wait_for(1)
    assert content.ids("public.customer") == [3]
    if content.committed[0].commit_lsn != content.anchors[0].at.lsn:
        pytest.skip("the server logged its running transactions between the two, as it does every 15 s")


def wait_for_walsender_behind(source: Database, blocker: psycopg.Connection[Row]) -> None:
    walsenders = "select pid from pg_stat_activity where backend_type = 'walsender'"
    blocked = f"{walsenders} and %s = any(pg_blocking_pids(pid))"
    pid = blocker.info.backend_pid
    require(lambda: bool(source.execute_as_admin(blocked, [pid])), 20, what="the slot's waiting")


# P2


def test_p2_hints_are_verified_and_never_trusted(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.capture.writing.chainwriter.ANCHOR_EVERY_BYTES", 1)
    with capturing(options):
        content = begun(change_log)
        for row in range(1, 20):
            source.execute("insert into customer values (%s)", [row])
            content.wait_for(row)
            if row > 3 and content.read().anchors[-1].at.lsn == content.committed[-1].end_lsn:
                break
    stream, hint = content.follower.chain.stream, str(content.follower.anchor)
    assert stream is not None
    end = Position(Lsn(content.committed[-1].end_lsn), content.committed[-1].xid)
    before = Position(Lsn(content.committed[0].end_lsn), content.committed[0].xid)

    def first_read(position: Position, hint: str) -> int:
        follower = follow_from(change_log, stream=stream, position=position, hint=hint)
        number = follower.read(5)[0].frame.number
        follower.close()
        return number

    place, number, digest = hint.split(":")
    assert first_read(end, hint) == int(number) > 1
    # an anchor past the position, another digest or number, a place in the middle of nothing: the start
    assert first_read(before, hint) == 0
    lies = [
        f"{place}:{number}:{'0' * len(digest)}",
        f"{place}:1:{digest}",
        f"{int(place) + 1}:{number}:{digest}",
    ]
    for lie in [*lies, "", "x", f"{1 << 60}:{number}:{digest}"]:
        assert first_read(end, lie) == 0, lie


# P3


def test_p3_a_change_cut_into_fragments_is_voided_whole_and_comes_again(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        LogContent(change_log).wait(lambda c: c.parts == 4, "what will be in vain")
        raise RetryLater("killed by the test", code="killed")

    once(monkeypatch, "pipeline.capture.writing.chainwriter", "capture.part_appended", die, hit=4)
    value = "".join(hashlib.sha256(str(i).encode()).hexdigest() for i in range(60_000))
    assert len(value) > 7 * FRAME_TARGET_BYTES
    with capturing(options) as running:
        content = begun(change_log)
        source.execute("insert into customer values (1, %s), (2, 'small')", [value])
        content.wait_for(1)
        assert running.last_error == "killed"
    assert content.parts == 4 + 9, "four in vain, then eight fragments and the rest"
    (_, first), (_, second) = content.rows("public.customer")
    assert first == [b"1", value.encode()]
    assert second == [b"2", b"small"]


def test_p3_memory_is_bounded_whatever_the_size_of_a_transaction(directory_pipeline: Pipeline) -> None:
    source = directory_pipeline.source
    source.execute("create table note (id int primary key, body text)")
    running = directory_pipeline.start("capture")
    log = open_log(directory_pipeline.settings["log"]["url"], directory_pipeline.name)
    content = begun(log)
    before = peak_mb(running.process.pid)
    source.execute("insert into note select i, repeat(md5(i::text), 250) from generate_series(1, 15000) i")
    tail = insert_lsn(source)
    require(lambda: confirmed(source) >= tail or not running.alive, 60, what="the confirmation")
    grown = peak_mb(running.process.pid) - before
    content.wait_for(1)
    assert len(content.committed[0].changes) == 15_000
    assert grown < 75, f"{grown} MB for a transaction of 120 MB"
    log.close()


def peak_mb(pid: int) -> int:
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) // 1024


# P9


@pytest.fixture
def durable_limit(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """At most so many records are called durable, as on a disk that does not answer."""
    limit, durable = [0], DirectoryWriter.durable

    def limited(self: DirectoryWriter, timeout_s: float) -> int:
        return min(durable(self, timeout_s), limit[0])

    monkeypatch.setattr(DirectoryWriter, "durable", limited)
    return limit


def test_p9_nothing_is_confirmed_before_it_is_durable(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    durable_limit: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Written, even readable for others, is not enough; and until something is durable it is 0."""
    defaults = SlotStream.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "status_interval_s", 0.1)
    with capturing(options):
        content = begun(change_log)
        start = confirmed(source)
        source.execute("insert into customer values (1)")
        content.wait_for(1)
        assert said_next(source) == (0, start)
        durable_limit[0] = 2
        end = content.committed[0].end_lsn
        require(lambda: confirmed(source) == end, 10, what="the confirmation")
        source.execute("insert into customer values (2)")
        content.wait_for(2)
        assert said_next(source) == (end, end)
        durable_limit[0] = 1 << 30
        require(lambda: confirmed(source) >= content.committed[1].end_lsn, 10, what="the confirmation")


def said_next(source: Database) -> tuple[int, int]:
    """What capture said was flushed in a status update that it wrote from now on, and what the slot made
    of that."""
    stats = "from pg_stat_replication where pid in (select active_pid from pg_replication_slots)"
    ((now,),) = source.execute_as_admin("select clock_timestamp() + interval '0.5 s'")
    later = f"select true {stats} and reply_time > %s"
    require(lambda: bool(source.execute_as_admin(later, [now])), 10, what="a status update")
    return lsn_of(source, f"select flush_lsn::text {stats}"), confirmed(source)


@pytest.mark.usefixtures("frequent")
def test_p9_heartbeats_move_the_slot_of_an_idle_database(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        content = begun(change_log)
        with psycopg.connect(source.server.dsn(), autocommit=True) as sibling:
            sibling.execute("select pg_logical_emit_message(false, 'busy', repeat('x', 100000))")
        written = insert_lsn(source)
        require(lambda: confirmed(source) >= written, 20, what="the slot's move")
        assert confirmed(source) <= content.read().follower.chain.tail.lsn
    assert content.committed == []


@pytest.mark.usefixtures("frequent")
def test_p9_a_heartbeat_never_stands_before_a_transaction_that_is_below_it(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        content = begun(change_log)
        with load(source) as stop_and_count:
            content.wait(lambda c: len(c.heartbeats) > 5 and len(c.committed) > 100, "traffic")
        content.wait_for(stop_and_count())
    for lsn, before in content.heartbeats:
        assert all(one.commit_lsn < lsn for one in content.committed[:before])
        assert all(one.commit_lsn >= lsn for one in content.committed[before:])


@contextmanager
def load(source: Database) -> Iterator[Callable[[], int]]:
    """Three sessions that insert, beside a busy sibling database; yields what ends them and says how many
    transactions they committed."""
    stop = threading.Event()
    counts: list[int] = []

    def work(first: int) -> None:
        with psycopg.connect(source.owner_dsn, autocommit=True) as session:
            number = first
            while not stop.is_set():
                session.execute("insert into customer values (%s, 'load')", [number])
                number += 1
                stop.wait(0.2 if number % 20 == 0 else 0.005)
            counts.append(number - first)

    def keep_sibling_busy() -> None:
        with psycopg.connect(source.server.dsn(), autocommit=True) as session:
            while not stop.wait(0.002):
                session.execute("select pg_logical_emit_message(true, 'busy', 'x')")

    threads = [threading.Thread(target=work, args=[i * 1_000_000]) for i in (1, 2, 3)]
    threads.append(threading.Thread(target=keep_sibling_busy))
    for thread in threads:
        thread.start()

    def end() -> int:
        stop.set()
        for thread in threads:
            thread.join()
        return sum(counts)

    try:
        yield end
    finally:
        end()


def test_p9_an_encoder_that_is_busy_for_longer_than_wal_sender_timeout_loses_no_connection(
    new_source: Callable[..., Database], change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = new_source({"wal_sender_timeout": "1s"})
    options = made_options(source, change_log)
    take, busy = Pump._take, [2.5]

    def take_long(self: Pump, message: bytes) -> None:
        if busy and message[:1] == b"I":
            time.sleep(busy.pop())
        take(self, message)

    monkeypatch.setattr(Pump, "_take", take_long)
    with capturing(options) as running:
        content = begun(change_log)
        source.execute("insert into customer select i, repeat('x', 1000) from generate_series(1, 5000) i")
        content.wait_for(1)
        assert running.last_error is None
    assert not busy
    assert content.follower.chain.epoch == 1


# P17


def test_p17_an_exported_snapshot_shows_exactly_what_was_committed_below_its_lsn(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    seen: list[tuple[int, set[int]]] = []
    with capturing(options):
        content = begun(change_log)
        with load(source) as stop_and_count, connect(source.dsn, purpose="test") as observer:
            for _ in range(8):
                with (
                    export_snapshot(
                        source.dsn, purpose="test", observer=observer, limit_s=20, on_wait=lambda _: None
                    ) as snapshot,
                    connect(source.dsn, purpose="test") as reader,
                ):
                    begin_in_snapshot(reader, snapshot)
                    found = reader.execute("select id from public.customer").fetchall()
                    seen.append((snapshot.lsn, {row[0] for row in found}))
            total = stop_and_count()
        content.wait_for(total)
    ids = content.ids("public.customer")
    for lsn, rows in seen:
        below = {row for row, one in zip(ids, content.committed, strict=True) if one.commit_lsn < lsn}
        assert rows == below
    assert len(seen[-1][1]) > len(seen[0][1])


# P22


def test_p22_all_that_is_committed_now_includes_asynchronous_commits(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """They are visible and not yet flushed: the flush LSN stands before them."""
    with capturing(options), source.connect() as application, connect(source.dsn, purpose="test") as session:
        content = begun(change_log)
        application.execute("set synchronous_commit = off")
        for number in range(1, 30):
            application.execute("insert into customer values (%s)", [number])
            ((flushed,),) = application.execute("select pg_current_wal_flush_lsn()::text").fetchall()
            target = mark_now(session)
            content.wait(lambda c, n=number: len(c.ids("public.customer")) >= n, "the row")  # type: ignore[misc]
            row = next(one for one in reversed(content.committed) if any(c.row for c in one.changes))
            assert row.commit_lsn < target, "a replica at this position holds it"
            if row.commit_lsn >= parse_lsn(str(flushed)):
                return
    pytest.fail("the WAL writer was always faster")


# P21


def test_p21_a_verification_under_traffic_that_truncates_finds_both_sides_identical(
    directory_pipeline: Pipeline,
) -> None:
    source = directory_pipeline.source
    source.execute(
        "create table customer (id bigserial primary key, n int); create table wiped (id int primary key)"
    )
    running = directory_pipeline.start("run")
    directory_pipeline.until(
        lambda: directory_pipeline.run("wait", "standby", "--timeout", "5").code == 0, "sync"
    )
    stop, failures = threading.Event(), list[BaseException]()

    def work() -> None:
        truncate_at = 0.0
        try:
            with psycopg.connect(source.owner_dsn, autocommit=True) as session:
                while not stop.is_set():
                    session.execute("insert into customer (n) select generate_series(1, 20)")
                    session.execute("update customer set n = n + 1 where id % 7 = 0")
                    session.execute("delete from customer where id % 5 = 0")
                    session.execute("insert into wiped values ((select coalesce(max(id), 0) + 1 from wiped))")
                    if stop.wait(0.02) or time.monotonic() > truncate_at:
                        session.execute("truncate wiped")
                        truncate_at = time.monotonic() + 1.0
        except psycopg.Error as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        result = directory_pipeline.verify()
    finally:
        stop.set()
        worker.join()
    assert not failures
    assert running.alive
    assert result["identical"]
    assert {table["table"] for table in result["tables"]} == {"public.customer", "public.wiped"}


def test_p9_capture_that_is_told_to_stop_inside_a_transaction_confirms_nothing_of_it(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, running = threading.Event(), list[RunningCapture]()

    def stop() -> None:
        content.wait(lambda content: content.parts > 0, "a part of it")  # who stops waits for none
        running[0].stop.set()
        reached.set()

    once(monkeypatch, "pipeline.capture.writing.chainwriter", "capture.part_appended", stop)
    running.append(RunningCapture(options))
    content = begun(change_log)
    source.execute("insert into customer select i, repeat('x', 1000) from generate_series(1, 20000) i")
    assert reached.wait(20)
    running[0].end()
    assert content.committed == []
    assert confirmed(source) <= content.follower.chain.tail.lsn
    with capturing(options):
        content.wait_for(1)
    assert len(content.committed[0].changes) == 20_000
