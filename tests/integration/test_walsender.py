"""The walsender's commands against a real server, and its messages as pure functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import make_conninfo

from connectors.postgres.replication.slot import read_slot
from connectors.postgres.replication.walsender import (
    Keepalive,
    TimelineSwitch,
    Walsender,
    parse_keepalive,
    parse_timeline_history,
    start_command,
    status_update,
)
from connectors.postgres.session import connect
from schemas.errors import HistoryBroken, RetryLater
from schemas.lsn import ZERO, Lsn
from tests.fix_postgres import Database
from tests.postgres_releases import release


@pytest.fixture
def walsender(source: Database) -> Iterator[Walsender]:
    opened = Walsender(source.dsn, purpose="test")
    yield opened
    opened.close()


def slot_name(source: Database) -> str:
    """Slots belong to the whole server, so each test's is named after its database."""
    return f"slot_{source.name}"


def test_the_system_is_identified_as_sql_sees_it(source: Database, walsender: Walsender) -> None:
    identity = walsender.identify_system()
    ((system_id, timeline),) = source.execute_as_admin(
        "select system_identifier::text, timeline_id from pg_control_system(), pg_control_checkpoint()"
    )
    assert (identity.system_id, identity.timeline, identity.database) == (system_id, timeline, source.name)
    assert identity.xlogpos > ZERO
    assert walsender.timeline_history(1) == ()


def test_a_slot_is_made_and_dropped(source: Database, walsender: Walsender) -> None:
    name = slot_name(source)
    created = walsender.create_slot(name, temporary=False)
    with connect(source.dsn, purpose="test") as session:
        state = read_slot(session, name)
        assert state is not None
        assert (state.plugin, state.database, state.temporary) == ("pgoutput", source.name, False)
        assert state.confirmed_flush_lsn == created.consistent_point
        assert created.snapshot is None
        walsender.drop_slot(name)
        assert read_slot(session, name) is None


def test_an_exported_snapshot_shows_exactly_what_the_slot_does_not_give(source: Database) -> None:
    source.execute("create table t (a int); insert into t values (1)")
    exporter = Walsender(source.dsn, purpose="test")
    created = exporter.create_slot(slot_name(source), temporary=True, export_snapshot=True)
    source.execute("insert into t values (2)")
    with connect(source.dsn, purpose="test") as session:
        session.execute("begin isolation level repeatable read")
        session.execute(f"set transaction snapshot '{created.snapshot}'".encode())
        assert session.execute("select a from public.t").fetchall() == [(1,)]
        exporter.close()


def test_a_temporary_slot_ends_with_its_connection(source: Database, walsender: Walsender) -> None:
    name = slot_name(source)
    walsender.create_slot(name, temporary=True)
    pid = walsender.backend_pid
    walsender.close()
    with connect(source.dsn, purpose="test") as session:
        session.execute("select pg_terminate_backend(%s::int, 10000)", [pid])  # waits until it is gone
        assert read_slot(session, name) is None


def test_a_slot_that_waits_for_an_open_transaction_can_be_given_up(source: Database) -> None:
    source.execute("create table t (a int)")
    walsender = Walsender(source.dsn, purpose="test")
    waited: list[float] = []

    def give_up(seconds: float) -> None:
        waited.append(seconds)
        raise RetryLater("given up", code="test-given-up")

    with source.connect(autocommit=False) as writer:
        writer.execute("insert into t values (1)")
        with pytest.raises(RetryLater, match="given up"):
            walsender.create_slot(slot_name(source), temporary=False, waiting=give_up)
    assert len(waited) == 1
    with connect(source.dsn, purpose="test") as session:
        assert read_slot(session, slot_name(source)) is None
    walsender.create_slot(slot_name(source), temporary=True)  # the connection is still good
    walsender.close()


def test_a_slot_is_made_once_the_open_transaction_has_ended(source: Database, walsender: Walsender) -> None:
    source.execute("create table t (a int)")
    writer = source.connect(autocommit=False)
    writer.execute("insert into t values (1)")

    def waiting(_: float) -> None:
        threading.Thread(target=writer.commit).start()

    created = walsender.create_slot(slot_name(source), temporary=True, waiting=waiting)
    assert created.consistent_point > ZERO
    writer.close()


def test_a_slot_that_is_gone_is_history_broken(source: Database, walsender: Walsender) -> None:
    with pytest.raises(HistoryBroken) as caught:
        walsender.start_replication("no_such", "p")
    assert caught.value.code == "slot-missing"
    assert walsender.identify_system().database == source.name  # the connection is still good


@pytest.mark.parametrize(
    ("options", "memory"), [("", b"256MB"), ("-c logical_decoding_work_mem=32MB", b"32MB")]
)
def test_a_stream_spills_later_unless_somebody_chose_when(
    source: Database, options: str, memory: bytes
) -> None:
    walsender = Walsender(make_conninfo(source.dsn, options=options), purpose="test")
    with pytest.raises(HistoryBroken):
        walsender.start_replication("no_such", "p")
    assert walsender.pgconn.exec_(b"show logical_decoding_work_mem").get_value(0, 0) == memory
    walsender.close()


