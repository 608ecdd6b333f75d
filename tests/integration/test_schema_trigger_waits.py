"""The event triggers wait for nobody: sessions hold each other up only where PostgreSQL's locks make them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from pipeline.dev.process import require
from tests.fix_postgres import Row, Server
from tests.schema_messages import Json, Tracked, changed, named

FUNCTION = "create function f() returns int immutable language sql as 'select 1'"
PARENT = "create table p (id int); create table a (v int default 1) inherits (p)"
PLAIN = "create table a (id int generated always as identity primary key, v int check (v > 0))"
ONLY_DEFAULT = "alter table a alter v set default 7"

WHILE_ALTERED: dict[str, tuple[str, str, str]] = {
    "a parent is renamed": (PARENT, "alter table a add w int default 2", "alter table p rename to q"),
    "a parent moves": (
        f"{PARENT}; create schema {{s}}_b", "alter table a add w int", "alter table p set schema {s}_b",
    ),
    "a parent of partitions is renamed": (
        "create table p (id int) partition by range (id); create table a partition of p default;"
        " alter table a alter id set default 1",
        "alter table a alter id set default 2", "alter table p rename to q",
    ),
    "a parent alone gets an option": (
        PARENT, "alter table a add w int", "alter table p set (fillfactor = 50)",
    ),
    "a schema is renamed": (PLAIN, "alter table a add w int", "alter schema {s} rename to {s}_c"),
    "an index is renamed": (
        "create table a (id int, v int); create index i on a ((v + 1)) where v > 0",
        ONLY_DEFAULT, "alter index i rename to j",
    ),
    "an identity counts otherwise": (PLAIN, ONLY_DEFAULT, "alter sequence a_id_seq increment 2"),
    "a view is renamed": (
        f"{PLAIN}; create view w as select v from a", ONLY_DEFAULT, "alter view w rename to x",
    ),
    "a table's policy reads it": (
        f"{PLAIN}; create table b (v int); create policy y on b using (v in (select v from a))",
        "alter table a add w int", "alter table b add w int",
    ),
    "a table's rule writes it": (
        f"{PLAIN}; create table b (v int); create rule r as on delete to b do also delete from a",
        "alter table a add w int", "alter table b add w int",
    ),
    "a publication goes": (
        f"{PLAIN}; create publication {{s}} for table a", ONLY_DEFAULT, "drop publication {s}",
    ),
}  # fmt: skip
"""By what happens: the setup, what one session did and has not committed, and what another does meanwhile."""
LATER: dict[str, set[str]] = {
    "a schema is renamed": {"columns", "indexes"},  # names inside of definitions, which replicas ignore
    "an identity counts otherwise": {"columns"},
    "a publication goes": {"published"},
}
"""What the next change of the table tells of that."""


@pytest.fixture(scope="module")
def shared(source_server: Server) -> Iterator[Tracked]:
    database = source_server.new_database()
    yield Tracked(database)
    database.drop()


@pytest.fixture
def session(shared: Tracked) -> Iterator[Callable[[str], psycopg.Connection[Row]]]:
    """Sessions of a superuser that never wait for long."""
    made: list[psycopg.Connection[Row]] = []

    def begin(schema: str) -> psycopg.Connection[Row]:
        connection = psycopg.connect(shared.database.admin_dsn)
        connection.execute(f"set search_path = {schema}; set lock_timeout = '5s'".encode())
        connection.commit()
        made.append(connection)
        return connection

    yield begin
    for each in made:
        each.close()


def began(shared: Tracked, setup: str) -> str:
    name = f"case_{len(shared.database.execute_as_admin('select 1 from pg_namespace'))}"
    shared.database.execute_as_admin(
        f"create schema {name}; set search_path = {name}; {setup.format(s=name)}"
    )
    shared.messages()
    return name


def told(shared: Tracked) -> list[Json]:
    messages = shared.messages()
    assert [message["error"] for message in messages if "error" in message] == []
    return [change for message in messages for change in message["changes"]]


def await_lock(shared: Tracked, waiting: psycopg.Connection[Row], thread: threading.Thread) -> None:
    """Or its thread's end."""
    query = "select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
    pid = waiting.info.backend_pid
    require(
        lambda: not thread.is_alive() or bool(shared.database.execute_as_admin(query, [pid])),
        5,
        what="the wait",
    )


@pytest.mark.parametrize("case", WHILE_ALTERED)
def test_whoever_alters_a_table_holds_up_nobody_whom_postgresql_lets_go_on(
    shared: Tracked, session: Callable[[str], psycopg.Connection[Row]], case: str
) -> None:
    setup, first, meanwhile = WHILE_ALTERED[case]
    schema = began(shared, setup)
    one, two = session(schema), session(schema)
    one.execute(first.encode())
    two.execute(meanwhile.format(s=schema).encode())
    two.commit()
    one.commit()
    found = told(shared)
    assert [changed(change) for change in found if not changed(change)] == []
    place = f"{schema}_c" if case == "a schema is renamed" else schema
    shared.database.execute_as_admin(f"comment on table {place}.a is 'x'")
    (last,) = told(shared)
    assert changed(last) - LATER.get(case, set()) == {"comment"}


def test_ddl_of_a_parent_and_of_its_child_that_crosses_is_told_by_both(
    shared: Tracked, session: Callable[[str], psycopg.Connection[Row]]
) -> None:
    schema = began(shared, PARENT)
    one, two = session(schema), session(schema)
    one.execute("alter table a add w int default 2")
    two.execute("alter table p set (fillfactor = 50)")
    crossing = threading.Thread(target=one.execute, args=("comment on table p is 'x'",), daemon=True)
    crossing.start()
    await_lock(shared, one, crossing)
    two.commit()
    crossing.join()
    one.commit()
    assert [changed(c) for c in told(shared)] == [{"options"}, {"columns", "shape"}, {"comment"}]


