"""The progress row on a real server: marker, hold, take-over, compare-and-set."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest

from connectors.postgres.apply.writer import ReplicaWriter
from connectors.postgres.copy import run as copy_run
from connectors.postgres.replica import claim, hold, progress
from connectors.postgres.replica.progress import HoldKind, ReplicaState
from connectors.postgres.session import Session, connect
from pipeline.dev.process import require, wait_until
from schemas.errors import HistoryBroken, KeepstreamError, OperatorNeeded, Unhealthy
from schemas.lsn import Lsn, Position
from tests.fix_apply import adopt
from tests.fix_postgres import Database

STREAM = bytes(range(16))
AT = Position(Lsn(0x100), 7, 1_700_000_000_123_457)


@pytest.fixture
def session(replica: Database) -> Iterator[Session]:
    with connect(replica.dsn, purpose="test") as made:
        progress.install(made)
        yield made


@pytest.fixture
def other(replica: Database) -> Iterator[Session]:
    with connect(replica.dsn, purpose="test") as made:
        yield made


@pytest.fixture
def streaming(session: Session) -> Session:
    adopt(session, "crm", stream=STREAM, position=AT, place="1:2:ab")
    return session


def taken(session: Session) -> tuple[claim.Claim, progress.Progress]:
    """Take the replica over from whoever holds it now."""
    while (claimed := claim.take_over(session, progress.require(session, "crm"))) is None:
        pass
    return claimed


def test_a_replica_without_keepstreams_schema_has_no_row(other: Session) -> None:
    assert progress.read(other, "crm") is None
    with pytest.raises(HistoryBroken) as caught:
        progress.require(other, "crm")
    assert caught.value.code == "progress-missing"


def test_installing_twice_and_at_the_same_time_is_no_error(replica: Database) -> None:
    errors: list[Exception] = []

    def install() -> None:
        try:
            with connect(replica.dsn, purpose="test") as session:
                progress.install(session)
        except KeepstreamError as error:
            errors.append(error)

    threads = [threading.Thread(target=install) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_row_is_read_as_it_was_written(streaming: Session) -> None:
    row = progress.require(streaming, "crm")
    assert (row.stream, row.position, row.state) == (STREAM, AT, ReplicaState.STREAMING)
    assert (row.place, row.hold, row.alive) == ("1:2:ab", None, False)


def test_a_row_of_a_newer_format_is_not_guessed_at(streaming: Session) -> None:
    streaming.execute("update keepstream.progress set format_version = 99")
    with pytest.raises(OperatorNeeded) as caught:
        progress.read(streaming, "crm")
    assert caught.value.code == "progress-version"


def test_a_copy_is_complete_only_by_the_token_of_its_own_marker(session: Session) -> None:
    replaced = progress.write_copying_marker(session, "crm", stream=STREAM)
    token = progress.write_copying_marker(session, "crm", stream=STREAM)
    assert progress.require(session, "crm").state is ReplicaState.COPYING
    with pytest.raises(OperatorNeeded) as caught:
        progress.complete_copy(session, "crm", token=replaced, position=AT)
    assert caught.value.code == "copy-replaced"
    progress.complete_copy(session, "crm", token=token, position=AT)
    assert progress.require(session, "crm").position == AT


@pytest.mark.parametrize(("is_snapshot", "logged"), [(True, None), (False, AT.lsn)])
def test_a_copy_s_snapshot_proves_nothing_of_the_log_until_the_replica_has_moved(
    session: Session, is_snapshot: bool, logged: Lsn | None
) -> None:
    """Without rows (`initial: none`) a replica begins at an anchor of the log."""
    run = copy_run.begin_run(
        session,
        "crm",
        stream=STREAM,
        initial="data" if is_snapshot else "none",
        place="",
        application="none",
        require_empty=lambda: None,
    )
    copy_run.complete_run(session, run, Position(AT.lsn), place="", is_snapshot=is_snapshot)
    taken(session)
    assert progress.require(session, "crm").logged == logged
    session.execute("update keepstream.progress set position = '0/101'")  # as a heartbeat does: its xid is 0
    assert progress.require(session, "crm").logged == Lsn(0x101)


def test_no_copy_is_begun_over_a_streaming_replica(streaming: Session) -> None:
    with pytest.raises(OperatorNeeded) as caught:
        progress.write_copying_marker(streaming, "crm", stream=STREAM)
    assert caught.value.code == "replica-in-use"
    assert progress.require(streaming, "crm").position == AT


def test_an_applier_does_not_take_over_an_unfinished_copy(session: Session) -> None:
    progress.write_copying_marker(session, "crm", stream=STREAM)
    with pytest.raises(OperatorNeeded) as caught:
        taken(session)
    assert caught.value.code == "copy-unfinished"


def test_a_take_over_ends_the_session_that_is_recorded_and_its_open_transaction(  # P14
    streaming: Session, other: Session, replica: Database
) -> None:
    frozen = connect(replica.dsn, purpose="frozen")
    old_claim, row = taken(frozen)
    writer = ReplicaWriter(frozen, old_claim, {}, replica="standby")
    writer.begin(row.position.lsn, Position(Lsn(0x200)), place="")
    writer.push()
    require(lambda: _is_locked(other), 10, what="the frozen applier's row lock")
    new_claim, found = taken(other)
    assert found.position == AT
    assert new_claim.token != old_claim.token
    with pytest.raises(KeepstreamError):
        writer.commit()
    frozen.close()
    assert progress.require(streaming, "crm").position == AT


def _is_locked(session: Session) -> bool:
    return session.execute("select 1 from keepstream.progress for update skip locked").fetchone() is None


def test_a_take_over_leaves_a_session_alone_that_only_has_the_recorded_pid(  # P14
    streaming: Session, other: Session
) -> None:
    taken(streaming)
    streaming.execute("update keepstream.progress set backend_start = backend_start - interval '1 hour'")
    taken(other)
    assert streaming.execute("select 1").fetchone() == (1,)


def test_of_two_that_take_over_at_once_one_is_recorded_and_both_know(
    streaming: Session, replica: Database
) -> None:
    claims: list[claim.Claim] = []

    def take() -> None:
        with connect(replica.dsn, purpose="test") as session:
            try:
                claims.append(taken(session)[0])
            except KeepstreamError:
                return  # ended by another one

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.require(streaming, "crm").token in [made.token for made in claims]


def test_who_was_not_asked_about_is_not_ended(streaming: Session, other: Session, replica: Database) -> None:
    """A process that was frozen after it saw a free replica finds it claimed when it wakes."""
    free = progress.require(other, "crm")
    mine, row = taken(streaming)
    assert claim.take_over(other, free) is None
    assert progress.require(other, "crm").token == mine.token
    assert streaming.execute("select 1").fetchone() == (1,)
    with connect(replica.dsn, purpose="test") as third:
        newer, _ = taken(third)
        assert claim.take_over(other, row) is None
        assert progress.require(third, "crm").token == newer.token


def test_a_living_applier_is_seen_with_its_silence(streaming: Session, other: Session) -> None:
    assert silence(other) is None
    taken(streaming)
    assert silence(streaming) is None
    assert wait_until(lambda: (silence(other) or 0.0) > 0.3, 5)
    streaming.execute("select 1")
    silent_s = silence(other)
    assert silent_s is not None
    assert silent_s < 0.3


def silence(session: Session) -> float | None:
    return claim.silence_s(session, progress.require(session, "crm"))


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ("", True),
        ("token = gen_random_uuid()", False),
        ("stream = gen_random_uuid()", False),
        ("position = '0/99'", False),
        ("state = 'copying'", False),
        ("hold_at = '0/1FF', hold_kind = 'pause'", False),
        ("hold_at = '0/200', hold_kind = 'pause'", True),
        ("hold_at = '0/1FF', hold_kind = 'verify', hold_expires = now() - interval '1 s'", True),
        ("hold_at = '0/1FF', hold_kind = 'verify', hold_expires = now() + interval '1 min'", False),
    ],
)
def test_a_position_moves_only_by_compare_and_set(  # P13, P16
    streaming: Session, other: Session, change: str, moved: bool
) -> None:
    mine, row = taken(streaming)
    if change:
        other.execute(f"update keepstream.progress set {change}")
    writer = ReplicaWriter(streaming, mine, {}, replica="standby")
    new = Position(Lsn(0x200), 8, 1_700_000_000_000_001)
    writer.begin(row.position.lsn, new, place="9:9:ff")
    if moved:
        writer.commit()
        found = progress.require(other, "crm")
        assert (found.position, found.place) == (new, "9:9:ff")
    else:
        with pytest.raises(claim.PositionLost):
            writer.commit()
        writer.rollback()
        assert progress.require(other, "crm").position.lsn != new.lsn


def test_a_flush_makes_what_was_committed_durable(streaming: Session, other: Session) -> None:
    mine, row = taken(streaming)
    writer = ReplicaWriter(streaming, mine, {}, replica="standby")
    writer.begin(row.position.lsn, Position(Lsn(0x200)), place="")
    writer.commit()
    (written,) = other.execute("select pg_current_wal_insert_lsn()").fetchone() or ()
    writer.flush()
    assert other.execute("select pg_current_wal_flush_lsn() >= %s::pg_lsn", [written]).fetchone() == (True,)


def test_a_flush_of_a_replica_that_is_no_longer_ours_fails(streaming: Session, other: Session) -> None:
    mine, _ = taken(streaming)
    writer = ReplicaWriter(streaming, mine, {}, replica="standby")
    other.execute("update keepstream.progress set token = gen_random_uuid()")
    with pytest.raises(claim.PositionLost):
        writer.flush()


def test_a_pause_holds_where_the_replica_stands(streaming: Session) -> None:
    assert hold.hold(streaming, "crm", HoldKind.PAUSE, replica="standby") == AT.lsn
    row = progress.require(streaming, "crm")
    assert row.hold is not None
    assert (row.hold.at, row.hold.kind, row.hold.expires) == (AT.lsn, HoldKind.PAUSE, None)
    assert not hold.release(streaming, "crm", held_at=Lsn(AT.lsn + 1))
    assert hold.release(streaming, "crm", held_at=AT.lsn)
    assert progress.require(streaming, "crm").hold is None
    assert not hold.release(streaming, "crm")


def test_a_hold_beside_an_open_transaction_is_given_up_and_does_not_act_later(
    streaming: Session, other: Session
) -> None:
    """Or is there as soon as that has ended."""
    waited: list[str] = []

    def pause(limit_s: float) -> Lsn:
        return hold.between_transactions(
            other,
            lambda: hold.hold(other, "crm", HoldKind.PAUSE, replica="standby"),
            limit_s=limit_s,
            on_wait=lambda: waited.append("once"),
        )

    with streaming.transaction():
        streaming.execute("update keepstream.progress set updated_at = updated_at")
        with pytest.raises(Unhealthy) as told:
            pause(1.5)
        assert (told.value.code, told.value.exit_code, waited) == ("replica-busy", 7, ["once"])
    assert progress.require(streaming, "crm").hold is None
    with streaming.transaction():
        streaming.execute("update keepstream.progress set updated_at = updated_at")
        thread = threading.Thread(target=pause, args=[30.0])
        thread.start()
        require(lambda: len(waited) == 2, 10, what="the first try")
    thread.join()
    found = progress.require(streaming, "crm").hold
    assert found is not None
    assert found.kind is HoldKind.PAUSE


def test_a_hold_behind_the_replica_is_refused(streaming: Session) -> None:
    with pytest.raises(OperatorNeeded) as caught:
        hold.hold(streaming, "crm", HoldKind.UNTIL, at=Lsn(0xFF), replica="standby")
    assert (caught.value.code, caught.value.message) == ("hold-passed", "the replica is at 0/100, past 0/FF")


def test_a_hold_of_somebody_else_is_not_replaced_before_it_expires(streaming: Session) -> None:
    hold.hold(streaming, "crm", HoldKind.VERIFY, at=Lsn(0x300), expires_s=0.4, replica="standby")
    for kind in HoldKind:
        with pytest.raises(OperatorNeeded) as caught:
            hold.hold(streaming, "crm", kind, at=Lsn(0x400), expires_s=60, replica="standby")
        assert caught.value.code == "replica-held"
    require(lambda: progress.require(streaming, "crm").hold is None, 5, what="the end of the hold")
    assert (
        hold.hold(streaming, "crm", HoldKind.VERIFY, at=Lsn(0x400), expires_s=60, replica="standby") == 0x400
    )


def test_a_replica_without_a_copy_cannot_be_held(other: Session) -> None:
    with pytest.raises(HistoryBroken) as told:
        hold.hold(other, "crm", HoldKind.PAUSE, replica="standby")
    assert told.value.code == "progress-missing"
    assert "If no copy was made yet, start `keepstream run`." in told.value.hint


def test_a_hold_is_moved_only_by_who_knows_it_and_in_time(streaming: Session) -> None:
    hold.hold(streaming, "crm", HoldKind.VERIFY, at=Lsn(0x300), expires_s=60, replica="standby")
    verify = HoldKind.VERIFY
    assert not hold.move_hold(streaming, "crm", verify, held_at=Lsn(0x301), at=Lsn(0x400), expires_s=60)
    assert hold.move_hold(streaming, "crm", verify, held_at=Lsn(0x300), at=Lsn(0x400), expires_s=0.1)
    require(lambda: progress.require(streaming, "crm").hold is None, 5, what="the end of the hold")
    assert not hold.move_hold(streaming, "crm", verify, held_at=Lsn(0x400), at=Lsn(0x500), expires_s=60)


def test_a_hold_is_no_sign_of_life_of_the_applier(streaming: Session) -> None:
    """`status` takes a row that is written for one, and a verification prolongs its hold every second."""
    before = progress.require(streaming, "crm").updated_at
    held_at = hold.hold(streaming, "crm", HoldKind.VERIFY, at=AT.lsn, expires_s=60, replica="standby")
    assert hold.move_hold(streaming, "crm", HoldKind.VERIFY, held_at=held_at, at=held_at, expires_s=60)
    assert hold.release(streaming, "crm")
    assert progress.require(streaming, "crm").updated_at == before


def test_a_hold_without_a_row_says_so(session: Session) -> None:
    with pytest.raises(HistoryBroken):
        hold.hold(session, str(uuid.uuid4()), HoldKind.PAUSE, replica="standby")


def test_the_row_stays_small_however_often_it_moves(streaming: Session, other: Session) -> None:
    mine, row = taken(streaming)
    writer = ReplicaWriter(streaming, mine, {}, replica="standby")
    position = row.position
    for _ in range(500):
        new = Position(Lsn(position.lsn + 1))
        writer.begin(position.lsn, new, place="")
        writer.commit()
        position = new
    assert other.execute("select pg_relation_size('keepstream.progress')").fetchone() == (8192,)
