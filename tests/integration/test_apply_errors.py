"""Where replica and log disagree, or the replica cannot take what comes: stop with a name and a remedy, or
try again, and never lose or double anything."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from connectors.postgres.apply import barriers as apply_barriers
from pipeline.reports import StageState
from schemas.change import Change, Message, Operation, Truncate
from schemas.errors import Divergence, KeepstreamError, OperatorNeeded
from schemas.lsn import format_lsn
from schemas.table import ReplicaIdentity
from tests.fix_apply import Applying, MadeLog, Replicating, Rows, rows_of
from tests.fix_postgres import Database

CUSTOMER = "create table public.customer (id int primary key, name text check (name <> 'forbidden'))"


@pytest.fixture
def rows(replica: Database) -> Rows:
    replica.execute(CUSTOMER)
    return rows_of(replica, "public.customer")


def names(replica: Database) -> list[tuple[int, str | None]]:
    return replica.execute("select id, name from public.customer order by id")


def failing(replicating: Replicating, made_log: MadeLog, rows: Rows, *changes: Change) -> KeepstreamError:
    """What apply says of a transaction with these changes, after a good one and before another."""
    made_log.add(rows.insert("1", "kept"), tables=[rows.table])
    before = made_log.lsn
    made_log.add(*changes)
    made_log.add(rows.insert("100", "later"))
    made_log.flush()
    error = replicating.start().ended_with()
    assert replicating.row().position.lsn == before
    assert "secret" not in error.message + error.hint
    return error


def test_a_check_whose_function_relies_on_a_search_path_is_named_with_a_remedy_that_works(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute(
        "create function public.norm(text) returns text language plpgsql as 'begin return lower($1); end';"
        " create function public.valid(text) returns bool language plpgsql as"
        " 'begin return norm($1) = $1; end';"
        " alter table public.customer add check (public.valid(name))"
    )
    made_log.commit(rows.insert("1", "ada"), tables=[rows.table])
    error = replicating.start().ended_with()
    assert (error.code, error.exit_code) == ("replica-schema", 4)
    assert "function norm(text) does not exist" in error.message
    assert "`alter function NAME(TYPES) set search_path" in error.hint
    assert "public.valid(text)" in error.hint
    replica.execute("alter function public.valid(text) set search_path = public")
    replicating.catch_up()
    assert names(replica) == [(1, "ada")]


@pytest.mark.parametrize(
    ("make", "code", "what"),
    [
        (
            lambda rows: rows.update("7", "secret"),
            "row-missing",
            "update of public.customer by (id), change 1 of transaction {}: the replica has no such row",
        ),
        (
            lambda rows: rows.delete("7", None),
            "row-missing",
            "delete of public.customer by (id), change 1 of transaction {}: the replica has no such row",
        ),
        (
            lambda rows: rows.insert("1", "secret"),
            "row-already-there",
            "insert of public.customer by (id), change 1 of transaction {}: the replica has a row with these"
            " unique values already (constraint customer_pkey)",
        ),
        (
            lambda rows: rows.insert("3", "forbidden"),
            "constraint-violated",
            "insert of public.customer by (id), change 1 of transaction {}: a constraint of the replica"
            " refuses it (constraint customer_name_check)",
        ),
    ],
)
def test_a_change_that_does_not_fit_stops_before_its_transaction(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    rows: Rows,
    make: Callable[[Rows], Change],
    code: str,
    what: str,
) -> None:
    error = failing(replicating, made_log, rows, rows.insert("2", "torn"), make(rows), rows.insert("4", "x"))
    assert isinstance(error, Divergence)
    assert (error.code, error.exit_code) == (code, 6)
    commit_lsn = format_lsn(made_log.lsn - 0x80 - 0x40)
    assert error.message == what.format(f"{commit_lsn} (xid {made_log.xid - 1})")
    assert error.hint == (
        "Compare the row on both sides, mend the replica by hand and start again: `keepstream verify standby`"
        " then shows what else differs. Or leave the whole transaction out for good:"
        f' `keepstream apply standby --skip-transaction {commit_lsn} --reason "…"`.'
    )
    assert names(replica) == [(1, "kept")]


def test_a_mended_replica_goes_on_where_it_stopped(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    failing(replicating, made_log, rows, rows.update("7", "mended"))
    replica.execute("insert into public.customer values (7, 'was lost')")
    replicating.catch_up()
    assert names(replica) == [(1, "kept"), (7, "mended"), (100, "later")]


def test_a_divergence_deep_inside_a_group_still_lets_everything_before_it_through(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    for number in range(1, 40):
        made_log.add(rows.insert(str(number), None), tables=[rows.table])
    made_log.add(rows.delete("77", None))
    made_log.add(rows.insert("41", None))
    made_log.flush()
    assert replicating.start().ended_with().code == "row-missing"
    assert [row[0] for row in names(replica)] == list(range(1, 40))


def test_several_rows_where_there_should_be_one_are_named(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute("alter table public.customer drop constraint customer_pkey")
    replica.execute("insert into public.customer values (5), (5)")
    error = failing(replicating, made_log, rows, rows.update("5", "x"))
    assert error.code == "row-ambiguous"
    assert error.message.endswith("the replica has 2 such rows")


def test_a_duplicate_in_a_key_that_postgresql_does_not_enforce_for_us_is_found(  # P15
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute("alter table public.customer add unique (name) deferrable initially deferred")
    replica.execute("insert into public.customer values (50, 'secret')")
    error = failing(replicating, made_log, rows, rows.insert("2", "secret"))
    assert isinstance(error, Divergence)
    assert error.code == "row-already-there"
    assert error.message.startswith("unique key (name) of public.customer, change 0 of transaction ")
    assert [row[0] for row in names(replica)] == [1, 50]


def test_a_column_that_the_replica_lacks_stops_with_the_statement_that_adds_it(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute("alter table public.customer drop column name")
    made_log.commit(rows.insert("1", "x"), tables=[rows.table])
    error = replicating.start().ended_with()
    assert isinstance(error, OperatorNeeded)
    assert (error.code, error.exit_code) == ("replica-schema", 4)
    assert error.hint.endswith('alter table "public"."customer" add column if not exists "name" text;')


def test_a_table_that_the_replica_lacks_stops(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute("drop table public.customer")
    made_log.commit(rows.insert("1", "x"), tables=[rows.table])
    error = replicating.start().ended_with()
    assert (error.code, error.message) == ("replica-schema", "public.customer does not exist in the replica")
    assert error.hint == (
        'Create it as it is on the source (pg_dump --schema-only -t \'"public"."customer"\'), start again.'
    )


def test_a_change_that_tells_nothing_of_its_row_stops_and_names_the_way_past_it(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    """PostgreSQL 15 to 17 send so what has a generated column for its key."""
    replica.execute("create table public.customer (id int, name text)")
    rows = rows_of(replica, "public.customer")
    error = failing(replicating, made_log, rows, rows.update("1", "secret"))
    lsn = error.message.partition(": transaction ")[2].partition(" (xid ")[0]
    assert error.code == "identity-missing"
    assert error.hint == (
        'Run on the source: alter table only "public"."customer" replica identity full; What was written'
        " before has nothing either; leave that out and mend the table: `keepstream apply standby"
        f' --skip-transaction {lsn} --reason "…"`, start again, and `keepstream verify standby --repair`.'
    )


def test_a_column_of_a_type_that_cannot_hold_the_value_stops(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute("create type public.mood as enum ('good')")
    replica.execute("alter table public.customer drop constraint customer_name_check")
    replica.execute("alter table public.customer alter name type public.mood using null")
    made_log.commit(rows.insert("2", "secret"), tables=[rows.table])
    error = replicating.start().ended_with()
    assert error.code == "replica-schema"
    assert "InvalidTextRepresentation (22P02)" in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("alteration", "seen"),
    [
        ("alter name type varchar(5)", "its column name is character varying(5) instead of text"),
        ("drop name, add name text generated always as ('x') stored", "it computes column name itself"),
    ],
)
def test_a_column_that_would_change_values_without_a_word_stops_before_it_does(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows, alteration: str, seen: str
) -> None:
    replica.execute(f"alter table public.customer {alteration}")
    made_log.commit(rows.insert("1", "abcde  "), tables=[rows.table])
    error = replicating.start().ended_with()
    assert (error.code, error.exit_code) == ("replica-schema", 4)
    assert seen in error.message
    replica.execute(error.hint.split("start again:\n")[1])
    with replicating.running():
        replicating.catch_up()
    assert replica.execute("select name from public.customer") == [("abcde  ",)]


def test_a_missing_privilege_stops(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute_as_admin("alter table public.customer owner to postgres")
    made_log.commit(rows.insert("1", "x"), tables=[rows.table])
    assert replicating.start().ended_with().code == "privilege-missing"


FORCED = "alter table public.customer enable row level security, force row level security"


def test_row_security_that_would_hide_rows_stops_with_the_sql_that_mends_it(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute(FORCED)
    made_log.commit(rows.insert("1", "x"), tables=[rows.table])
    error = replicating.start().ended_with()
    assert (error.code, error.exit_code) == ("replica-row-security", 4)
    assert error.message == (
        "writes to public.customer of standby would be refused: row-level security applies to our role"
        " keepstream there"
    )
    assert error.hint == (
        'Run on the replica as a superuser: alter role "keepstream" bypassrls; Or as the table\'s owner:'
        ' alter table only "public"."customer" no force row level security;'
    )
    replica.execute(error.hint.split("owner: ")[1])
    replicating.catch_up()
    assert names(replica) == [(1, "x")]


def test_row_security_that_is_forced_while_apply_runs_stops_with_a_hint_that_helps(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    made_log.commit(rows.insert("1", "x"), tables=[rows.table])
    applying = replicating.start()
    replicating.wait_for(made_log.lsn)
    replica.execute(FORCED)
    made_log.commit(rows.insert("2", "x"))
    error = applying.ended_with()
    assert error.code == "row-security-hides-rows"
    assert error.message.startswith("insert of public.customer")
    assert "alter role … bypassrls;" in error.hint


@pytest.mark.parametrize("state", ["40001", "40P01", "53100", "55P03", "53200"])
def test_what_may_pass_is_tried_again(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows, state: str
) -> None:
    """A constraint raises what a full disk, a deadlock or a serialization failure would."""
    replica.execute(
        f"""
        create table public.trouble (); insert into public.trouble default values;
        create function public.is_fine(int) returns boolean language plpgsql as $$ begin
            if exists (select from public.trouble) then raise 'trouble' using errcode = '{state}'; end if;
            return true; end $$;
        alter table public.customer add constraint fine check (public.is_fine(id));
        """
    )
    made_log.commit(rows.insert("1", "x"), tables=[rows.table])
    with replicating.running() as applying:
        replicating.wait(lambda: is_in(applying, StageState.RETRYING), "the state retrying")
        assert applying.reports[-1].last_error is not None
        replica.execute("truncate public.trouble")
        replicating.wait_for(made_log.lsn)
    assert names(replica) == [(1, "x")]


def is_in(applying: Applying, state: StageState) -> bool:
    return bool(applying.reports) and applying.reports[-1].state is state


def test_a_real_deadlock_is_survived(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    made_log.commit(rows.insert("1", "a"), rows.insert("2", "a"), tables=[rows.table])
    replicating.catch_up()
    made_log.commit(rows.update("2", "b"), rows.update("1", "b"))
    with psycopg.connect(replica.admin_dsn) as user:
        user.execute("set deadlock_timeout = '1min'")  # so that the applier is the victim
        user.execute("update public.customer set name = 'mine' where id = 1")
        with replicating.running():
            replicating.wait(lambda: _waits_for_a_lock(replica), "the applier waiting for the user")
            user.execute("update public.customer set name = 'mine' where id = 2")
            user.rollback()
            replicating.wait_for(made_log.lsn)
    assert names(replica) == [(1, "b"), (2, "b")]


def _waits_for_a_lock(replica: Database) -> bool:
    return bool(
        replica.execute_as_admin(
            "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
    )


def test_stopping_does_not_wait_for_a_replica_that_does_not_answer(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    made_log.commit(rows.insert("1", "x"), tables=[rows.table])
    with psycopg.connect(replica.admin_dsn) as user:
        user.execute("lock table public.customer")
        with replicating.running() as applying:
            replicating.wait(lambda: _waits_for_a_lock(replica), "the applier waiting for the user")
            ended = threading.Thread(target=applying.end)
            ended.start()
            ended.join(10)
            assert not ended.is_alive()
    replicating.catch_up()
    assert names(replica) == [(1, "x")]


def test_a_session_that_the_server_ends_is_opened_again(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    with replicating.running():
        for number in range(1, 4):
            made_log.commit(rows.insert(str(number), None), tables=[rows.table])
            replicating.wait_for(made_log.lsn)
            replica.execute_as_admin(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                " and application_name like 'keepstream:apply%'"
            )
    assert [row[0] for row in names(replica)] == [1, 2, 3]


def test_a_crash_of_the_replicas_server_loses_and_doubles_nothing(
    new_replica: Callable[..., Database], made_log: MadeLog
) -> None:
    replica = new_replica({"fsync": "on", "wal_writer_delay": "10s"})
    replicating = Replicating(replica, made_log)
    replica.execute(CUSTOMER)
    rows = rows_of(replica, "public.customer")
    with replicating.running():
        for number in range(1, 4):
            made_log.commit(rows.insert(str(number), None), tables=[rows.table])
            replicating.wait_for(made_log.lsn)
            replica.disconnect()
            replica.server.crash()
            replica.server.start()
        made_log.commit(rows.insert("4", None))
        replicating.wait(lambda: _position(replicating) == made_log.lsn, "the last transaction")
    assert [row[0] for row in names(replica)] == [1, 2, 3, 4]
    assert replica.execute("select count(*) from public.customer") == [(4,)]


def _position(replicating: Replicating) -> int:
    try:
        return replicating.row().position.lsn
    except KeepstreamError:
        return 0


def test_without_the_right_to_switch_triggers_off_a_table_that_has_some_stops(
    new_replica: Callable[..., Database], made_log: MadeLog
) -> None:
    replica = new_replica()
    replica.execute_as_admin("revoke set on parameter session_replication_role from keepstream")
    replicating = Replicating(replica, made_log)
    replica.execute("create table public.t (id int primary key, swapped int unique deferrable)")
    replica.execute("create function public.f() returns trigger language plpgsql as 'begin return null; end'")
    replica.execute("create trigger tr before insert on public.t for each row execute function public.f()")
    rows = rows_of(replica, "public.t")
    made_log.commit(
        rows.insert("1", "1"),
        rows.insert("2", "2"),
        rows.update("1", "2"),
        rows.update("2", "1"),
        tables=[rows.table],
    )
    error = replicating.start().ended_with()
    assert error.code == "replica-triggers"
    assert error.message == "writes to public.t of standby would fire trigger tr"
    replica.execute(error.hint.split("on the replica: ")[1])
    replicating.catch_up()
    assert replica.execute("select * from public.t order by id") == [(1, 2), (2, 1)]


def test_full_identity_that_finds_no_equal_row_stops(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute("create table public.t (a int, b text)")
    rows = rows_of(replica, "public.t", identity=ReplicaIdentity.FULL)
    made_log.commit(rows.insert("1", "x"), rows.delete("1", "y"), tables=[rows.table])
    error = replicating.start().ended_with()
    assert error.code == "row-missing"
    assert error.message.startswith("delete of public.t by (a, b), change 1 of transaction ")


def test_a_damaged_record_stops_the_log_until_capture_begins_a_new_epoch(  # P7
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    made_log.commit(rows.insert("1", None), tables=[rows.table])
    lsn = made_log.lsn
    with replicating.running() as applying:
        made_log.writer.append(b"KSF1 is not all that a frame needs" * 10)
        made_log.commit(rows.insert("666", None))
        replicating.wait(
            lambda: (
                bool(applying.reports) and applying.reports[-1].waiting_for == "capture to begin a new epoch"
            ),
            "the broken epoch in the report",
        )
        made_log.lsn = lsn
        made_log.begin_epoch()
        made_log.commit(rows.insert("2", None))
        replicating.wait_for(made_log.lsn)
    assert [row[0] for row in names(replica)] == [1, 2]


def test_a_table_version_that_the_log_never_described_stops(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    made_log.commit(rows.insert("1", None))
    error = replicating.start().ended_with()
    assert error.code == "table-unknown"
    assert names(replica) == []


def test_a_truncate_lets_readers_in_while_it_waits_for_one(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apply_barriers, "_LOCK_TIMEOUT", b"set local lock_timeout = '300ms'")
    replica.execute("insert into public.customer values (1)")
    payload = Truncate((rows.table.id,), cascade=False, restart_identity=False)
    made_log.commit(Change(Operation.TRUNCATE, bytes(8), payload=payload), tables=[rows.table])
    with psycopg.connect(replica.admin_dsn) as reader:
        reader.execute("select * from public.customer")
        with replicating.running() as applying:
            replicating.wait(lambda: is_in(applying, StageState.RETRYING), "the state retrying")
            assert names(replica) == [(1, None)]
            reader.rollback()
            replicating.wait_for(made_log.lsn)
    assert names(replica) == []


def test_an_unknown_message_of_a_joining_table_stops_instead_of_being_left_out(
    made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    payload = Message(True, "keepstream.join.sequence", b"secret")
    message = Change(Operation.MESSAGE, bytes(8), payload=payload)
    error = failing(replicating, made_log, rows, message)
    assert (error.code, error.exit_code) == ("join-unknown", 1)


def test_a_column_of_the_replica_s_own_that_nothing_fills_stops_the_first_insert_with_its_sql(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute("insert into public.customer values (1, 'x'); alter table public.customer add ours int")
    replica.execute(
        "update public.customer set ours = 1; alter table public.customer alter ours set not null"
    )
    made_log.commit(rows.update("1", "y"), tables=[rows.table])
    with replicating.running():
        replicating.catch_up()
    assert names(replica) == [(1, "y")]  # which does not need it
    made_log.commit(rows.insert("2", "z"))
    error = replicating.start().ended_with()
    assert (error.code, error.exit_code) == ("replica-schema", 4)
    assert error.message == (
        "public.customer of standby cannot hold what public.customer holds:"
        " its own column ours is NOT NULL and has no default"
    )
    replica.execute(error.hint.split("start again:\n")[1])
    with replicating.running():
        replicating.catch_up()
    assert names(replica) == [(1, "y"), (2, "z")]


@pytest.mark.parametrize(
    ("alteration", "seen"),
    [
        ("alter table public.customer alter name set not null", "(column name)"),
        (
            "create domain public.said as text not null;"
            " alter table public.customer alter name type public.said",
            "(domain said)",
        ),
    ],
)
def test_not_null_of_the_replica_s_own_is_named_with_the_sql_that_lifts_it(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows, alteration: str, seen: str
) -> None:
    replica.execute("alter table public.customer drop constraint customer_name_check")
    replica.execute(alteration)
    made_log.commit(rows.insert("1", None), tables=[rows.table])
    error = replicating.start().ended_with()
    assert (error.code, error.exit_code) == ("constraint-violated", 6)
    assert error.message.endswith(f"a constraint of the replica refuses it {seen}")
    replica.execute(error.hint.split("start again: ")[1].split(";")[0])
    with replicating.running():
        replicating.catch_up()
    assert names(replica) == [(1, None)]


def test_a_row_outside_of_a_partition_s_bounds_is_refused_with_what_mends_them(
    replica: Database, made_log: MadeLog, replicating: Replicating, rows: Rows
) -> None:
    replica.execute("create table whole (like public.customer) partition by range (id)")
    replica.execute("alter table whole attach partition public.customer for values from (0) to (5)")
    made_log.commit(rows.insert("7", "x"), tables=[rows.table])
    error = replicating.start().ended_with()
    assert (error.code, error.exit_code) == ("constraint-violated", 6)
    assert error.hint.startswith("No partition of the replica takes it; `keepstream check` names bounds that")
