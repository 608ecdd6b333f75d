"""The slot's stream (P9): order, confirming, back-pressure, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from connectors.postgres.replication import stream as stream_module
from connectors.postgres.replication.pgoutput import Begin, Commit, Decoded, Decoder
from connectors.postgres.replication.slot import read_slot
from connectors.postgres.replication.stream import Batch, SlotStream
from connectors.postgres.replication.walsender import Walsender
from connectors.postgres.server import insert_lsn
from connectors.postgres.session import Session, connect
from schemas.avro import RowCodec
from schemas.change import Change, Operation
from schemas.errors import HistoryBroken, InternalError, KeepstreamError, RetryLater
from schemas.lsn import ZERO, Lsn
from tests.fix_postgres import Database
from tests.unit.test_pgoutput import RECORDED

PATIENCE_S = 30.0
Open = Callable[..., SlotStream]

SETTING_UP = """
    create type mood as enum ('sad', 'so so', 'it''s "ok"');
    create domain email as text check (value like '%@%');
    create schema "Sales Dept";
    create table party (id int primary key, name varchar(40) not null, amount numeric(12,2), mood mood,
        email email, notes text, moods mood[], at timestamptz) with (toast_tuple_target = 128);
    alter table party alter notes set storage external;
    create table full_identity (a int, b text, c text) with (toast_tuple_target = 128);
    alter table full_identity replica identity full;
    alter table full_identity alter c set storage external;
    create table "Sales Dept"."Order Line" (a int not null, b text not null, c text);
    create unique index oi on "Sales Dept"."Order Line" (b, a);
    alter table "Sales Dept"."Order Line" replica identity using index oi;
    create table nothing (a int);
    alter table nothing replica identity nothing;
    create table child (id int primary key references party on delete cascade);
    create table kt (k text primary key, v text) with (toast_tuple_target = 128);
    alter table kt alter k set storage external, alter v set storage external;
    create publication p for table party, full_identity, "Sales Dept"."Order Line", nothing, child, kt;
