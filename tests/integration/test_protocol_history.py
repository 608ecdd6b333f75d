"""P10, P11: the source, its slot and its publication are the ones whose history the log holds."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from connectors.interfaces import ChangeLog
from pipeline.capture.options import CaptureOptions
from pipeline.dev.process import require
from schemas.change import ColumnsAdded, Operation
from schemas.errors import RetryLater
from schemas.lsn import parse_lsn
from tests.capturing import LogContent, RunningCapture, begun, capture_options, capturing, once
from tests.fix_postgres import Database
from tests.postgres_releases import release

PUBLICATION = "keepstream_crm"


@pytest.fixture
def options(source: Database, change_log: ChangeLog) -> CaptureOptions:
    source.grant_ownership()
    return capture_options(source, change_log)


@pytest.fixture
def frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats, looks for new tables and comparisons of the publication many times a second."""
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.1)
    monkeypatch.setattr("pipeline.capture.housekeeping.HEARTBEAT_EVERY_S", 0.1)


def lose_everything() -> None:
    """As a kill would: what is in memory is gone, and capture begins again."""
    raise RetryLater("killed by the test", code="killed")


def slot_of(source: Database) -> int:
    ((lsn,),) = source.execute_as_admin(
        "select confirmed_flush_lsn::text from pg_replication_slots"
        " where database = current_database() and not temporary"
    )
    return parse_lsn(str(lsn))


# P10


class Machine:
    """A source whose whole data folder can be put back to an earlier state, as a VM's snapshot does."""

    def __init__(self, source: Database, log: ChangeLog, folder: Path) -> None:
        self.source = source
        self.log = log
        source.grant_ownership()
        source.execute("create table customer (id int primary key)")
        self.options = capture_options(source, log)
        self.tail = 0
        self._data = source.server.data
        self._copy = folder / "copy"

    def take_copy(self) -> None:
        self.source.server.stop()
        subprocess.run(["cp", "-a", self._data, self._copy], check=True)
        self.source.server.start()

    def roll_back(self) -> None:
        self.source.disconnect()
        self.source.server.stop()
        shutil.rmtree(self._data)
        subprocess.run(["cp", "-a", self._copy, self._data], check=True)
        self.source.server.start()

    def go_past(self, tail: int) -> None:
        """Write WAL of which nothing is replicated."""
        while True:
            self.source.execute_as_admin("select pg_switch_wal()")
            ((lsn,),) = self.source.execute_as_admin("select pg_current_wal_lsn()::text")
            if parse_lsn(str(lsn)) > tail:
                return


@pytest.fixture
def machine(new_source: Callable[..., Database], change_log: ChangeLog, server_folder: Path) -> Machine:
    """Rolled back: the log holds row 2, the source does not any more. Row 1 was confirmed before."""
    made = Machine(new_source(), change_log, server_folder)
    with capturing(made.options):
        content = begun(change_log)
        made.source.execute("insert into customer values (1)")
        content.wait_for(1)
        require(lambda: slot_of(made.source) >= content.committed[0].end_lsn, 10, what="the confirmation")
    made.take_copy()
    made.source.execute("insert into customer values (2)")
    with capturing(made.options):
        content.wait_for(2)
    made.tail = content.follower.chain.tail.lsn
    made.roll_back()
    return made


def test_p10_a_rolled_back_source_is_refused_however_far_it_went_on(machine: Machine) -> None:
    error = RunningCapture(machine.options).ended_with()
    assert (error.code, error.exit_code) == ("source-went-back", 4)

    # Nothing comes again where the log holds row 2: without a look at that, heartbeats would follow.
    before = slot_of(machine.source)
    machine.go_past(machine.tail)
    for _ in range(2):
        error = RunningCapture(machine.options).ended_with()
        assert (error.code, error.exit_code) == ("source-other-history", 4)
        assert "where the log, which ends at" in error.message
    assert slot_of(machine.source) == before, "the evidence must not be confirmed away"

    # A new row 3 would be skipped as known, because it stands below the log's tail.
    machine.roll_back()
    machine.source.execute("insert into customer values (3)")
    machine.go_past(machine.tail)
    error = RunningCapture(machine.options).ended_with()
    assert (error.code, error.exit_code) == ("source-other-history", 4)
    content = LogContent(machine.log)
    content.wait_for(2)
    assert content.ids("public.customer") == [1, 2]


