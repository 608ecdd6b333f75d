"""DDL travels in the log at its exact place: each row decodes under the version of its place."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from connectors.interfaces import ChangeLog
from pipeline.capture.options import CaptureOptions
from pipeline.capture.pump import Pump
from pipeline.config.model import Tables
from pipeline.dev.process import require
from tests.capturing import LogContent, begun, capture_options, capturing
from tests.fix_postgres import Database
from tests.tracked import install_triggers, schema_messages, told, uninstall_triggers

MARK = "create table mark (id int generated always as identity primary key);"
CUSTOMER = f"{MARK} create table customer (id int primary key, a int);"


@pytest.fixture
def options(source: Database, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> CaptureOptions:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.1)
    source.grant_ownership()
    return capture_options(source, change_log)


def mark(source: Database, content: LogContent) -> None:
    """Until the log holds all that is committed now."""
    source.execute("insert into mark default values")
    ((last,),) = source.execute("select max(id) from mark")
    content.wait(lambda c: last in c.ids("public.mark"), "the mark")


def shown(content: LogContent) -> list[Any]:
    """All but marks."""
    return [one for one in told(content) if one[1] != "public.mark"]


def row(number: int, **values: str | None) -> dict[str, str | None]:
    return {"id": str(number), **values}


# What is there before, the transaction, and what the log has of it.
FOLLOWED: dict[str, tuple[str, str, list[Any]]] = {
    "rename, drop and add columns, rename the table": (
        "",
        "insert into customer values (1, 1); alter table customer rename a to b;"
        " insert into customer values (2, 2); alter table customer drop b, add c text default 'x';"
        " insert into customer values (3, 'y'); alter table customer rename to client;"
        " insert into client values (4, 'z')",
        [
            ("insert", "public.customer", row(1, a="1")),
            ("ALTER TABLE", "public.customer"),
            ("insert", "public.customer", row(2, b="2")),
            ("ALTER TABLE", "public.customer"),
            ("insert", "public.customer", row(3, c="y")),
            ("ALTER TABLE", "public.client"),
            ("insert", "public.client", row(4, c="z")),
        ],
    ),
    "drop and add a column of the same name with another type": (
        "",
        "insert into customer values (1, 1); alter table customer drop a;"
        " insert into customer values (2); alter table customer add a text;"
        " update customer set a = 'x' where id = 1",
        [
            ("insert", "public.customer", row(1, a="1")),
            ("ALTER TABLE", "public.customer"),
            ("insert", "public.customer", row(2)),
            ("ALTER TABLE", "public.customer"),
            ("update", "public.customer", row(1, a="x")),
        ],
    ),
    "a rewrite whose rows are sent": (
        "",
        "insert into customer values (1, 1), (2, null);"
        " alter table customer alter a type text using a || 'x';"
        " insert into customer values (3, 'y')",
        [
            ("insert", "public.customer", row(1, a="1")),
            ("insert", "public.customer", row(2, a=None)),
            ("ALTER TABLE", "public.customer"),
            ("rows", "public.customer", "(1,1x)", "(2,)"),
            ("insert", "public.customer", row(3, a="y")),
        ],
    ),
    "a volatile default": (
        "insert into customer values (1, 1)",
        "alter table customer add c int default (random() * 0)::int; insert into customer values (2, 2, 2)",
        [
            ("ALTER TABLE", "public.customer"),
            ("rows", "public.customer", "(1,1,0)"),
            ("insert", "public.customer", row(2, a="2", c="2")),
        ],
    ),
    "two tables that swap their names": (
        "create table other (id int primary key, z text)",
        "insert into customer values (1, 1); alter table customer rename to swap;"
        " alter table other rename to customer; alter table swap rename to other;"
        " insert into customer values (2, 'z'); insert into other values (3, 3)",
        [
            ("insert", "public.customer", row(1, a="1")),
            ("ALTER TABLE", "public.swap"),
            ("ALTER TABLE", "public.customer"),
            ("ALTER TABLE", "public.other"),
            ("insert", "public.customer", row(2, z="z")),
            ("insert", "public.other", row(3, a="3")),
        ],
    ),
    "another schema": (
        "",
        "insert into customer values (1, 1); alter table customer set schema s;"
        " insert into s.customer values (2, 2)",
        [
            ("insert", "public.customer", row(1, a="1")),
            ("ALTER TABLE", "s.customer"),
            ("insert", "s.customer", row(2, a="2")),
        ],
    ),
    "another key": (
        "alter table customer alter a set not null; insert into customer values (1, 1)",
        "alter table customer drop constraint customer_pkey, add primary key (a);"
        " delete from customer where id = 1",
        [("ALTER TABLE", "public.customer"), ("delete", "public.customer", {"a": "1"})],
    ),
    "another replica identity": (
        "insert into customer values (1, 1)",
        "alter table customer replica identity full; insert into customer values (2, 2)",
        [("ALTER TABLE", "public.customer"), ("insert", "public.customer", row(2, a="2"))],
    ),
    "a generated column": (
        "insert into customer values (1, 1)",
        "alter table customer add g int generated always as (a * 2) stored;"
        " insert into customer values (2, 2); alter table customer drop g;"
        " insert into customer values (3, 3)",
        [
            ("ALTER TABLE", "public.customer"),
            ("rows", "public.customer", "(1,1)"),
            ("insert", "public.customer", row(2, a="2")),
            ("ALTER TABLE", "public.customer"),
            ("insert", "public.customer", row(3, a="3")),
        ],
    ),
    "labels of an enum": (
        "create type mood as enum ('good', 'bad'); alter table customer add m mood;"
        " insert into customer values (1, 1, 'good')",
        "alter type mood rename value 'good' to 'fine'; insert into customer values (2, 2, 'fine')",
        [("ALTER TYPE", "public.mood"), ("insert", "public.customer", row(2, a="2", m="fine"))],
    ),
    "attributes of a composite type": (
        "create type pair as (x int, y int); alter table customer add p pair;"
        " insert into customer values (1, 1, '(1,2)')",
        "alter type pair rename attribute x to z; insert into customer values (2, 2, '(3,4)')",
        [("ALTER TYPE", "public.pair"), ("insert", "public.customer", row(2, a="2", p="(3,4)"))],
    ),
    "a domain": (
        "create domain d as int; alter table customer add p d",
        "alter domain d add check (value > 0); insert into customer values (2, 2, 3)",
        [("ALTER DOMAIN", "public.d"), ("insert", "public.customer", row(2, a="2", p="3"))],
    ),
    "the table is dropped": (
        "insert into customer values (1, 1)",
        "update customer set a = 2; drop table customer",
        [("update", "public.customer", row(1, a="2")), ("DROP TABLE", "public.customer")],
    ),
    "a child": (
        "create table child () inherits (customer); alter table child add primary key (id)",
        "insert into child values (1, 1); alter table customer rename a to b;"
        " insert into child values (2, 2)",
        [
            ("insert", "public.child", row(1, a="1")),
            ("ALTER TABLE", "public.customer", "public.child"),
            ("insert", "public.child", row(2, b="2")),
        ],
    ),
    "partitions": (
        "create table p (id int primary key, v int) partition by range (id);"
        " create table p1 partition of p for values from (0) to (10)",
        "insert into p values (1, 1); alter table p rename v to w; insert into p values (2, 2);"
        " alter table p detach partition p1; insert into p1 values (3, 3);"
        " alter table p attach partition p1 for values from (0) to (20); insert into p values (11, 11)",
        [
            ("insert", "public.p1", row(1, v="1")),
            ("ALTER TABLE", "public.p", "public.p1"),
            ("insert", "public.p1", row(2, w="2")),
            ("ALTER TABLE", "public.p1"),
            ("insert", "public.p1", row(3, w="3")),
            ("ALTER TABLE", "public.p1"),
            ("insert", "public.p1", row(11, w="11")),
        ],
    ),
}


def home(number: int) -> str:
    """Each case has a schema of its own."""
    return f"case{number}"


def of_cases(content: LogContent) -> dict[str, list[Any]]:
    """What the log has of each case, as if its schema were `public`."""
    found: dict[str, list[Any]] = {case: [] for case in FOLLOWED}
    for one in shown(content):
        for number, case in enumerate(FOLLOWED):
            if isinstance(one, tuple) and re.match(rf"{home(number)}(_s)?\.", one[1]):
                found[case].append(
                    tuple(
                        part.replace(f"{home(number)}_s.", "s.").replace(f"{home(number)}.", "public.")
                        if isinstance(part, str)
                        else part
                        for part in one
                    )
                )
    return found


def prepare(source: Database) -> None:
    source.execute(MARK)
    for number, (before, _, _) in enumerate(FOLLOWED.values()):
        name = home(number)
        source.execute(
            f"create schema {name}; create schema {name}_s; set search_path = {name};"
            f" create table customer (id int primary key, a int); {before}"
        )
    source.execute("set search_path = public")


def run_cases(source: Database, statements: Callable[[str], Iterable[str]]) -> None:
    for number, (_, script, _) in enumerate(FOLLOWED.values()):
        source.execute(f"set search_path = {home(number)}")
        for statement in statements(re.sub(r"\bs\b(?=[.;])|(?<=schema )s\b", f"{home(number)}_s", script)):
            source.execute(statement)
    source.execute("set search_path = public")


EXPECTED = {case: expected for case, (_, _, expected) in FOLLOWED.items()}


def test_dml_before_between_and_after_ddl_of_one_transaction_is_under_the_version_of_its_place(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    prepare(source)
    install_triggers(source)
    with capturing(options):
        content = begun(change_log)
        run_cases(source, lambda script: [f"begin; {script}; commit"])
        mark(source, content)
    assert of_cases(content) == EXPECTED


def test_what_happened_while_capture_was_down_is_told_in_the_same_way(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """By then the catalog is that of the end, with rows of each version still to come; even the message by
    which tracking begins is."""
    prepare(source)
    with capturing(options):
        content = begun(change_log)
    install_triggers(source)
    run_cases(source, lambda script: script.split("; "))
    with capturing(options):
        mark(source, content)
    assert of_cases(content) == EXPECTED


def test_capture_may_be_restarted_between_any_two_statements(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute(CUSTOMER)
    install_triggers(source)
    _, script, expected = FOLLOWED["rename, drop and add columns, rename the table"]
    with capturing(options):
        content = begun(change_log)
    for statement in script.split(";"):
        with capturing(options):
            source.execute(statement)
            mark(source, content)
    assert shown(content) == expected


@pytest.mark.parametrize("kind", ["rename, drop and add columns, rename the table", "the table is dropped"])
def test_a_capture_that_is_killed_before_the_anchor_knows_what_the_log_s_messages_told(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    before, script, expected = FOLLOWED[kind]
    source.execute(f"{CUSTOMER} {before}")
    install_triggers(source)
    with monkeypatch.context() as patch:
        patch.setattr(Pump, "_anchor_if_due", lambda pump: None)
        with capturing(options):
            content = begun(change_log)
            source.execute(f"begin; {script}; commit")
            mark(source, content)
    assert len(content.anchors) == 1
    with capturing(options):
        mark(source, content)
        if "client" in script:
            source.execute("insert into client values (5, 'after')")
            expected = [*expected, ("insert", "public.client", row(5, c="after"))]
            mark(source, content)
    assert shown(content) == expected


@pytest.mark.parametrize("kind", ["rename, drop and add columns, rename the table", "the table is dropped"])
def test_what_the_slot_sends_again_is_of_versions_that_the_log_is_past(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    before, script, expected = FOLLOWED[kind]
    source.execute(f"{CUSTOMER} {before}")
    install_triggers(source)
    with monkeypatch.context() as patch:
        patch.setattr(Pump, "_confirm", lambda pump, timeout_s: pump._chain.settle(timeout_s))
        with capturing(options):
            content = begun(change_log)
            source.execute(f"begin; {script}; commit")
            mark(source, content)
    with capturing(options):
        mark(source, content)
    assert shown(content) == expected


def test_a_large_transaction_s_messages_are_read_again_from_its_parts(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(f"{CUSTOMER} create table big (id int primary key, v text)")
    install_triggers(source)
    with monkeypatch.context() as patch:
        patch.setattr(Pump, "_anchor_if_due", lambda pump: None)
        with capturing(options):
            content = begun(change_log)
            source.execute(
                "begin; insert into big select i, repeat('x', 1000) from generate_series(1, 2000) i;"
                " alter table customer rename a to b; insert into big values (0, repeat('y', 2000000));"
                " alter table customer rename to client; commit"
            )
            mark(source, content)
    assert content.parts > 2
    with capturing(options):
        source.execute("insert into client values (1, 1)")
        mark(source, content)
    assert shown(content)[-1] == ("insert", "public.client", row(1, b="1"))


def test_tracking_begins_at_the_installation_and_ends_at_the_removal(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """A column that was added before is announced there; one after the end as without triggers."""
    source.execute(f"{CUSTOMER} insert into customer values (1, 1)")
    with capturing(options):
        content = begun(change_log)
    source.execute("alter table customer add c int default 5")
    install_triggers(source)
    source.execute("alter table customer rename a to b; insert into customer values (2, 2, 2)")
    with capturing(options):
        mark(source, content)
        uninstall_triggers(source)
        mark(source, content)
        source.execute("alter table customer add d int; insert into customer values (3, 3, 3, 3)")
        mark(source, content)
    assert shown(content) == [
        ("columns added", "c"),
        "installed",
        ("ALTER TABLE", "public.customer"),
        ("insert", "public.customer", row(2, b="2", c="2")),
        "removed",
        ("columns added", "d"),
        ("insert", "public.customer", row(3, b="3", c="3", d="3")),
    ]


def test_tables_that_the_configuration_excludes_are_left_out_of_messages(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute(CUSTOMER)
    install_triggers(source)
    with capturing(replace(options, tables=Tables.model_validate({"exclude": ["public.tmp_*"]}))):
        content = begun(change_log)
        source.execute(
            "create table tmp_a (id int primary key); alter table tmp_a add b int;"
            " alter table tmp_a rename to a; drop table customer"
        )
        mark(source, content)
    (made, dropped) = [message for message in schema_messages(content) if message.changes][:2]
    assert (made.changes[0].name, made.changes[0].before) == ("public.a", None)
    assert dropped.changes[0].name == "public.customer"


def test_a_session_that_saw_a_table_as_it_was_takes_nothing_back(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """ALTER INDEX waits for no ALTER TABLE, so its message may say less than was committed by its place."""
    source.execute(CUSTOMER)
    install_triggers(source)
    with capturing(options), source.connect(autocommit=False) as one, source.connect() as two:
        content = begun(change_log)
        one.execute("alter table customer rename a to b")
        renaming = ("alter index customer_pkey rename to customer_key",)
        other = threading.Thread(target=two.execute, args=renaming)
        other.start()
        waits = f"select 1 from pg_locks where pid = {two.info.backend_pid} and not granted"
        require(lambda: not other.is_alive() or bool(source.execute(waits)), 5, what="its wait")
        one.commit()
        other.join()
        source.execute("insert into customer values (1, 1)")
        mark(source, content)
    assert shown(content)[-1] == ("insert", "public.customer", row(1, b="1"))


def test_sequences_are_told_again_behind_a_schema_change(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """One may have been read, and told, before the log had come to the message that makes it on replicas."""
    source.execute(CUSTOMER)
    install_triggers(source)
    with capturing(options):
        content = begun(change_log)
        source.execute("create sequence beside; select nextval('beside') from generate_series(1, 9)")
        content.wait(lambda c: ("beside", 9) in told_sequences(c), "the sequence")
        source.execute("alter sequence beside rename to later; alter table customer add b int")
        content.wait(lambda c: ("later", 9) in told_sequences(c), "the new name")
        with source.connect(autocommit=False) as session:
            session.execute("alter table customer add c int")
            ((xid,),) = session.execute("select pg_current_xact_id()::text::int").fetchall()
        content.wait(lambda c: ("later", 9) in told_sequences(c, behind=xid), "the same again")
    assert ("beside", 9) not in told_sequences(content, behind=xid)


def told_sequences(content: LogContent, *, behind: int = 0) -> list[tuple[str, int]]:
    """All of them, or those that the log has behind a transaction."""
    xids = [0, *(one.xid for one in content.committed)]
    if behind not in xids:
        return []
    return [
        (value.name, value.last_value) for before, value in content.sequences if before >= xids.index(behind)
    ]