"""
RECORDED_STATEMENTS = (
    """
    insert into party values (1, 'Anna', 12.50, 'so so', 'a@b.c', repeat('n', 2100), '{sad,NULL}',
                              '2024-02-29 12:34:56.789+02');
    insert into party (id, name) values (2, 'Zoë 🐘');
    """,
    "update party set amount = -0.01 where id = 1; update party set id = 3 where id = 1;"
    "delete from party where id = 2",
    "insert into full_identity values (1, null, repeat('c', 2100)), (1, null, 'x');"
    "update full_identity set b = 'b'; delete from full_identity where c = 'x'",
    """
    insert into "Sales Dept"."Order Line" values (1, 'b', 'c');
    update "Sales Dept"."Order Line" set b = 'B'; update "Sales Dept"."Order Line" set c = 'C';
    delete from "Sales Dept"."Order Line"
    """,
    "insert into nothing values (7)",
    "select pg_logical_emit_message(true, 'keepstream.join', '{}'); insert into child values (3);"
    "truncate party restart identity cascade",
    "truncate full_identity, nothing",
    "select pg_logical_emit_message(false, 'outside', '\\x00ff'::bytea)",
    "select pg_replication_origin_xact_setup('AB/CD', '2024-01-01'); insert into nothing values (8)",
    "alter table nothing add column b text default 'd'; insert into nothing values (9)",
    "insert into kt values (repeat('k', 1500), repeat('v', 1500)); update kt set v = 'short';"
    "update kt set k = 'new'",
)


@pytest.fixture
def observer(source: Database) -> Iterator[Session]:
    with connect(source.dsn, purpose="observer") as session:
        yield session


@pytest.fixture
def slot(source: Database) -> str:
    """A slot and a publication `p` of table t."""
    source.execute("create table t (a int primary key, b text); create publication p for table t")
    return make_slot(source)


def make_slot(source: Database) -> str:
    name = f"slot_{source.name}"
    walsender = Walsender(source.dsn, purpose="test")
    walsender.create_slot(name, temporary=False)
    walsender.close()
    return name


@pytest.fixture
def open_stream(source: Database) -> Iterator[Open]:
    """`open_stream(slot, **options)`: a started stream, closed with the test."""
    with ExitStack() as stack:

        def start(slot: str, *, dsn: str = source.dsn, **options: float) -> SlotStream:
            walsender = Walsender(dsn, purpose="test")
            stack.callback(walsender.close)
            stream = SlotStream(walsender, slot=slot, publication="p", **options)  # type: ignore[arg-type]
            stream.start()
            stack.callback(stream.close)
            return stream

        yield start


def insert(source: Database, first: int, last: int, *, filler: int = 0) -> None:
    source.execute(
        "insert into t select g, repeat('x', %s) from generate_series(%s::int, %s::int) g",
        [filler, first, last],
    )


def read_until(stream: SlotStream, done: Callable[[list[bytes]], bool]) -> list[bytes]:
    """Messages until `done` says so of all of them."""
    messages: list[bytes] = []
    deadline = time.monotonic() + PATIENCE_S
    while not done(messages):
        assert time.monotonic() < deadline, "the messages did not come"
        messages += stream.read(1.0).messages
    return messages


def read_commits(stream: SlotStream, count: int) -> list[bytes]:
    """Messages up to the `count`-th commit."""
    return read_until(stream, lambda messages: sum(message[0] == ord("C") for message in messages) >= count)


def read_end(stream: SlotStream) -> KeepstreamError:
    """What ended the stream."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            stream.read(1.0)
    except KeepstreamError as error:
        return error
    raise AssertionError("the stream did not end")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def inserted_keys(messages: list[bytes]) -> list[int]:
    decoder = Decoder()
    keys = []
    for message in messages:
        change = decoder.decode(message)
        if isinstance(change, Change) and change.operation is Operation.INSERT:
            assert change.row is not None
            table = decoder.table(int.from_bytes(message[1:5]))
            assert table is not None
            key = RowCodec(table).decode_row(change.row)[0]
            assert key is not None
            keys.append(int(key))
    return keys


def confirmed_flush(observer: Session, slot: str) -> Lsn:
    state = read_slot(observer, slot)
    assert state is not None
    assert state.confirmed_flush_lsn is not None
    return state.confirmed_flush_lsn


def last_status(observer: Session, slot: str) -> str:
    """When the stream sent the newest status update that the server has; text, which sorts by time."""
    ((sent_at,),) = observer.execute(
        """select coalesce(to_char(r.reply_time, 'YYYY-MM-DD HH24:MI:SS.US'), '')
             from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
            where s.slot_name = %s""",
        [slot],
    ).fetchall()
    return str(sent_at)


def sent_all(observer: Session, slot: str) -> bool:
    """Whether the server has sent everything that is committed."""
    ((sent,),) = observer.execute(
        """select coalesce(r.sent_lsn >= pg_current_wal_flush_lsn(), false)
             from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
            where s.slot_name = %s""",
        [slot],
    ).fetchall()
    return bool(sent)


def last_commit(messages: list[bytes]) -> Commit:
    decoder = Decoder()
    commits = [value for value in map(decoder.decode, messages) if isinstance(value, Commit)]
    return commits[-1]


def test_a_server_still_sends_what_was_recorded(source: Database, open_stream: Open) -> None:
    source.execute(SETTING_UP)
    slot = make_slot(source)
    source.execute_as_admin("select pg_replication_origin_create(current_database())")
    with psycopg.connect(source.admin_dsn) as connection:
        for statements in RECORDED_STATEMENTS:
            stamped = "xact_setup" in statements
            if stamped:
                connection.execute("select pg_replication_origin_session_setup(current_database())")
            connection.execute(statements.encode())
            connection.commit()
            if stamped:
                connection.execute("select pg_replication_origin_session_reset()")
                connection.commit()
    source.execute_as_admin("select pg_replication_origin_drop(current_database())")
    messages = read_commits(open_stream(slot), 10)
    assert [essence(value) for value in decode_all(messages)] == [
        essence(value) for value in decode_all(RECORDED)
    ]