def test_p10_what_a_slot_that_went_back_in_a_crash_sends_again_is_skipped(
    new_source: Callable[..., Database], change_log: ChangeLog, server_folder: Path
) -> None:
    """PostgreSQL may write a slot down at checkpoints only, and forgets later confirmations in a crash."""
    source = new_source()
    source.grant_ownership()
    source.execute("create table customer (id int primary key)")
    options = capture_options(source, change_log)
    state = source.server.data / "pg_replslot" / options.slot / "state"
    with capturing(options):
        content = begun(change_log)
        source.execute_as_admin("checkpoint")
        subprocess.run(["cp", "-a", state, server_folder], check=True)
        for number in range(1, 6):
            source.execute("insert into customer values (%s)", [number])
        content.wait_for(5)
        tail = content.committed[-1].end_lsn
        require(lambda: slot_of(source) >= tail, 10, what="the confirmation")
    source.disconnect()
    source.server.crash()
    subprocess.run(["cp", "-a", server_folder / "state", state], check=True)
    source.server.start()
    assert slot_of(source) <= content.committed[0].commit_lsn
    with capturing(options):
        source.execute("insert into customer values (6)")
        content.wait_for(6)
        require(lambda: slot_of(source) > tail, 10, what="the confirmation")
    assert content.ids("public.customer") == [1, 2, 3, 4, 5, 6]


# P11


