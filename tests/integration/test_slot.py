"""A slot as SQL shows it, and who may end its owner (P4)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
from psycopg.conninfo import make_conninfo

from connectors.postgres.replication.slot import (
    drop_slot,
    owner_purpose,
    read_owner,
    read_slot,
    read_wal_space,
    terminate_owner,
    time_to_full_s,
)
from connectors.postgres.replication.walsender import Walsender
from connectors.postgres.session import Session, connect
from schemas.errors import RetryLater
from tests.fix_postgres import Database
from tests.postgres_releases import release

STREAM = bytes(range(16))
PURPOSE = owner_purpose("crm", STREAM)


@pytest.fixture
def session(source: Database) -> Iterator[Session]:
    with connect(source.dsn, purpose="test") as opened:
        yield opened


@pytest.fixture
def slot(source: Database) -> str:
    name = f"slot_{source.name}"
    walsender = Walsender(source.dsn, purpose="test")
    walsender.create_slot(name, temporary=False)
    walsender.close()
    return name


@pytest.fixture
def own(source: Database, slot: str) -> Iterator[Callable[..., Walsender]]:
    """`own(purpose)`: a walsender of that name that owns the slot and never says a word."""
    opened: list[Walsender] = []

    def open_owner(purpose: str = PURPOSE) -> Walsender:
        walsender = Walsender(make_conninfo(source.dsn, options="-c wal_sender_timeout=0"), purpose=purpose)
        opened.append(walsender)
        walsender.start_replication(slot, "p")
        return walsender

    yield open_owner
    for walsender in opened:
        walsender.close()


def test_a_slot_that_is_not_there_is_none(session: Session) -> None:
    assert read_slot(session, "no_such") is None
    assert read_owner(session, "no_such") is None


def test_an_idle_slot_shows_its_position_and_what_it_holds_back(
    source: Database, session: Session, slot: str
) -> None:
    before = read_slot(session, slot)
    assert before is not None
    source.execute_as_admin("select pg_logical_emit_message(true, '', repeat('x', 100000))")
    after = read_slot(session, slot)
    assert after is not None
    assert (after.active_pid, after.wal_status, after.lost) == (None, "reserved", False)
    assert after.restart_lsn is not None
    assert after.confirmed_flush_lsn is not None
    assert after.restart_lsn <= after.confirmed_flush_lsn
    assert before.retained_bytes is not None
    assert after.retained_bytes is not None
    assert after.retained_bytes >= before.retained_bytes + 100_000
    assert after.safe_wal_bytes is None  # max_slot_wal_keep_size is -1
    if release("source") >= 17:
        assert after.inactive_s is not None
        assert 0 <= after.inactive_s < 60
    assert after.catalog_xmin_age is not None


def test_an_active_slot_shows_its_owner(session: Session, slot: str, own: Callable[..., Walsender]) -> None:
    owner = own()
    state = read_slot(session, slot)
    assert state is not None
    assert (state.active_pid, state.inactive_s) == (owner.backend_pid, None)
    found = read_owner(session, slot)
    assert found is not None
    assert (found.pid, found.application_name) == (owner.backend_pid, f"keepstream:{PURPOSE}")
    assert found.session_s is not None
    assert 0 <= found.session_s < 60


def test_an_owners_name_is_never_cut_by_the_server() -> None:
    assert len("keepstream:" + owner_purpose("a" * 31, STREAM)) <= 63


def test_how_long_an_owner_is_silent_needs_pg_read_all_stats(
    source: Database, session: Session, slot: str, own: Callable[..., Walsender]
) -> None:
    own()
    source.execute_as_admin("revoke pg_read_all_stats from keepstream")  # the next database grants it again
    found = read_owner(session, slot)
    assert found is not None
    assert found.silent_s is None
    with connect(source.admin_dsn, purpose="test") as admin:
        seen = read_owner(admin, slot)
        assert seen is not None
        assert seen.silent_s is not None
        assert 0 <= seen.silent_s < 30


def silence(source: Database, slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the owner count as silent after a tenth of a second, and wait until it is."""
    monkeypatch.setattr("connectors.postgres.replication.slot.SILENCE_LIMIT_S", 0.1)
    deadline = time.monotonic() + 10
    with connect(source.admin_dsn, purpose="test") as admin:
        while True:
            owner = read_owner(admin, slot)
            assert owner is not None
            assert owner.silent_s is not None
            if owner.silent_s > 0.1:
                return
            assert time.monotonic() < deadline