def decode_all(messages: list[bytes] | tuple[bytes, ...]) -> list[Decoded]:
    decoder = Decoder()
    return [decoder.decode(message) for message in messages]


def essence(value: Decoded) -> object:
    """What does not differ between two databases."""
    if isinstance(value, Change):
        return value.operation, value.old_key, value.old_row, value.row, value.absent
    return type(value)


def test_messages_arrive_once_and_in_commit_order(source: Database, slot: str, open_stream: Open) -> None:
    for first in range(0, 50, 10):
        insert(source, first, first + 9)
    stream = open_stream(slot)
    messages = read_commits(stream, 5)
    insert(source, 50, 50)
    messages += read_commits(stream, 1)
    assert inserted_keys(messages) == list(range(51))
    kinds = bytes(message[0] for message in messages if message[0] not in b"RY")
    assert kinds == (b"B" + b"I" * 10 + b"C") * 5 + b"BIC"


def test_an_interleaved_transaction_comes_whole_at_its_commit(
    source: Database, slot: str, open_stream: Open
) -> None:
    stream = open_stream(slot)
    with source.connect(autocommit=False) as slow:
        slow.execute("insert into t values (1)")
        insert(source, 2, 2)
        messages = read_commits(stream, 1)
        slow.execute("savepoint s")
        slow.execute("insert into t values (3)")
        slow.execute("rollback to s")
        slow.execute("insert into t values (4)")
        slow.commit()
    assert inserted_keys(messages + read_commits(stream, 1)) == [2, 1, 4]


def test_nothing_is_confirmed_until_confirm_is_called(
    source: Database, slot: str, open_stream: Open, observer: Session
) -> None:
    before = confirmed_flush(observer, slot)
    stream = open_stream(slot, status_interval_s=0.05)
    insert(source, 1, 3)
    messages = read_commits(stream, 1)
    heard = last_status(observer, slot)
    wait_for(lambda: last_status(observer, slot) > heard, "a status update after the rows were read")
    assert confirmed_flush(observer, slot) == before
    end = last_commit(messages).end_lsn
    stream.confirm(end)
    wait_for(lambda: confirmed_flush(observer, slot) == end, "the confirmation")
    assert stream.confirmed_lsn == end


def test_a_confirmation_travels_at_once_although_the_next_status_is_far(
    source: Database, slot: str, open_stream: Open, observer: Session
) -> None:
    stream = open_stream(slot, status_interval_s=3600.0)
    insert(source, 1, 3)
    end = last_commit(read_commits(stream, 1)).end_lsn
    started = time.monotonic()
    stream.confirm(end)
    wait_for(lambda: confirmed_flush(observer, slot) == end, "the confirmation")
    assert time.monotonic() - started < 2.0


def test_what_was_not_confirmed_comes_again_and_what_was_does_not(
    source: Database, slot: str, open_stream: Open, observer: Session
) -> None:
    first = open_stream(slot)
    insert(source, 1, 1)
    confirmed = last_commit(read_commits(first, 1)).end_lsn
    first.confirm(confirmed)
    insert(source, 2, 2)
    read_commits(first, 1)
    first.close()  # says what was confirmed before it goes
    wait_until_free(observer, slot)
    assert inserted_keys(read_commits(open_stream(slot), 1)) == [2]


def test_a_confirmation_cannot_go_back(slot: str, open_stream: Open) -> None:
    stream = open_stream(slot)
    stream.confirm(Lsn(1))
    stream.confirm(Lsn(1))
    with pytest.raises(InternalError) as caught:
        stream.confirm(ZERO)
    assert caught.value.code == "confirm-backwards"


def impatient(source: Database) -> str:
    """A connection whose walsender gives up after a second without a status update."""
    return make_conninfo(source.dsn, options="-c wal_sender_timeout=1s")


