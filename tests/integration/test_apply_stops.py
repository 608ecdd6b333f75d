"""Stopping exactly: hold, pause, until, delay, skip, and one applier making way for another (P14, P16)."""

from __future__ import annotations

import time

import pytest

from connectors.postgres.replica import hold, progress
from connectors.postgres.replica.progress import HoldKind
from connectors.postgres.session import connect
from pipeline.apply import applier, skipping, stage
from pipeline.apply.options import Skip
from pipeline.reports import StageState
from schemas.lsn import Lsn, Position, format_lsn
from tests.fix_apply import PIPELINE, Applying, Made, MadeLog, Replicating, Rows, rows_of
from tests.fix_postgres import Database


@pytest.fixture
def rows(replica: Database) -> Rows:
    replica.execute("create table public.customer (id int primary key, name text)")
    return rows_of(replica, "public.customer")


def write(made_log: MadeLog, rows: Rows, first: int, last: int, *, time: int | None = None) -> list[Made]:
    """A transaction for each number."""
    made = [
        made_log.add(rows.insert(str(number), None), tables=[rows.table], commit_time=time)
        for number in range(first, last + 1)
    ]
    made_log.flush()
    return made


def ids(replica: Database) -> list[int]:
    return [row[0] for row in replica.execute("select id from public.customer order by id")]


def hold_at(replica: Database, kind: HoldKind, at: int | None = None, expires_s: float | None = None) -> int:
    with connect(replica.dsn, purpose="test") as session:
        return hold.hold(
            session,
            PIPELINE,
            kind,
            at=None if at is None else Lsn(at),
            expires_s=expires_s,
            replica="standby",
        )


def release(replica: Database) -> None:
    with connect(replica.dsn, purpose="test") as session:
        hold.release(session, PIPELINE)


def last_error_of(applying: Applying) -> str | None:
    error = applying.stage.snapshot().last_error
    return error.code if error is not None else None


def is_in(applying: Applying, state: StageState) -> bool:
    return bool(applying.reports) and applying.reports[-1].state is state