def test_p11_the_row_between_dropping_and_recreating_is_lost_without_an_error_and_we_stop(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table customer (id int primary key)")
    with capturing(options):
        content = begun(change_log)
    source.execute_as_admin(f"drop publication {PUBLICATION}")
    source.execute("insert into customer values (1)")
    source.execute_as_admin(f"create publication {PUBLICATION} for table customer")
    source.execute("insert into customer values (2)")
    if release("source") >= 18:
        natively = source.execute_as_admin(
            "select count(*) from pg_logical_slot_peek_binary_changes(%s, null, null, 'proto_version', '1',"
            " 'publication_names', %s) where get_byte(data, 0) = ascii('I')",
            [options.slot, PUBLICATION],
        )
        assert natively == [(1,)], "PostgreSQL itself sends one of the two rows, and no error"
    error = RunningCapture(options).ended_with()
    assert (error.code, error.exit_code) == ("publication-changed", 4)
    assert content.read().ids("public.customer") == []


@pytest.mark.usefixtures("frequent")
def test_p11_a_change_is_found_while_capture_runs_before_the_slot_moves_over_it(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table customer (id int primary key)")
    running = RunningCapture(options)
    begun(change_log)
    with psycopg.connect(source.admin_dsn) as connection:
        connection.execute(f"alter publication {PUBLICATION} drop table customer")
        connection.execute(f"alter publication {PUBLICATION} add table customer")
    ((changed_at,),) = source.execute("select pg_current_wal_insert_lsn()::text")
    error = running.ended_with()
    assert (error.code, error.exit_code) == ("publication-changed", 4)
    assert slot_of(source) < parse_lsn(str(changed_at))


def test_p11_what_somebody_changes_while_the_log_is_begun_is_found(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the slot's consistent point and its ANCHOR: row 1 is not in the stream."""
    source.execute("create table customer (id int primary key)")

    def change() -> None:
        source.execute_as_admin(f"alter publication {PUBLICATION} drop table customer")
        source.execute("insert into customer values (1)")
        source.execute_as_admin(f"alter publication {PUBLICATION} add table customer")

    once(monkeypatch, "pipeline.capture.startup.beginning", "capture.slot_created", change)
    with pytest.MonkeyPatch.context() as faster:
        faster.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.1)
        assert RunningCapture(options).ended_with().code == "publication-changed"


@pytest.mark.usefixtures("frequent")
@pytest.mark.parametrize(
    "killed_at",
    ["capture.before_join_announced", "capture.after_join_announced", "capture.after_join_committed"],
)
def test_p11_a_capture_killed_while_a_table_joins_continues(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: str,
) -> None:
    once(monkeypatch, "pipeline.capture.joins.joining", killed_at, lose_everything)
    with capturing(options) as running:
        content = begun(change_log)
        source.execute("create table lead (id int primary key); insert into lead values (1)")
        content.wait_for(1)
        source.execute("insert into lead values (2)")
        content.wait_for(2)
        assert running.last_error == "killed"
    joined = [change.payload.prefix for change in content.transactions[0]]  # type: ignore[union-attr]
    assert joined == ["keepstream.join", "keepstream.join.rows"]
    assert content.ids("public.lead") == [2]


@pytest.mark.usefixtures("frequent")
def test_p11_an_announced_join_that_never_commits_harms_nothing(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, "pipeline.capture.joins.joining", "capture.after_join_announced", lose_everything)
    with capturing(options) as running:
        content = begun(change_log)
        source.execute("create table lead (id int primary key, old text)")
        content.wait_for(1)
        source.execute("insert into lead values (1, 'a')")
        content.wait_for(2)
        assert running.last_error == "killed"
    assert content.ids("public.lead") == [1]


@pytest.mark.usefixtures("frequent")
def test_p11_a_join_adopts_nothing_that_somebody_else_changed_meanwhile(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute("create table customer (id int primary key)")

    def change() -> None:
        with psycopg.connect(source.admin_dsn) as connection:
            connection.execute(f"alter publication {PUBLICATION} drop table customer")
            connection.execute(f"alter publication {PUBLICATION} add table customer")

    once(monkeypatch, "pipeline.capture.joins.joining", "capture.after_join_committed", change)
    running = RunningCapture(options)
    begun(change_log)
    source.execute("create table lead (id int primary key)")
    assert running.ended_with().code == "publication-changed"


@pytest.mark.usefixtures("frequent")
def test_p6_a_column_added_after_a_join_that_capture_did_not_survive_is_announced(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ANCHOR that announced the join holds the table as replicas will make it."""

    def add_column_and_die() -> None:
        source.execute("alter table lead add column city text default 'Bern'")
        source.execute("insert into lead values (2, 'Basel')")
        lose_everything()

    once(monkeypatch, "pipeline.capture.joins.joining", "capture.after_join_committed", add_column_and_die)
    with capturing(options):
        content = begun(change_log)
        source.execute("create table lead (id int primary key); insert into lead values (1)")
        content.wait_for(2)
    ddl, insert = content.transactions[1]
    assert (ddl.operation, insert.operation) == (Operation.DDL, Operation.INSERT)


# P6, P7: what stands in an epoch that ended is void, the schema it brought included


def test_p7_a_column_whose_transaction_was_voided_is_announced_again(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute("create table note (id int primary key, body text)")
    once(monkeypatch, "pipeline.capture.writing.chainwriter", "capture.part_appended", lose_everything)
    with capturing(options) as running:
        content = begun(change_log)
        source.execute(
            "begin; alter table note add column city text default 'Bern';"
            " insert into note select i, repeat(md5(i::text), 40) from generate_series(1, 2000) i; commit"
        )
        content.wait_for(1)
        assert running.last_error == "killed"
    assert content.follower.chain.epoch == 2
    (changes,) = content.transactions
    assert changes[0].operation is Operation.DDL
    assert isinstance(changes[0].payload, ColumnsAdded)
    assert content.ids("public.note") == list(range(1, 2001))


def test_p6_anchors_come_in_time_though_no_pause_ever_does(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transactions larger than a batch: the stream is hardly ever seen between two of them."""
    monkeypatch.setattr("pipeline.capture.writing.chainwriter.ANCHOR_EVERY_BYTES", 256 * 1024)
    source.execute("create table note (id int primary key, body text)")
    with capturing(options):
        content = begun(change_log)
    for number in range(12):
        source.execute(
            "insert into note select %s * 1000 + i, repeat('x', 1000) from generate_series(1, 600) i",
            [number],
        )
    with capturing(options):
        content.wait_for(12)
    ends = {one.end_lsn for one in content.committed}
    content.wait(lambda content: ends <= {each.at.lsn for each in content.anchors}, "an anchor after each")
    assert len(ends) == 12


# P11: names


def test_p11_tables_that_swap_their_names_are_not_taken_for_each_other(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """Their rows look alike, and a rename changes no row of the publication."""
    source.execute("create table customer (id int primary key); create table lead (id int primary key)")
    running = RunningCapture(options)
    content = begun(change_log)
    source.execute("insert into customer values (1); insert into lead values (2)")
    content.wait_for(1)
    source.execute(
        "begin; alter table customer rename to swapped; alter table lead rename to customer;"
        " alter table swapped rename to lead; commit"
    )
    source.execute("insert into customer values (3)")
    error = running.ended_with()
    assert (error.code, error.exit_code) == ("table-renamed", 4)
    assert error.message == "table public.lead was renamed to public.customer"
    assert content.read().ids("public.customer") == [1]


def test_p11_tables_that_swapped_their_names_while_capture_was_down_are_found(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table customer (id int primary key); create table lead (id int primary key)")
    with capturing(options):
        content = begun(change_log)
    source.execute(
        "begin; alter table customer rename to swapped; alter table lead rename to customer;"
        " alter table swapped rename to lead; commit; insert into customer values (3)"
    )
    assert RunningCapture(options).ended_with().code == "table-renamed"
    assert content.read().ids("public.customer") == []