def wait_until_free(observer: Session, slot: str) -> None:
    """Until the server has seen that the stream's connection is closed."""

    def free() -> bool:
        found = read_slot(observer, slot)
        return found is not None and found.active_pid is None

    wait_for(free, "the end of the slot's walsender")


def walsenders(observer: Session) -> int:
    row = observer.execute(
        "select count(*) from pg_stat_activity"
        " where backend_type = 'walsender' and datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_consumer_that_does_not_read_does_not_end_the_stream(
    source: Database, slot: str, open_stream: Open, observer: Session
) -> None:
    insert(source, 1, 20_000, filler=200)
    stream = open_stream(slot, dsn=impatient(source), queue_limit_bytes=100_000, status_interval_s=0.2)
    wait_for(lambda: stream.queued_bytes >= 100_000, "a full queue")
    busy_until = time.monotonic() + 4.0  # four times wal_sender_timeout
    while time.monotonic() < busy_until:
        assert walsenders(observer) == 1
        assert stream.queued_bytes < 500_000
    assert inserted_keys(read_commits(stream, 1)) == list(range(1, 20_001))


def test_without_status_updates_the_server_does_end_it(
    source: Database, slot: str, open_stream: Open
) -> None:
    """The same situation with a status interval that is too long: so the test above can fail."""
    insert(source, 1, 20_000, filler=200)
    stream = open_stream(slot, dsn=impatient(source), queue_limit_bytes=100_000, status_interval_s=3600.0)
    wait_for(lambda: stream.queued_bytes >= 100_000, "a full queue")
    with connect(source.dsn, purpose="observer") as session:
        wait_for(lambda: walsenders(session) == 0, "the end of the walsender")
    error = read_end(stream)
    assert isinstance(error, RetryLater)


def test_keepalives_are_answered_although_the_status_interval_is_long(
    source: Database, slot: str, open_stream: Open, observer: Session
) -> None:
    stream = open_stream(slot, dsn=impatient(source), status_interval_s=3600.0)
    until = time.monotonic() + 3.0
    while time.monotonic() < until:
        stream.read(0.2)
    assert walsenders(observer) == 1


def test_a_message_larger_than_the_queue_is_let_through_alone(
    source: Database, slot: str, open_stream: Open
) -> None:
    insert(source, 1, 1, filler=5_000_000)
    insert(source, 2, 2)
    stream = open_stream(slot, queue_limit_bytes=10_000)
    messages = read_commits(stream, 2)
    assert max(map(len, messages)) > 5_000_000
    assert inserted_keys(messages) == [1, 2]


def test_an_idle_stream_tells_how_far_the_server_decoded(
    source: Database, slot: str, open_stream: Open, observer: Session
) -> None:
    """Transactions on tables outside the publication give no messages, but a place for a heartbeat."""
    stream = open_stream(slot, status_interval_s=0.1)
    source.execute("create table other (a int); insert into other select generate_series(1, 1000)")
    written = insert_lsn(observer)
    batches: list[Batch] = []

    def caught_up() -> bool:
        batches.append(stream.read(0.05))
        return batches[-1].wal_end >= written

    wait_for(caught_up, "a keepalive past what was written")
    assert not any(batch.messages for batch in batches)
    heartbeat = batches[-1].wal_end
    stream.confirm(heartbeat)
    wait_for(lambda: confirmed_flush(observer, slot) == heartbeat, "the confirmation of a heartbeat")