def test_a_held_replica_comes_to_exactly_the_hold(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    made = write(made_log, rows, 1, 9)
    at = made[3].end_lsn + 7
    hold_at(replica, HoldKind.VERIFY, at, expires_s=60)
    with replicating.running():
        replicating.wait_for(at)
        assert ids(replica) == [1, 2, 3, 4]
        row = replicating.row()
        assert (row.position.lsn, row.position.xid) == (at, made[3].xid)
        release(replica)
        replicating.wait_for(made[-1].end_lsn)
    assert ids(replica) == list(range(1, 10))


def test_a_held_idle_replica_moves_to_the_hold_when_a_heartbeat_passes_it(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    with replicating.running():
        at = made_log.lsn + 5
        hold_at(replica, HoldKind.VERIFY, at, expires_s=60)
        made_log.heartbeat(made_log.lsn + 0x100)
        replicating.wait_for(at)
    assert replicating.row().position.lsn == at


def test_a_hold_before_what_the_replica_knows_to_be_quiet_is_reached(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    """No later heartbeat has to come."""
    with replicating.running() as applying:
        replicating.wait(lambda: is_in(applying, StageState.STREAMING), "the state streaming")
        at = made_log.lsn + 5
        made_log.heartbeat(made_log.lsn + 0x100)
        replicating.wait(lambda: applying.standing >= made_log.lsn, "the heartbeat read")
        hold_at(replica, HoldKind.VERIFY, at, expires_s=60)
        replicating.wait_for(at)
    assert replicating.row().position.lsn == at


def test_a_hold_that_expires_lets_the_replica_go_on(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    made = write(made_log, rows, 1, 3)
    hold_at(replica, HoldKind.VERIFY, made[0].end_lsn, expires_s=1.5)
    with replicating.running():
        replicating.wait_for(made[0].end_lsn)
        assert ids(replica) == [1]
        replicating.wait_for(made[-1].end_lsn)


def test_a_paused_replica_stands_until_it_is_resumed(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    write(made_log, rows, 1, 2)
    with replicating.running() as applying:
        replicating.wait_for(made_log.lsn)
        at = hold_at(replica, HoldKind.PAUSE)
        write(made_log, rows, 3, 4)
        replicating.wait(lambda: is_in(applying, StageState.PAUSED), "the state paused")
        assert applying.reports[-1].waiting_for == f"the hold at {format_lsn(at)} (pause) to end"
        assert ids(replica) == [1, 2]
        release(replica)
        replicating.wait_for(made_log.lsn)
    assert ids(replica) == [1, 2, 3, 4]


def test_a_replica_that_is_resumed_has_not_been_stuck_meanwhile(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    """Its first transaction may take long."""
    with replicating.running() as applying:
        replicating.wait(lambda: is_in(applying, StageState.STREAMING), "the state streaming")
        hold_at(replica, HoldKind.PAUSE)
        write(made_log, rows, 1, 1)
        replicating.wait(lambda: is_in(applying, StageState.PAUSED), "the state paused")
        applying.stage._counters.last_change_at -= 3600
        with connect(replica.dsn, purpose="test") as other, other.transaction():
            other.execute("lock table public.customer")
            release(replica)
            replicating.wait(lambda: applying.stage.snapshot().details["blocked"] is None, "the first step")
            assert applying.stage.snapshot().details["unchanged_s"] < 60
        replicating.wait_for(made_log.lsn)


def test_an_applier_at_a_broken_epoch_lags_and_says_what_it_waits_for(  # P7
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage, "IDLE_AFTER_S", 0.1)
    epoch = "capture to begin a new epoch"
    with replicating.running() as applying:
        replicating.wait(lambda: is_in(applying, StageState.IDLE), "the state idle")
        made_log.writer.append(b"damaged")
        replicating.wait(lambda: applying.stage.snapshot().waiting_for == epoch, "the wait for an epoch")
        broken_at = applying.stage.snapshot()
        replicating.wait(lambda: applying.stage.snapshot().details["epoch_broken_s"] > 1, "a second of it")
        seen = applying.stage.snapshot()
        assert seen.state is StageState.CATCHING_UP
        assert seen.details["complete_at"] == broken_at.details["complete_at"]
        made_log.begin_epoch()
        write(made_log, rows, 1, 1)
        replicating.wait_for(made_log.lsn)
        assert applying.stage.snapshot().waiting_for is None
    assert ids(replica) == [1]


def test_an_applier_that_lacks_the_rest_of_a_transaction_is_not_idle(
    made_log: MadeLog, replicating: Replicating, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "IDLE_AFTER_S", 0.1)
    opened = made_log.open_parts(rows.insert("1", None), rows.insert("2", None), tables=[rows.table])
    with replicating.running() as applying:
        rest = f"the rest of transaction {opened.xid}, 2 changes so far"
        replicating.wait(lambda: applying.stage.snapshot().waiting_for == rest, "the rest to be waited for")
        seen = applying.stage.snapshot()
        assert (seen.state, seen.details["inside"]) == (StageState.CATCHING_UP, True)
        assert seen.details["complete_at"] == opened.commit_time / 1e6
        made_log.close_parts(opened)
        replicating.wait(lambda: is_in(applying, StageState.IDLE), "the state idle")
        assert applying.stage.snapshot().waiting_for is None


def test_an_applier_that_lacks_the_rest_is_heard_of_and_notices_that_its_session_died(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else another applier would take over from a healthy one (P14), and `status` would tell what was."""
    monkeypatch.setattr(applier, "TOUCH_EVERY_S", 0.1)
    opened = made_log.open_parts(rows.insert("1", None), tables=[rows.table])

    def said() -> object:
        return replica.execute_as_admin(
            "select a.state_change from pg_stat_activity a, keepstream.progress p"
            " where a.pid = p.backend_pid and a.state = 'idle in transaction'"
        )

    with replicating.running() as applying:
        replicating.wait(
            lambda: applying.stage.snapshot().details.get("inside") is True, "the part to be applied"
        )
        first = said()
        replicating.wait(lambda: said() not in ([], first), "it to be heard of again")
        replica.execute_as_admin("select pg_terminate_backend(backend_pid) from keepstream.progress")
        replicating.wait(
            lambda: last_error_of(applying) == "connection-lost", "the lost session to be noticed"
        )
        made_log.close_parts(opened)
        replicating.wait_for(made_log.lsn)
    assert ids(replica) == [1]


def test_a_big_transaction_is_held_before_its_first_change(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    hold_at(replica, HoldKind.VERIFY, made_log.lsn + 0x40, expires_s=60)  # where its commit begins
    opened = made_log.open_parts(rows.insert("1", None), rows.insert("2", None), tables=[rows.table])
    with replicating.running() as applying:
        replicating.wait(lambda: is_in(applying, StageState.PAUSED), "the state paused")
        assert replicating.row().position.lsn == opened.commit_lsn
        made_log.close_parts(opened)
        release(replica)
        replicating.wait_for(opened.end_lsn)
    assert ids(replica) == [1, 2]


def test_a_hold_that_comes_unseen_keeps_a_big_transaction_out(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The compare-and-set refuses it (P13), wherever between two commits the hold stands."""
    monkeypatch.setattr(applier, "LOOK_EVERY_S", 3600.0)
    write(made_log, rows, 1, 1)
    with replicating.running() as applying:
        replicating.wait_for(made_log.lsn)
        at = hold_at(replica, HoldKind.VERIFY, made_log.lsn + 0x40, expires_s=60)
        made_log.close_parts(made_log.open_parts(rows.insert("2", None)))
        replicating.wait(lambda: is_in(applying, StageState.PAUSED), "the state paused")
        assert replicating.row().position.lsn == at
        assert ids(replica) == [1]
        release(replica)
        replicating.wait_for(made_log.lsn)
    assert ids(replica) == [1, 2]


def test_until_an_lsn_applies_what_ends_there_and_leaves_the_replica_held(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    made = write(made_log, rows, 1, 9)
    replicating.start(until_lsn=made[4].end_lsn).finished()
    assert ids(replica) == [1, 2, 3, 4, 5]
    row = replicating.row()
    assert row.position.lsn == made[4].end_lsn
    assert row.hold is not None
    assert row.hold.kind is HoldKind.UNTIL
    replicating.start(until_lsn=made[5].end_lsn).finished()
    assert ids(replica) == [1, 2, 3, 4, 5, 6]
    assert replicating.start(until_lsn=made[1].end_lsn).ended_with().code == "hold-passed"


def test_until_an_lsn_inside_of_a_commit_stands_exactly_there(  # P1
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    made = write(made_log, rows, 1, 3)
    replicating.start(until_lsn=Lsn(made[1].end_lsn - 1)).finished()
    assert ids(replica) == [1, 2]
    assert replicating.row().position == Position(Lsn(made[1].end_lsn - 1), made[1].xid, made[1].commit_time)
    release(replica)
    replicating.catch_up()
    assert ids(replica) == [1, 2, 3]


def test_until_an_lsn_inside_of_a_big_commit_stands_exactly_there(  # P1
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    big = made_log.open_parts(rows.insert("1", None), rows.insert("2", None), tables=[rows.table])
    made_log.close_parts(big)
    write(made_log, rows, 3, 3)
    replicating.start(until_lsn=Lsn(big.commit_lsn + 1)).finished()
    assert ids(replica) == [1, 2]
    assert replicating.row().position == Position(Lsn(big.commit_lsn + 1), big.xid, big.commit_time)
    release(replica)
    replicating.catch_up()
    assert ids(replica) == [1, 2, 3]


def test_until_a_time_stops_before_the_first_later_commit_in_log_order(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    for number, when in enumerate((10, 30, 20), 1):
        write(made_log, rows, number, number, time=when)
    replicating.start(until_time=20).finished()
    assert ids(replica) == [1]
    row = replicating.row()
    assert row.hold is not None
    assert row.hold.at == row.position.lsn


def test_until_a_time_does_not_begin_a_big_transaction_that_is_past_it(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    write(made_log, rows, 1, 1, time=10)
    opened = made_log.open_parts(rows.insert("2", None), tables=[rows.table])  # its end is not there yet
    replicating.start(until_time=opened.commit_time - 1).finished()
    assert ids(replica) == [1]


def test_a_delayed_replica_applies_what_is_old_enough_and_is_not_idle_while_the_rest_waits(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hour = 3600 * 1_000_000
    write(made_log, rows, 1, 2, time=made_log.now() - 2 * hour)
    opened = made_log.open_parts(
        rows.insert("3", None), tables=[rows.table], commit_time=made_log.now() - 2 * hour
    )
    made_log.close_parts(opened)
    recent = write(made_log, rows, 4, 4)
    monkeypatch.setattr("pipeline.apply.stage.IDLE_AFTER_S", 0.0)
    with replicating.running(delay_us=hour) as applying:
        replicating.wait_for(opened.end_lsn)
        replicating.wait(
            lambda: bool(applying.reports) and applying.reports[-1].waiting_for == "its delay of 3600 s",
            "the delay in the report",
        )
        assert applying.reports[-1].state is StageState.STREAMING
    assert ids(replica) == [1, 2, 3]
    time.sleep(max(0.0, (recent[0].commit_time + 1_000_000 - made_log.now()) / 1e6))
    with replicating.running(delay_us=1_000_000):
        replicating.wait_for(recent[0].end_lsn)


def test_skipping_leaves_out_one_whole_transaction_and_writes_it_down(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute("insert into public.customer values (2, 'here already')")
    made = write(made_log, rows, 1, 6)
    error = replicating.start().ended_with()
    assert error.code == "row-already-there"
    assert f"--skip-transaction {format_lsn(made[1].commit_lsn)} " in error.hint
    assert ids(replica) == [1, 2]  # everything before it was applied
    replicating.start(skip=Skip(made[1].commit_lsn, "it was entered by hand")).finished()
    assert replicating.row().position.lsn == made[1].end_lsn
    replicating.catch_up()
    assert ids(replica) == [1, 2, 3, 4, 5, 6]
    assert replica.execute("select name from public.customer where id = 2") == [("here already",)]
    assert replica.execute(
        "select name, who, action, position::text, xid, reason, details ->> 'commit_lsn',"
        " details ->> 'changes' from keepstream.audit"
    ) == [
        (
            "crm",
            "keepstream",
            "skip-transaction",
            format_lsn(made[1].end_lsn),
            made[1].xid,
            "it was entered by hand",
            format_lsn(made[1].commit_lsn),
            "1",
        )
    ]


def test_a_big_transaction_is_skipped_as_a_whole(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    opened = made_log.open_parts(rows.insert("1", None), rows.insert("2", None), tables=[rows.table])
    made_log.close_parts(opened)
    write(made_log, rows, 3, 3)
    replicating.start(skip=Skip(opened.commit_lsn, "no")).finished()
    replicating.catch_up()
    assert ids(replica) == [3]
    assert replica.execute("select details ->> 'changes' from keepstream.audit") == [("2",)]


def test_only_the_next_transaction_can_be_skipped(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    made = write(made_log, rows, 1, 2)
    where_it_ends = replicating.start(skip=Skip(made[0].end_lsn, "another may commit there")).ended_with()
    assert where_it_ends.code == "skip-not-next"
    error = replicating.start(skip=Skip(made[1].commit_lsn, "no")).ended_with()
    assert error.code == "skip-not-next"
    assert error.message == (
        f"cannot skip the transaction at {format_lsn(made[1].commit_lsn)}: the next transaction commits at"
        f" {format_lsn(made[0].commit_lsn)} (xid {made[0].xid})"
    )
    assert replica.execute("select count(*) from keepstream.audit") == [(0,)]
    assert replicating.row().position.lsn < made[0].commit_lsn


def test_skipping_in_an_empty_log_says_so(
    replica: Database, made_log: MadeLog, replicating: Replicating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skipping, "PATIENCE_S", 0.5)
    beyond = Lsn(made_log.lsn + 1)
    assert replicating.start(skip=Skip(beyond, "no")).ended_with().code == "skip-not-next"


def test_a_held_replica_skips_nothing(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    hold_at(replica, HoldKind.PAUSE)
    made = write(made_log, rows, 1, 1)
    assert replicating.start(skip=Skip(made[0].commit_lsn, "no")).ended_with().code == "replica-held"
    assert replica.execute("select count(*) from keepstream.audit") == [(0,)]


def test_a_second_applier_waits_for_the_first_and_then_goes_on(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    with replicating.running() as first:
        replicating.wait(lambda: _streams(first), "the first applier")
        with replicating.running() as second:
            replicating.wait(
                lambda: (
                    bool(second.reports)
                    and "another applier of standby" in (second.reports[-1].waiting_for or "")
                ),
                "the second one waiting",
            )
            write(made_log, rows, 1, 1)
            replicating.wait_for(made_log.lsn)
            first.end()
            assert first.error is None
            write(made_log, rows, 2, 2)
            replicating.wait_for(made_log.lsn)
    assert ids(replica) == [1, 2]


def test_a_replaced_applier_ends_itself_and_the_newer_one_goes_on(  # P14
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    first = replicating.start()
    replicating.wait(lambda: _streams(first), "the first applier")
    with replicating.running(take_over=True):
        write(made_log, rows, 1, 3)
        replicating.wait_for(made_log.lsn)
        error = first.ended_with()
        assert error.code == "applier-replaced"
        assert error.exit_code == 4
    assert ids(replica) == [1, 2, 3]


def _streams(applying: Applying) -> bool:
    return applying.stage._applier is not None


def test_a_replica_that_went_back_gets_the_lost_transactions_again(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    """As after a fail-over to a copy that lacks the last commits: data and position went back together."""
    made = write(made_log, rows, 1, 2)
    with replicating.running():
        replicating.wait_for(made_log.lsn)
        replica.execute(
            "begin; delete from public.customer where id = 2;"
            f"update keepstream.progress set position = '{format_lsn(made[0].end_lsn)}', xid = {made[0].xid},"
            f" commit_time = to_timestamp({made[0].commit_time} / 1e6); commit"
        )
        write(made_log, rows, 3, 3)
        replicating.wait_for(made_log.lsn)
    assert ids(replica) == [1, 2, 3]


def test_a_row_that_disappears_stops_the_applier(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    applying = replicating.start()
    replicating.wait(lambda: _streams(applying), "the applier")
    with connect(replica.dsn, purpose="test") as session:
        progress.remove(session, PIPELINE)
    assert applying.ended_with().code == "progress-missing"