def test_an_owner_of_ours_that_is_silent_is_ended(
    source: Database, slot: str, own: Callable[..., Walsender], monkeypatch: pytest.MonkeyPatch
) -> None:
    own()
    silence(source, slot, monkeypatch)
    with connect(source.admin_dsn, purpose="test") as admin:
        assert terminate_owner(admin, slot, purpose=PURPOSE) is True
        assert read_owner(admin, slot) is None
        assert terminate_owner(admin, slot, purpose=PURPOSE) is False


@pytest.mark.parametrize("purpose", ["crm:ffffffffffffffff", "other", "crm"])
def test_an_owner_of_another_stream_is_left_alone_however_silent(
    source: Database, slot: str, own: Callable[..., Walsender], monkeypatch: pytest.MonkeyPatch, purpose: str
) -> None:
    owner = own(purpose)
    silence(source, slot, monkeypatch)
    with connect(source.admin_dsn, purpose="test") as admin:
        with pytest.raises(RetryLater) as caught:
            terminate_owner(admin, slot, purpose=PURPOSE)
        assert caught.value.code == "slot-active"
        assert read_owner(admin, slot) is not None
    assert re.search(
        rf"is owned by keepstream:{purpose} \(process {owner.backend_pid}, heard \d+ s ago\)",
        caught.value.message,
    )


def test_an_owner_that_answers_is_left_alone(
    source: Database, slot: str, own: Callable[..., Walsender]
) -> None:
    own()
    with connect(source.admin_dsn, purpose="test") as admin, pytest.raises(RetryLater) as caught:
        terminate_owner(admin, slot, purpose=PURPOSE)
    assert caught.value.code == "slot-active"


def test_an_owner_whose_silence_cannot_be_seen_is_left_alone(
    session: Session, slot: str, own: Callable[..., Walsender]
) -> None:
    own()
    with pytest.raises(RetryLater):
        terminate_owner(session, slot, purpose=PURPOSE)


def test_take_over_ends_any_owner_under_our_own_role(
    session: Session, slot: str, own: Callable[..., Walsender]
) -> None:
    own("something-else")
    assert terminate_owner(session, slot, purpose=PURPOSE, take_over=True) is True
    assert read_owner(session, slot) is None


def test_a_slot_is_dropped_once(session: Session, slot: str) -> None:
    assert drop_slot(session, slot) is True
    assert drop_slot(session, slot) is False


def test_a_slot_in_use_is_not_dropped(session: Session, slot: str, own: Callable[..., Walsender]) -> None:
    own()
    with pytest.raises(RetryLater) as caught:
        drop_slot(session, slot)
    assert caught.value.code == "object-in-use"


def test_the_space_for_wal_is_what_may_be_seen(source: Database, session: Session) -> None:
    space = read_wal_space(session)
    assert (space.keep_limit_bytes, space.directory_bytes) == (None, None)
    with connect(source.admin_dsn, purpose="test") as admin:
        seen = read_wal_space(admin)
    assert seen.directory_bytes is not None
    assert seen.directory_bytes >= 16 * 1024 * 1024
    assert seen.insert_lsn >= space.insert_lsn


def test_a_slot_is_foreign_where_another_database_made_it(
    source: Database, session: Session, slot: str
) -> None:
    with connect(source.server.dsn("postgres"), purpose="test") as elsewhere:
        here, there = read_slot(session, slot), read_slot(elsewhere, slot)
    assert here is not None
    assert there is not None
    assert (here.foreign, there.foreign) == (False, True)


def test_a_limit_shows_how_much_can_still_be_written(new_source: Callable[..., Database]) -> None:
    source = new_source({"max_slot_wal_keep_size": "64MB"})
    walsender = Walsender(source.dsn, purpose="test")
    walsender.create_slot("s", temporary=True)
    with connect(source.dsn, purpose="test") as session:
        state = read_slot(session, "s")
        assert state is not None
        assert state.safe_wal_bytes is not None
        assert 0 < state.safe_wal_bytes <= 128 * 1024 * 1024
        assert read_wal_space(session).keep_limit_bytes == 64 * 1024 * 1024
    walsender.close()


@pytest.mark.parametrize(
    ("room_bytes", "bytes_per_s", "expected"),
    [(1000, 10.0, 100.0), (0, 10.0, 0.0), (-5, 10.0, 0.0), (None, 10.0, None), (1000, 0.0, None)],
)
def test_the_time_to_full_is_the_room_at_the_rate(
    room_bytes: int | None, bytes_per_s: float, expected: float | None
) -> None:
    assert time_to_full_s(room_bytes, bytes_per_s) == expected