def test_a_batch_never_claims_more_than_it_and_earlier_ones_hold(
    source: Database, slot: str, open_stream: Open
) -> None:
    """P1, P9: every commit below a batch's wal_end was read before or with it."""
    stream = open_stream(slot, status_interval_s=0.05)
    stop = threading.Event()

    def write() -> None:
        with source.connect() as connection:
            number = 0
            while not stop.is_set():
                number += 1
                connection.execute("insert into t values (%s)", [number])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        commits: list[tuple[int, Lsn]] = []
        claims: list[tuple[int, Lsn]] = []
        decoder = Decoder()
        while len(commits) < 500:
            batch = stream.read(1.0)
            commits += [
                (len(claims), value.commit_lsn)
                for value in map(decoder.decode, batch.messages)
                if isinstance(value, Commit)
            ]
            claims.append((len(claims), batch.wal_end))
    finally:
        stop.set()
        writer.join()
    assert any(wal_end for _, wal_end in claims)
    for read_at, commit_lsn in commits:
        earlier = [wal_end for at, wal_end in claims if at < read_at]
        assert not earlier or max(earlier) <= commit_lsn


def test_a_walsender_that_is_ended_by_hand_is_tried_again(
    source: Database, slot: str, open_stream: Open
) -> None:
    stream = open_stream(slot)
    insert(source, 1, 1)
    read_commits(stream, 1)
    source.execute_as_admin(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", [slot]
    )
    error = read_end(stream)
    assert (type(error), error.code) == (RetryLater, "connection-lost")
    insert(source, 2, 2)
    assert inserted_keys(read_commits(open_stream(slot), 2)) == [1, 2]


def test_messages_that_arrived_are_read_before_the_end_is_raised(
    source: Database, slot: str, open_stream: Open, observer: Session
) -> None:
    stream = open_stream(slot)
    insert(source, 1, 10)
    wait_for(lambda: sent_all(observer, slot) and stream.queued_bytes > 0, "the messages")
    source.execute_as_admin(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", [slot]
    )
    wait_for(lambda: walsenders(observer) == 0, "the end of the walsender")
    assert inserted_keys(read_commits(stream, 1)) == list(range(1, 11))
    assert isinstance(read_end(stream), RetryLater)


def test_a_slot_in_use_leaves_its_stream_alone(source: Database, slot: str, open_stream: Open) -> None:
    owner = open_stream(slot)
    with pytest.raises(RetryLater) as caught:
        open_stream(slot)
    assert caught.value.code == "slot-active"
    insert(source, 1, 1)
    assert inserted_keys(read_commits(owner, 1)) == [1]


def test_a_standby_can_try_again_and_again_with_one_connection(
    source: Database, slot: str, open_stream: Open, observer: Session
) -> None:
    owner = open_stream(slot)
    walsender = Walsender(source.dsn, purpose="standby")
    for _ in range(3):
        with pytest.raises(RetryLater):
            SlotStream(walsender, slot=slot, publication="p").start()
    owner.close()
    wait_until_free(observer, slot)
    standby = SlotStream(walsender, slot=slot, publication="p")
    standby.start()
    insert(source, 1, 1)
    assert inserted_keys(read_commits(standby, 1)) == [1]
    standby.close()


def test_a_closed_stream_frees_its_slot_and_ends_its_thread(
    source: Database, slot: str, open_stream: Open, observer: Session
) -> None:
    stream = open_stream(slot)
    stream.close()
    stream.close()
    wait_for(lambda: walsenders(observer) == 0, "the end of the walsender")
    assert not [thread for thread in threading.enumerate() if thread.name == f"stream {slot}"]
    with pytest.raises(RetryLater) as caught:
        stream.read(0)
    assert caught.value.code == "stream-closed"


def test_an_idle_stream_costs_no_processor_time(slot: str, open_stream: Open) -> None:
    stream = open_stream(slot)
    stream.read(0.5)
    before = time.process_time()
    stream.read(2.0)
    assert time.process_time() - before < 0.2


def test_a_transaction_arrives_within_milliseconds(source: Database, slot: str, open_stream: Open) -> None:
    stream = open_stream(slot)
    insert(source, 0, 0)
    read_commits(stream, 1)
    delays = []
    for number in range(1, 21):
        insert(source, number, number)
        committed = time.monotonic()
        read_commits(stream, 1)
        delays.append(time.monotonic() - committed)
    assert sorted(delays)[10] < 0.05


