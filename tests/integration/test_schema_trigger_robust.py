"""An application's DDL never fails, waits or is fooled because of the event triggers; nobody forges one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from tests.fix_postgres import PRODUCT, Database, Row
from tests.postgres_releases import needs_release
from tests.schema_messages import Tracked, changed, named


@pytest.fixture
def tracked(source: Database) -> Tracked:
    return Tracked(source)


@pytest.fixture
def session(tracked: Tracked) -> Iterator[Callable[[], psycopg.Connection[Row]]]:
    """Sessions of the application that never wait for long."""
    made: list[psycopg.Connection[Row]] = []

    def begin() -> psycopg.Connection[Row]:
        connection = tracked.database.connect(autocommit=False)
        connection.execute("set lock_timeout = '5s'")
        connection.commit()
        made.append(connection)
        return connection

    yield begin
    for each in made:
        each.close()


def tags(tracked: Tracked) -> list[str]:
    return [message["tag"] for message in tracked.messages()]


def test_an_error_of_ours_is_told_and_the_ddl_succeeds(tracked: Tracked) -> None:
    tracked.database.execute_as_admin(
        "create or replace function keepstream.describe_table(id oid) returns jsonb"
        " language plpgsql stable as 'begin return 1 / 0; end'"
    )
    with closing(tracked.database.connect()) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute("create table t (id int)")
    assert notices == ["keepstream could not follow this CREATE TABLE: 22012 division by zero"]
    assert tracked.database.execute("select count(*) from t") == [(0,)]
    (message,) = tracked.messages()
    assert (message["error"], message["tag"], message["changes"]) == (
        "22012 division by zero", "CREATE TABLE", [],
    )  # fmt: skip


def test_ddl_succeeds_even_where_nothing_can_be_told(tracked: Tracked) -> None:
    tracked.database.execute_as_admin("drop table keepstream.schema_key")
    tracked.database.execute("create table t (id int); alter table t add c int; drop table t")
    assert tracked.told() == []


def test_a_role_without_any_right_on_our_schema_makes_its_ddl(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        tracked.database.execute("select * from keepstream.schema_key")
    assert tags(tracked) == ["CREATE TABLE"]


@pytest.mark.parametrize(
    "call",
    [
        'select keepstream.emit(\'{"tag": "x", "changes": []}\')',
        "select keepstream.record_command('x', null, null, null)",
        "select keepstream.fill(1)",
        "select keepstream.on_ddl()",
        "select keepstream.store('table', 1, null, null)",
        "delete from keepstream.schema_state",
        "update keepstream.schema_key set key = ''",
    ],
)
def test_the_functions_and_tables_are_the_installers_alone(tracked: Tracked, call: str) -> None:
    tracked.messages()
    with pytest.raises(psycopg.Error, match="permission denied"):
        tracked.database.execute(call)
    with (
        closing(psycopg.connect(tracked.database.dsn)) as capture,
        pytest.raises(psycopg.Error, match="permission denied"),
    ):
        capture.execute(call.encode())
    assert tracked.messages() == []


def test_a_forged_message_has_no_right_seal(tracked: Tracked) -> None:
    tracked.messages()
    tracked.database.execute("create table t (id int)")
    (real,) = [told for told in tracked.told() if told.kind == "M"]
    replay = "select pg_logical_emit_message(true, 'keepstream.ddl', %s::bytea)"
    tracked.database.execute(replay, [real.content])
    (again,) = tracked.told()
    assert again.content == real.content
    with pytest.raises(AssertionError):
        tracked.open(again)  # its xid is another's


def test_a_session_cannot_make_the_trigger_run_its_own_code(tracked: Tracked) -> None:
    tracked.database.execute_as_admin("grant create on schema public to public")
    tracked.database.execute(
        "create table stolen (who text);"
        " create function public.evil() returns text language plpgsql as"
        " $$ begin insert into public.stolen values (current_user); return 'x'; end $$;"
        " create function public.format(text, variadic text[]) returns text language sql as"
        " 'select public.evil()';"
        " create function public.jsonb_build_object(variadic text[]) returns jsonb language sql as"
        " 'select to_jsonb(public.evil())';"
        " create function public.quote_ident(name) returns text language sql as 'select public.evil()'"
    )
    tracked.database.execute(
        "set search_path = public, pg_catalog; create temp table pg_class (oid oid, relname text);"
        " create table t (id int default length(public.evil()), v text check (v <> public.evil()));"
        " create view w as select public.evil() from t; alter table t alter v type varchar(9)"
    )
    assert tracked.database.execute("select * from stolen where who <> 'crm'") == []
    assert [m["tag"] for m in tracked.messages() if "error" in m] == []
    tracked.database.disconnect()


def test_names_that_look_like_sql_are_names(tracked: Tracked) -> None:
    tracked.database.execute('create table "x\'); drop table y; --" ("$1;$$" int); create table y (id int)')
    tracked.messages()
    tracked.database.execute('alter table "x\'); drop table y; --" alter "$1;$$" type bigint')
    change, rows = tracked.messages()
    assert rows["rows"]["columns"] == ["$1;$$"]
    assert changed(change["changes"][0]) == {"columns", "shape"}


def test_a_function_that_a_rewrite_calls_cannot_hide_it(tracked: Tracked) -> None:
    tracked.database.execute(
        "create table t (id int); insert into t values (1);"
        " create function hide(int) returns int language plpgsql as $$ begin"
        " perform set_config(name, '', true) from unnest(array['keepstream.ddl_messages',"
        " 'keepstream.ddl_rewritten', 'keepstream.ddl_dropped']) name; return $1 + 1; end $$"
    )
    tracked.messages()
    tracked.database.execute("alter table t alter id type int using hide(id)")
    change, rows = tracked.messages()
    assert change["changes"][0]["rewritten"] == "sent"
    assert rows["rows"]["records"] == ["(2)"]


def test_settings_of_ours_that_a_session_sets_hide_nothing(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int)")
    tracked.messages()
    tracked.database.execute("set keepstream.ddl_messages = 'nonsense'; set keepstream.ddl_dropped = 'x/['")
    tracked.database.execute("begin; alter table t add c int; alter table t add d int; commit")
    assert [m["n"] for m in tracked.messages()] == [0, 1]
    tracked.database.disconnect()


def test_sessions_that_alter_different_tables_do_not_wait(
    tracked: Tracked, session: Callable[[], psycopg.Connection[Row]]
) -> None:
    tracked.database.execute("create table a (id int, v int); create table b (id int, v int)")
    tracked.messages()
    one, two = session(), session()
    one.execute("alter table a add c int")
    two.execute("alter table b add c int")
    two.execute("create table d (id int)")
    one.execute("create table e (id int)")
    two.commit()
    one.commit()
    assert tags(tracked) == ["ALTER TABLE", "CREATE TABLE"] * 2


def test_indexes_that_are_made_crosswise_do_not_deadlock(
    tracked: Tracked, session: Callable[[], psycopg.Connection[Row]]
) -> None:
    tracked.database.execute("create table a (id int, v int); create table b (id int, v int)")
    tracked.messages()
    one, two = session(), session()
    for connection, index, table in ((one, 1, "a"), (two, 2, "b"), (one, 3, "b"), (two, 4, "a")):
        connection.execute(f"create index i{index} on {table} (v)".encode())
    one.commit()
    two.commit()
    told = [c for m in tracked.messages() for c in m["changes"]]
    assert [[index["name"] for index in c["after"]["indexes"]] for c in told] == [
        ["i1"],
        ["i3"],
        ["i2"],
        ["i4"],
    ]
    last = tracked.change("alter table a add c int")
    assert [index["name"] for index in last["before"]["indexes"]] == ["i1", "i4"]
    assert changed(last) == {"columns", "shape"}


def test_indexes_that_are_made_concurrently_at_once_are_both_told(tracked: Tracked) -> None:
    tracked.database.execute("create table a (id int, v int); create table b (id int, v int)")
    tracked.messages()

    def make(table: str) -> None:
        with closing(tracked.database.connect()) as connection:
            connection.execute(f"create index concurrently on {table} (v)".encode())

    threads = [threading.Thread(target=make, args=(table,)) for table in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [c for m in tracked.messages() for c in m["changes"]]
    assert sorted(index["name"] for c in told for index in c["after"]["indexes"]) == ["a_v_idx", "b_v_idx"]
    assert all(index["valid"] for c in told for index in c["after"]["indexes"])


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_ddl_in_a_transaction_of_one_snapshot_is_told(tracked: Tracked, level: str) -> None:
    tracked.database.execute("create table t (id int primary key)")
    tracked.messages()
    tracked.database.execute(
        f"begin isolation level {level}; select count(*) from t; alter table t add c int;"
        " create index on t (c); drop table t; commit"
    )
    assert tags(tracked) == ["ALTER TABLE", "CREATE INDEX", "DROP TABLE"]


def test_a_transaction_of_an_older_snapshot_says_that_it_could_not_tell(
    tracked: Tracked, session: Callable[[], psycopg.Connection[Row]]
) -> None:
    tracked.database.execute("create table t (id int)")
    old = session()
    old.execute("set transaction isolation level repeatable read")
    old.execute("select 1")
    tracked.database.execute("alter table t add c int")
    tracked.messages()
    old.execute("alter table t add d int")
    old.commit()
    (message,) = tracked.messages()
    assert message["error"] == "40001 could not serialize access due to concurrent update"


def test_a_read_only_transaction_and_a_replicas_role_change_nothing(tracked: Tracked) -> None:
    tracked.messages()
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        tracked.database.execute("begin read only; create table t (id int); commit")
    tracked.database.execute("rollback")
    tracked.database.execute_as_admin("set session_replication_role = replica; create table t (id int)")
    assert tags(tracked) == ["CREATE TABLE"]


@needs_release("source", 17)
def test_what_a_superuser_hid_shows_in_the_next_change(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int)")
    tracked.messages()
    tracked.database.execute_as_admin("set event_triggers = off; alter table t add hidden int")
    assert tracked.messages() == []
    change = tracked.change("alter table t add c int")
    assert named(change["after"], "columns", "hidden")["num"] == 2
    assert [column["name"] for column in change["before"]["columns"]] == ["id"]


def test_drop_owned_tells_all_that_went(tracked: Tracked) -> None:
    tracked.database.execute_as_admin("create role leaver; grant all on schema public to leaver")
    tracked.database.execute_as_admin(
        "set role leaver; create table t (id serial primary key); create type e as enum ('a');"
        " create view w as select * from t; create function f() returns int language sql as 'select 1'"
    )
    tracked.messages()
    tracked.database.execute_as_admin("drop owned by leaver")
    tracked.database.execute_as_admin("drop role leaver")
    gone = {(c["class"], c["before"]["name"]) for m in tracked.messages() for c in m["changes"]}
    assert gone == {
        ("table", "t"), ("sequence", "t_id_seq"), ("enum", "e"), ("view", "w"), ("function", "f"),
        ("schema", "public"),
    }  # fmt: skip


def test_a_schema_of_500_tables_is_dropped_in_one_message(source: Database) -> None:
    source.execute("create schema many")
    source.execute(
        "do $$ begin for i in 1 .. 500 loop"
        " execute format('create table many.t%s (id int primary key)', i); end loop; end $$"
    )
    tracked = Tracked(source)
    source.execute("drop schema many cascade")
    (message,) = tracked.messages()
    assert {changed(c).pop() for c in message["changes"]} == {"dropped"}
    assert len(message["changes"]) == 501


def test_a_root_of_200_partitions_is_altered_in_one_message(source: Database) -> None:
    source.execute("create table p (id int) partition by range (id)")
    source.execute(
        "do $$ begin for i in 1 .. 200 loop"
        " execute format('create table p%s partition of p for values from (%s) to (%s)', i, i, i + 1);"
        " end loop; end $$"
    )
    tracked = Tracked(source)
    source.execute("alter table p add c int")
    (message,) = tracked.messages()
    assert [changed(c) for c in message["changes"]] == [{"columns", "shape"}] * 201


def test_a_new_key_to_a_partitioned_table_is_told_once(tracked: Tracked) -> None:
    tracked.database.execute(
        "create table p (id int primary key) partition by range (id);"
        " create table p1 partition of p for values from (0) to (10); create table t (id int)"
    )
    tracked.messages()
    change = tracked.change("alter table t add foreign key (id) references p")
    assert [c["name"] for c in change["after"]["constraints"]] == ["t_id_fkey"]
    tracked.changes("create table p2 partition of p for values from (10) to (20)")
    assert changed(tracked.change("alter table t add v int")) == {"columns", "shape"}


def test_the_capture_role_reads_the_key_and_states(tracked: Tracked) -> None:
    with closing(psycopg.connect(tracked.database.dsn)) as capture:
        assert capture.execute("select length(key) from keepstream.schema_key").fetchall() == [(32,)]
        assert capture.info.user == PRODUCT