def test_a_slot_that_another_streams_from_is_tried_again(source: Database, walsender: Walsender) -> None:
    name = slot_name(source)
    walsender.create_slot(name, temporary=False)
    walsender.start_replication(name, "p")
    second = Walsender(source.dsn, purpose="test")
    with pytest.raises(RetryLater) as caught:
        second.start_replication(name, "p")
    assert caught.value.code == "slot-active"
    with pytest.raises(RetryLater) as dropping:
        second.drop_slot(name)
    assert dropping.value.code == "object-in-use"
    second.close()


def test_a_second_slot_of_one_name_is_tried_again(source: Database, walsender: Walsender) -> None:
    walsender.create_slot(slot_name(source), temporary=True)
    with pytest.raises(RetryLater) as caught:
        walsender.create_slot(slot_name(source), temporary=False)
    assert caught.value.code == "slot-exists"


def test_where_all_slots_or_walsenders_are_in_use_it_is_tried_again(
    new_source: Callable[..., Database],
) -> None:
    """As those of two replicas whose copies run at once may be: one ends, and the other goes on."""
    source = new_source({"max_replication_slots": "1", "max_wal_senders": "2"})
    first, second = (Walsender(source.dsn, purpose="test") for _ in range(2))
    first.create_slot("s", temporary=True)
    with pytest.raises(RetryLater) as slots:
        second.create_slot("t", temporary=True)
    with pytest.raises(RetryLater) as senders:
        Walsender(source.dsn, purpose="test")
    assert (slots.value.code, senders.value.code) == ("slots-in-use", "server-busy")
    assert slots.value.message == "slot t cannot be made: all replication slots are in use"
    assert "max_replication_slots" in slots.value.hint
    assert "max_wal_senders" in senders.value.hint
    first.close()
    source.await_free_slot("s")
    second.create_slot("t", temporary=True)
    second.close()


def test_a_slot_that_lost_its_wal_is_history_broken(new_source: Callable[..., Database]) -> None:
    source = new_source({"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"})
    walsender = Walsender(source.dsn, purpose="test")
    walsender.create_slot("s", temporary=False)
    for _ in range(6):
        source.execute_as_admin(
            "select pg_logical_emit_message(false, '', repeat('x', 1000000)), pg_switch_wal()"
        )
        source.execute_as_admin("checkpoint")
    with connect(source.dsn, purpose="test") as session:
        state = read_slot(session, "s")
    assert state is not None
    assert state.lost
    assert state.invalidation_reason == ("wal_removed" if release("source") >= 17 else None)
    with pytest.raises(HistoryBroken) as caught:
        walsender.start_replication("s", "p")
    assert caught.value.code == "slot-invalidated"
    walsender.close()


def test_names_with_quotes_reach_the_server_as_they_are(source: Database, walsender: Walsender) -> None:
    publication = "we\"ird's name"
    with source.connect() as owner:
        owner.execute(psycopg.sql.SQL("create publication {}").format(psycopg.sql.Identifier(publication)))
    walsender.create_slot(slot_name(source), temporary=True)
    walsender.start_replication(slot_name(source), publication)
    assert walsender.pgconn.transaction_status == pq.TransactionStatus.ACTIVE  # it streams


def test_the_start_command_asks_for_text_whole_transactions_and_messages() -> None:
    assert start_command("s", 'p"q', Lsn(0x1_0000ABCD)) == (
        'START_REPLICATION SLOT "s" LOGICAL 1/ABCD (proto_version \'1\', publication_names \'"p""q"\', '
        "messages 'true', binary 'false')"
    )


def test_a_status_update_says_one_position_three_times() -> None:
    update = status_update(Lsn(0xA), now=946_684_800_000_005, reply_requested=True)
    assert update == b"r" + (bytes(7) + b"\x0a") * 3 + bytes(7) + b"\x05" + b"\x01"


def test_a_keepalive_is_read_to_its_last_byte() -> None:
    message = b"k" + bytes(7) + b"\x0b" + bytes(7) + b"\x02" + b"\x01"
    assert parse_keepalive(message) == Keepalive(Lsn(0xB), 946_684_800_000_002, True)
    for length in range(len(message)):
        with pytest.raises(Exception, match="unpack requires"):
            parse_keepalive(message[:length])


def test_a_timeline_history_is_read_with_its_comments() -> None:
    content = "1\t0/3000148\tno recovery target specified\n\n# comment\n2\t16/B374D848\tbefore 2024\n"
    assert parse_timeline_history(content) == (
        TimelineSwitch(1, Lsn(0x3000148), "no recovery target specified"),
        TimelineSwitch(2, Lsn(0x16_B374D848), "before 2024"),
    )
