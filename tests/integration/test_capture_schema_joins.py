"""Tables that join, and tables that leave, while schema messages are tracked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.interfaces import ChangeLog
from connectors.postgres.session import connect
from pipeline.capture.joins import definitions, joining
from pipeline.capture.options import CaptureOptions
from pipeline.config.model import Keyless, Tables
from tests.capturing import LogContent, RunningCapture, begun, capture_options, capturing, once
from tests.fix_postgres import Database
from tests.tracked import install_triggers, schema_messages, told

MARK = "create table mark (id int generated always as identity primary key);"


@pytest.fixture
def options(source: Database, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> CaptureOptions:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.1)
    source.grant_ownership()
    source.execute(MARK)
    install_triggers(source)
    return capture_options(source, change_log)


def joined(content: LogContent, tables: int = 1, *, prefix: str = "keepstream.join") -> None:
    content.wait(lambda c: told(c).count(prefix) >= tables, "the joining")


def rows(content: LogContent, table: str, count: int) -> None:
    content.wait(lambda c: len(c.ids(table)) >= count, f"{count} rows of {table}")


def test_a_new_table_is_told_when_it_is_made_and_joins_as_it_is_then(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        content = begun(change_log)
        source.execute(
            "create table lead (id int primary key, a int); insert into lead values (1, 1);"
            " alter table lead rename a to b"
        )
        joined(content)
        source.execute("insert into lead values (2, 2); alter table lead drop b; insert into lead values (3)")
        rows(content, "public.lead", 2)
    shown = told(content)
    assert shown[0] == ("CREATE TABLE", "public.lead")
    assert shown[1] == ("ALTER TABLE", "public.lead")
    assert shown[2] == "keepstream.join"
    assert shown[-3:] == [
        ("insert", "public.lead", {"id": "2", "b": "2"}),
        ("ALTER TABLE", "public.lead"),
        ("insert", "public.lead", {"id": "3"}),
    ]


def test_rows_of_a_table_that_was_rewritten_before_it_joined_come_with_its_joining_alone(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with source.connect(autocommit=False) as session, capturing(options):
        content = begun(change_log)
        session.execute(
            "create table lead (id int primary key, a int); insert into lead values (1, 1);"
            " alter table lead alter a type text using a || 'x', add r float default random()"
        )
        session.commit()
        joined(content)
    changes = [change for message in schema_messages(content) for change in message.changes]
    assert [change.rewritten for change in changes if change.name == "public.lead"] == ["", "unpublished"]
    assert not any(message.rows for message in schema_messages(content))


def test_ddl_between_the_reading_of_a_definition_and_the_joining_is_before_the_joining(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = definitions._read
    altered: list[object] = []

    def read_then_alter(*args: object) -> object:
        definition = read(*args)  # type: ignore[arg-type]
        if not altered:
            altered.append(source.execute("alter table lead rename a to b"))
        return definition

    monkeypatch.setattr(definitions, "_read", read_then_alter)
    with capturing(options):
        content = begun(change_log)
        source.execute("create table lead (id int primary key, a int); insert into lead values (1, 1)")
        joined(content)
        source.execute("insert into lead values (2, 2)")
        rows(content, "public.lead", 1)
    assert told(content)[:3] == [
        ("CREATE TABLE", "public.lead"),
        ("ALTER TABLE", "public.lead"),
        "keepstream.join",
    ]
    assert told(content)[-1] == ("insert", "public.lead", {"id": "2", "b": "2"})


@pytest.mark.parametrize(
    ("script", "rows_limit"),
    [
        ("alter table lead rename to client; insert into client values (2, 2)", None),
        ("alter table lead rename to client; insert into client values (2, 2)", 0),
        ("alter table lead rename a to b; insert into lead values (2, 2)", None),
        ("insert into lead values (2, 2); drop table lead", None),
    ],
)
def test_ddl_right_behind_a_joining_is_followed_though_capture_was_killed_before_it_knew_of_its_commit(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    rows_limit: int | None,
) -> None:
    """`rows_limit`: 0 if it joins without its rows."""

    class Killed(BaseException):
        pass

    def kill() -> None:
        source.execute(script)
        raise Killed

    if rows_limit is not None:
        monkeypatch.setattr(joining, "JOIN_LIMIT_BYTES", rows_limit)
    once(monkeypatch, joining.__name__, "capture.after_join_committed", kill)
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    killed = RunningCapture(options)
    content = begun(change_log)
    source.execute("create table lead (id int primary key, a int); insert into lead values (1, 1)")
    killed._thread.join(20)
    with capturing(options):
        joined(content, prefix="keepstream.join" if rows_limit is None else "keepstream.join.empty")
        source.execute("insert into mark default values")
        rows(content, "public.mark", 1)
    changes = [one for one in told(content) if one[0] in ("insert", "ALTER TABLE", "DROP TABLE")]
    assert len(changes) == 3
    assert {one[2]["id"] for one in changes if one[0] == "insert"} == {"2", "1"}


def test_a_table_that_is_dropped_and_made_again_joins_again(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table lead (id int primary key, a int)")
    with capturing(options):
        content = begun(change_log)
        source.execute(
            "insert into lead values (1, 1); drop table lead; create table lead (id int primary key, b text)"
        )
        joined(content)
        source.execute("insert into lead values (2, 'x')")
        rows(content, "public.lead", 2)
    shown = [one for one in told(content) if one[0] in ("insert", "DROP TABLE", "CREATE TABLE")]
    assert shown == [
        ("insert", "public.lead", {"id": "1", "a": "1"}),
        ("DROP TABLE", "public.lead"),
        ("CREATE TABLE", "public.lead"),
        ("insert", "public.lead", {"id": "2", "b": "x"}),
    ]


def test_a_renamed_schema_takes_its_tables_along(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """Rows that were written before it and committed behind it, too: it locks no table."""
    source.execute(
        "create schema s; create table s.lead (id int primary key); create table s.x (id int primary key)"
    )
    with source.connect(autocommit=False) as earlier, capturing(options):
        content = begun(change_log)
        source.execute("insert into s.lead values (1)")
        earlier.execute("insert into s.lead values (2); insert into s.x values (2)")
        source.execute("alter schema s rename to t")
        earlier.commit()
        source.execute("insert into t.lead values (3); insert into mark default values")
        rows(content, "public.mark", 1)
    shown = told(content)
    assert shown[0] == ("insert", "s.lead", {"id": "1"})
    assert shown[1][0] == "ALTER SCHEMA"
    assert shown[2:5] == [
        ("insert", "t.lead", {"id": "2"}),
        ("insert", "t.x", {"id": "2"}),
        ("insert", "t.lead", {"id": "3"}),
    ]


def test_a_table_whose_key_is_dropped_leaves_and_comes_back(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """Without REPLICA IDENTITY FULL its UPDATE would fail: it has a type that lacks an equality."""
    source.execute("create table lead (id int primary key, a int)")
    with capturing(replace(options, keyless=Keyless.EXCLUDE)) as running:
        content = begun(change_log)
        source.execute("insert into lead values (1, 1); alter table lead drop constraint lead_pkey")
        source.execute("insert into lead values (2, 2)")
        with connect(source.dsn, purpose="test") as session:
            session.execute("select 1")
        source.execute("insert into mark default values")
        rows(content, "public.mark", 1)
        content.wait(lambda c: any(m.role != "crm" for m in schema_messages(c)), "our own message")
        source.execute("update lead set a = 3 where id = 2; alter table lead add primary key (id)")
        rows(content, "public.lead", 3)
        assert running.last_error is None
    assert [one[2] for one in told(content) if one[0] == "update"] == [{"id": "2", "a": "3"}]


def test_a_table_that_is_selected_later_joins_and_one_that_is_excluded_later_is_replicated_on(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """With its schema changes: those of an excluded table are left out only if it is not published."""
    source.execute(
        "create table lead (id int primary key); insert into lead values (1);"
        " create table trip (id int primary key)"
    )
    with capturing(replace(options, tables=Tables.model_validate({"exclude": ["public.lead"]}))):
        content = begun(change_log)
        source.execute("insert into lead values (2); insert into trip values (1)")
        rows(content, "public.trip", 1)
    assert content.ids("public.lead") == []
    with capturing(replace(options, tables=Tables.model_validate({"exclude": ["public.trip"]}))):
        joined(content)
        source.execute(
            "insert into lead values (3); alter table trip add a int; insert into trip values (2, 2)"
        )
        rows(content, "public.trip", 2)
    assert told(content)[-4:] == [
        "keepstream.join.rows",
        ("insert", "public.lead", {"id": "3"}),
        ("ALTER TABLE", "public.trip"),
        ("insert", "public.trip", {"id": "2", "a": "2"}),
    ]