@pytest.mark.parametrize(
    ("setup", "first", "what"),
    [
        (
            "create function f() returns int return 1",
            "create or replace function f() returns int return 2",
            "function f()",
        ),
        ("create domain d as int", "alter domain d set default 3", "domain d"),
        ("create type c as (a int)", "alter type c add attribute b int", "type c"),
    ],
)
def test_two_that_alter_what_postgresql_locks_for_neither_do_not_deadlock(
    shared: Tracked, session: Callable[[str], psycopg.Connection[Row]], setup: str, first: str, what: str
) -> None:
    schema = began(shared, setup)
    one, two = session(schema), session(schema)
    one.execute(first.encode())

    def comment() -> None:
        two.execute(f"comment on {what} is 'two'".encode())
        two.commit()

    crossing = threading.Thread(target=comment, daemon=True)
    crossing.start()
    await_lock(shared, two, crossing)
    one.execute(f"comment on {what} is 'one'".encode())  # for which it needs what `two` has locked
    one.commit()
    crossing.join()
    (failed,) = [message["error"] for message in shared.messages() if "error" in message]
    assert failed.startswith("55P03")


def test_a_child_s_state_names_its_parent_as_it_is_called_now(shared: Tracked) -> None:
    schema = began(shared, PARENT)
    shared.database.execute_as_admin(
        f"alter table {schema}.p rename to q; alter table {schema}.a add w int;"
        f" alter schema {schema} rename to {schema}_n; alter table {schema}_n.a add x int"
    )
    children = [change for change in told(shared) if (change["after"] or {}).get("name") == "a"]
    assert [(c["before"]["inherits"], c["after"]["inherits"]) for c in children] == [
        ([[schema, "q"]],) * 2,
        ([[f"{schema}_n", "q"]],) * 2,
    ]


def test_a_dropped_schema_s_tables_are_told_with_its_name(shared: Tracked) -> None:
    schema = began(shared, PARENT)
    shared.database.execute_as_admin(f"drop schema {schema} cascade")
    gone = {(c["class"], c["before"]["schema"], c["before"]["name"]) for c in told(shared)}
    assert gone == {("schema", None, schema), ("table", schema, "p"), ("table", schema, "a")}


def test_an_index_s_name_of_now_is_in_its_definition(
    shared: Tracked, session: Callable[[str], psycopg.Connection[Row]]
) -> None:
    schema = began(shared, "create table a (v int); create index i on a ((v + 1))")
    one, two = session(schema), session(schema)
    one.execute("lock table a")
    two.execute("alter index i rename to j")
    two.commit()
    one.rollback()
    (change,) = told(shared)
    assert (
        named(change["after"], "indexes", "j")["def"]
        == f"CREATE INDEX j ON {schema}.a USING btree (((v + 1)))"
    )


def test_what_cannot_be_read_now_is_told_with_the_next_change_of_the_object(
    shared: Tracked, session: Callable[[str], psycopg.Connection[Row]]
) -> None:
    schema = began(shared, f"{PLAIN}; create table b (v int)")
    one, two = session(schema), session(schema)
    two.execute("create policy y on b using (v in (select v from a))")
    two.execute(
        "update keepstream.schema_state set state = state || '{\"policies\": []}' where oid = 'b'::regclass"
    )
    two.commit()
    shared.messages()
    one.execute("alter table a add w int")
    two.execute("alter table b add w int")
    two.commit()
    one.rollback()
    (failed,) = shared.messages()
    assert (failed["error"][:5], failed["rewrote"]) == ("55P03", [])
    two.execute("comment on table b is 'x'")
    two.commit()
    (later,) = told(shared)
    assert changed(later) == {"policies", "columns", "shape", "comment"}


def test_a_table_that_was_rewritten_and_cannot_be_told_is_named(shared: Tracked) -> None:
    schema = began(shared, "create table a (v int)")
    admin = shared.database.execute_as_admin
    ((oid,),) = admin(f"select '{schema}.a'::regclass::oid::bigint")
    try:
        admin("alter function keepstream.describe_table rename to hidden")
        admin(f"alter table {schema}.a alter v type bigint")
    finally:
        admin("alter function keepstream.hidden rename to describe_table")
    assert [message["rewrote"] for message in shared.messages() if message["tag"] == "ALTER TABLE"] == [[oid]]


def test_an_install_over_a_running_one_waits_for_who_alters_without_holding_them_up(
    shared: Tracked, session: Callable[[str], psycopg.Connection[Row]]
) -> None:
    schema = began(shared, f"{PLAIN}; create table b (v int check (v > 0))")
    one = session(schema)
    one.execute("alter table a add w int")
    shared.database.execute_as_admin(
        "update keepstream.schema_state set state = state || jsonb_build_object('owner', 'x')"
        f" where class = 'table' and oid = '{schema}.b'::regclass"
    )
    installing = threading.Thread(target=shared.install, daemon=True)
    installing.start()
    with closing(psycopg.connect(shared.database.admin_dsn, autocommit=True)) as watch:
        asleep = (
            "select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
        )
        require(lambda: bool(watch.execute(asleep).fetchall()), 10, what="the install's wait")
    one.execute("alter table b add w int")
    one.commit()
    installing.join(30)
    assert not installing.is_alive()
    assert [changed(change) for change in told(shared)[:2]] == [
        {"columns", "shape"},
        {"columns", "shape", "owner"},
    ]