def streaming_source(make: Callable[..., Database]) -> tuple[Database, SlotStream]:
    source = make()
    source.execute("create table t (a int primary key, b text); create publication p for table t")
    name = make_slot(source)
    stream = SlotStream(Walsender(source.dsn, purpose="test"), slot=name, publication="p")
    stream.start()
    return source, stream


def test_a_server_that_shuts_down_is_let_go_once_its_last_position_is_confirmed(
    new_source: Callable[..., Database],
) -> None:
    source, stream = streaming_source(new_source)
    insert(source, 1, 5)
    end = last_commit(read_commits(stream, 1)).end_lsn
    stream.confirm(end)
    source.disconnect()
    stopping = threading.Thread(target=source.server.stop)
    stopping.start()
    started = time.monotonic()
    while stopping.is_alive():
        assert time.monotonic() - started < PATIENCE_S, "the shutdown waited for us"
        try:
            batch = stream.read(0.2)
        except RetryLater as error:
            assert error.code == "server-stopping"  # noqa: PT017
            break
        if batch.reply_requested:
            stream.confirm(batch.wal_end)
    stopping.join(PATIENCE_S)
    assert time.monotonic() - started < 10.0
    stream.close()


def test_a_server_that_shuts_down_is_let_go_although_the_log_is_away(
    new_source: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is ever confirmed, and still the source must be able to stop."""
    monkeypatch.setattr(stream_module, "_SHUTDOWN_PATIENCE_S", 2.0)
    source, stream = streaming_source(new_source)
    insert(source, 1, 5)
    read_commits(stream, 1)
    source.disconnect()
    stopping = threading.Thread(target=source.server.stop)
    started = time.monotonic()
    stopping.start()
    error = read_end(stream)
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()
    assert (type(error), error.code) == (RetryLater, "server-stopping")
    assert 2.0 <= time.monotonic() - started < 15.0
    stream.close()


def test_a_crash_of_the_source_is_tried_again(new_source: Callable[..., Database]) -> None:
    source, stream = streaming_source(new_source)
    source.disconnect()
    source.server.crash()
    error = read_end(stream)
    assert (type(error), error.code) == (RetryLater, "connection-lost")
    source.server.start()
    slot = f"slot_{source.name}"
    again = SlotStream(Walsender(source.dsn, purpose="test"), slot=slot, publication="p")
    again.start()
    insert(source, 1, 1)
    assert inserted_keys(read_commits(again, 1)) == [1]
    again.close()
    stream.close()


def test_a_publication_that_is_gone_ends_the_stream_or_silences_it(
    source: Database, slot: str, open_stream: Open, observer: Session
) -> None:
    """Up to PostgreSQL 17 the stream ends. PostgreSQL 18 skips the changes: only P11 finds that."""
    stream = open_stream(slot)
    insert(source, 1, 1)
    read_commits(stream, 1)
    source.execute("drop publication p")
    insert(source, 2, 2)
    if observer.info.server_version >= 180000:
        written = insert_lsn(observer)
        batches = [stream.read(0.1)]
        while batches[-1].wal_end < written:
            batches.append(stream.read(0.1))
        assert not any(batch.messages for batch in batches)
    else:
        error = read_end(stream)
        assert (type(error), error.code) == (HistoryBroken, "publication-missing")


def test_begin_announces_the_commit(source: Database, slot: str, open_stream: Open) -> None:
    stream = open_stream(slot)
    source.execute("insert into t values (1)")
    ((xid,),) = source.execute("select xmin::text::int from t")
    decoder = Decoder()
    values = [decoder.decode(message) for message in read_commits(stream, 1)]
    begin, commit = values[0], values[-1]
    assert isinstance(begin, Begin)
    assert isinstance(commit, Commit)
    assert (begin.xid, begin.commit_lsn, begin.commit_time) == (xid, commit.commit_lsn, commit.commit_time)
    assert abs(begin.commit_time / 1e6 - time.time()) < PATIENCE_S
