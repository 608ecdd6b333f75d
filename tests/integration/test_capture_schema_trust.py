"""Which schema messages count, and what stops capture where they tell less than what happened."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from connectors.interfaces import ChangeLog
from connectors.postgres.session import connect
from pipeline.capture.ddl.authentic import seal
from pipeline.capture.entries.ended import ENDED
from pipeline.capture.options import CaptureOptions
from pipeline.dev.process import require
from schemas.ddl.message import TOO_LARGE
from schemas.entries import Entries
from tests.capturing import LogContent, RunningCapture, begun, capture_options, capturing
from tests.fix_postgres import Database
from tests.tracked import install_triggers, schema_messages, told, uninstall_triggers

EMIT = "select pg_logical_emit_message(true, %s, %s::text)"


@pytest.fixture
def options(source: Database, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> CaptureOptions:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.1)
    source.grant_ownership()
    source.execute("create table customer (id int primary key, a int)")
    install_triggers(source)
    return capture_options(source, change_log)


def key(source: Database) -> bytes:
    with connect(source.dsn, purpose="test") as session:
        row = session.execute("select key from keepstream.schema_key").fetchone()
    assert row is not None
    return bytes(row[0])


def sealed(text: str, by: bytes) -> str:
    return seal(text.encode(), by) + text


def written(content: LogContent, rows: int) -> None:
    content.wait(lambda c: len(c.ids("public.customer")) >= rows, f"{rows} rows")


def test_nobody_can_forge_a_schema_message(
    source: Database, options: CaptureOptions, change_log: ChangeLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    drop = '{"v":1,"xid":"%s","n":0,"tag":"DROP TABLE","role":"","changes":[]}'
    with capturing(options):
        content = begun(change_log)
        with source.connect(autocommit=False) as forger:

            def emit(prefix: str, text: str) -> None:
                forger.execute(EMIT, [prefix, text])

            ((xid,),) = forger.execute("select pg_current_xact_id()::text").fetchall()
            emit("keepstream.ddl", drop % xid)
            emit("keepstream.ddl", sealed(drop % xid, b"another key"))
            emit("keepstream.ddl.later", sealed(drop % xid, key(source)))
            emit("keepstream.ddl", "")
            forger.execute("insert into customer values (1, 1)")
            forger.commit()
        written(content, 1)
    assert schema_messages(content) == []
    assert [r.message for r in caplog.records].count("forged message left out") == 4


def test_a_genuine_message_counts_once_in_its_own_transaction_and_in_its_order(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """The key is known only to the test: what an intruder could have is a message that he read."""
    text = (
        '{"v":1,"xid":"%s","n":%s,"tag":"%s","changes":[{"class":"other","oid":1,"before":null,"after":{}}]}'
    )
    secret = key(source)
    with capturing(options):
        content = begun(change_log)
        for place, numbers in enumerate([(0, 0, 1, 0), (0,), (0,), (0,)]):
            with source.connect(autocommit=False) as session:
                ((xid,),) = session.execute("select pg_current_xact_id()::text").fetchall()
                for number in numbers:
                    of = int(xid) - {2: 1, 3: 1 << 32}.get(place, 0)
                    message = sealed(text % (of, number, f"T{place}{number}"), secret)
                    session.execute(EMIT, ["keepstream.ddl", message])
                session.commit()
        source.execute("insert into customer values (1, 1)")
        written(content, 1)
    assert [message.tag for message in schema_messages(content)] == ["T00", "T01", "T10"]


def test_numbers_that_somebody_else_gave_stop_capture(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """Who may alter a table may set what counts its messages."""
    running = RunningCapture(options)
    content = begun(change_log)
    source.execute(
        "begin; alter table customer rename a to b; set local keepstream.ddl_messages = '';"
        " alter table customer rename b to c; commit"
    )
    assert running.ended_with().code == "schema-disordered"
    assert content.read().committed == []


def disable(source: Database) -> None:
    source.execute_as_admin("alter event trigger keepstream_ddl disable")


def enable(source: Database) -> None:
    source.execute_as_admin("alter event trigger keepstream_ddl enable always")


STOPPING: dict[str, tuple[str, str]] = {
    "a name": ("alter table customer rename to client; insert into client values (1, 1)", "table-renamed"),
    "a rewrite": ("alter table customer alter a type int using a + 1", "schema-changed"),
    "a drop": ("drop table customer", "publication-changed"),
}


@pytest.mark.parametrize("again", [False, True], ids=["disabled", "enabled again"])
@pytest.mark.parametrize(("script", "code"), STOPPING.values(), ids=STOPPING)
def test_ddl_while_a_trigger_is_disabled_stops_capture_as_without_triggers(
    source: Database, options: CaptureOptions, change_log: ChangeLog, script: str, code: str, again: bool
) -> None:
    running = RunningCapture(options)
    content = begun(change_log)
    disable(source)
    source.execute(script)
    if again:
        enable(source)
    assert running.ended_with().code == code
    assert content.read().ids("public.customer") == [] or code == "table-renamed"


@pytest.mark.parametrize("again", [False, True], ids=["disabled", "enabled again"])
def test_columns_that_are_added_while_a_trigger_is_disabled_are_followed_as_without_triggers(
    source: Database, options: CaptureOptions, change_log: ChangeLog, again: bool
) -> None:
    with capturing(options) as running:
        content = begun(change_log)
        disable(source)
        source.execute("alter table customer add b int default 5; insert into customer values (1, 1, 1)")
        if again:
            enable(source)
        source.execute("alter table customer add c int; insert into customer values (2, 2, 2, 2)")
        written(content, 2)
        install_triggers(source)
        source.execute("alter table customer rename b to d; insert into customer values (3, 3, 3, 3)")
        written(content, 3)
        assert running.schema_changes == {"tracked": True, "ended_at": None, "reason": None}
    shown = [one for one in told(content) if one[0] != "ALTER TABLE" or one[1] != "public.customer"]
    assert ("columns added", "b") in shown
    assert [one[2] for one in shown if one[0] == "insert"] == [
        {"id": "1", "a": "1", "b": "1"},
        {"id": "2", "a": "2", "b": "2", "c": "2"},
        {"id": "3", "a": "3", "d": "3", "c": "3"},
    ]


def test_a_column_without_a_row_that_is_added_while_a_trigger_is_disabled_is_followed(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        content = begun(change_log)
        disable(source)
        source.execute("alter table customer add b int default 5")
        content.wait(lambda c: ("columns added", "b") in told(c), "the column")
    assert content.ids("public.customer") == []


def test_a_trigger_that_is_disabled_without_ddl_does_not_stop_capture(
    source: Database, options: CaptureOptions, change_log: ChangeLog, caplog: pytest.LogCaptureFixture
) -> None:
    with capturing(options):
        content = begun(change_log)
        disable(source)
        ended = "schema changes are not tracked any more"
        content.wait(lambda c: ended in [r.message for r in caplog.records], "the warning")
        source.execute("insert into customer values (1, 1)")
        written(content, 1)
    assert content.ids("public.customer") == [1]


def test_that_tracking_ended_is_said_across_restarts_until_somebody_decides(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    def is_anchored(content: LogContent) -> bool:
        anchor = content.follower.last_anchor
        return anchor is not None and ENDED in Entries.parse(anchor.publication)

    with capturing(options) as running:
        content = begun(change_log)
        disable(source)
        content.wait(is_anchored, "the end of tracking")
        ended = running.schema_changes
    assert ended["reason"] == "the source's event triggers are missing or disabled"
    assert not ended["tracked"]
    assert abs(ended["ended_at"] - time.time()) < 60
    with capturing(options) as running:
        source.execute("insert into customer values (1, 1)")
        written(content, 1)
        assert running.schema_changes == ended
        uninstall_triggers(source)
        unsaid = {"tracked": False, "ended_at": None, "reason": None}
        require(lambda: running.schema_changes == unsaid, 10, what="the decision")


def test_a_change_that_is_told_does_not_hide_rows_that_were_rewritten_without_a_word(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 3600.0)
    source.execute("insert into customer values (7, 7)")
    running = RunningCapture(options)
    content = begun(change_log)
    disable(source)
    source.execute("alter table customer alter a type int using a + 1")
    enable(source)
    source.execute("alter table customer add b int; insert into customer values (1, 1, 1)")
    error = running.ended_with()
    assert error.code == "schema-changed"
    assert "it was rewritten while an event trigger of the source was disabled" in error.message
    assert (told(content.read()), content.ids("public.customer")) == ([], [])


def test_a_table_that_was_copied_by_vacuum_full_and_altered_behind_a_disabled_trigger_is_followed(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        content = begun(change_log)
        source.execute("insert into customer values (1, 1)")
        written(content, 1)
        source.execute_as_admin("vacuum full customer")
        disable(source)
        enable(source)
        source.execute("alter table customer add b int; insert into customer values (2, 2, 2)")
        written(content, 2)
    assert content.ids("public.customer") == [1, 2]


def test_ddl_beside_installs_is_followed(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    def alter() -> None:
        with closing(source.connect()) as session:
            for number in range(10):
                names = ("a", "b") if number % 2 == 0 else ("b", "a")
                session.execute("alter table customer rename {} to {}".format(*names).encode())
                session.execute(f"insert into customer values ({number}, 1)".encode())

    with capturing(options):
        content = begun(change_log)
        altering = threading.Thread(target=alter)
        altering.start()
        while altering.is_alive():
            install_triggers(source)
        altering.join()
        written(content, 10)
    assert [message.tag for message in schema_messages(content) if message.tag] == ["ALTER TABLE"] * 10


def test_columns_that_are_added_beside_a_first_install_are_followed(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    uninstall_triggers(source)

    def alter() -> None:
        with closing(source.connect()) as session:
            for number in range(10):
                session.execute(f"alter table customer add c{number} int default 1".encode())
                session.execute(f"insert into customer values ({number}, 1)".encode())

    with capturing(options):
        content = begun(change_log)
        altering = threading.Thread(target=alter)
        altering.start()
        content.wait_for(3)
        install_triggers(source)
        altering.join()
        written(content, 10)
    assert {"columns added", "insert"} <= {one[0] for one in told(content)}


def test_a_trigger_that_was_disabled_for_a_while_without_ddl_changes_nothing(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        content = begun(change_log)
    disable(source)
    source.execute("insert into customer values (1, 1)")
    enable(source)
    with capturing(options):
        source.execute("alter table customer rename a to b; insert into customer values (2, 2)")
        written(content, 2)
    assert [message.tag for message in schema_messages(content)] == ["ALTER TABLE"]


def test_what_is_committed_behind_a_schema_s_new_name_is_told_by_that(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create schema s; create table s.t (id int primary key)")
    with capturing(options), source.connect(autocommit=False) as slow:
        content = begun(change_log)
        slow.execute(
            "alter table s.t add c float8 default random(); create table s.u (id int primary key, n int);"
            " create index i on s.u (n); alter table s.u add check (n > 0 and current_schema() <> 's.u')"
        )
        source.execute("alter schema s rename to z")
        slow.commit()
        source.execute("insert into z.t values (1, 1)")
        content.wait(lambda c: c.ids("z.t") == [1], "the row")
    names = [change.name for message in schema_messages(content) for change in message.changes]
    assert names == ["z", "z.t", "z.u", "z.u", "z.u"]
    ((index,),) = [
        [index["def"] for index in change.after["indexes"] if index["name"] == "i"]
        for message in schema_messages(content)
        for change in message.changes
        if message.tag == "CREATE INDEX" and change.after is not None
    ]
    assert index == 'CREATE INDEX i ON "z".u USING btree (n)'
    assert [m.rows.schema for m in schema_messages(content) if m.rows] == ["z"]


HANDS: dict[str, str] = {
    "a table is taken out": "alter publication keepstream_crm drop table customer",
    "a table is taken out and put back": (
        "alter publication keepstream_crm drop table customer; insert into customer values (1, 1);"
        " alter publication keepstream_crm add table customer"
    ),
    "a table is taken out and dropped": (
        "alter publication keepstream_crm drop table customer; insert into customer values (1, 1);"
        " drop table customer"
    ),
    "the publication is dropped": "drop publication keepstream_crm",
}


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("script", HANDS.values(), ids=HANDS)
def test_a_publication_that_is_altered_by_hand_stops_capture(
    source: Database, options: CaptureOptions, change_log: ChangeLog, script: str, down: bool
) -> None:
    running = RunningCapture(options)
    begun(change_log)
    if down:
        running.end()
    with connect(source.dsn, purpose="test") as session:
        session.execute("set search_path = public")
        for statement in script.split("; "):
            session.execute(statement.encode())
    if down:
        running = RunningCapture(options)
    assert running.ended_with().code == "publication-changed"


FAILING = """
    create or replace function keepstream.describe_around(id oid, held jsonb) returns jsonb
    language plpgsql stable as 'begin raise exception using errcode = ''40P01'', message = ''crossed''; end';
    alter function keepstream.describe_table rename to described;
    create function keepstream.describe_table(id oid) returns jsonb language plpgsql stable as
    'begin raise exception using errcode = ''40P01'', message = ''crossed''; end'
"""
WORKING = """
    drop function keepstream.describe_table(oid); alter function keepstream.described rename to describe_table
"""


def test_what_a_failing_trigger_left_out_is_told_with_the_next_change_of_the_table(
    source: Database, options: CaptureOptions, change_log: ChangeLog, caplog: pytest.LogCaptureFixture
) -> None:
    with capturing(options):
        content = begun(change_log)
        source.execute_as_admin(FAILING)
        source.execute("create index on customer (a); comment on table customer is 'x'")
        source.execute("insert into customer values (1, 1)")
        written(content, 1)
        source.execute_as_admin(WORKING)
        source.execute("alter table customer add b int; insert into customer values (2, 2, 2)")
        written(content, 2)
    (message,) = schema_messages(content)
    before, after = message.changes[0].before or {}, message.changes[0].after or {}
    assert (len(before["indexes"]), len(after["indexes"]), after["comment"]) == (1, 2, "x")
    assert [r.message for r in caplog.records].count(
        "schema change is told with the next one of the same object"
    ) == 2


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("alter table customer rename a to b", "schema-changed"),
        ("alter table customer rename a to b; insert into customer values (1, 1)", "schema-changed"),
        ("alter table customer alter a type int using a + 1", "schema-error"),
    ],
)
def test_what_rows_depend_on_and_a_failing_trigger_left_out_stops_capture(
    source: Database, options: CaptureOptions, change_log: ChangeLog, script: str, code: str
) -> None:
    source.execute("insert into customer values (7, 7)")
    running = RunningCapture(options)
    content = begun(change_log)
    source.execute_as_admin(FAILING)
    source.execute(script)
    assert running.ended_with().code == code
    assert content.read().ids("public.customer") == []


def test_an_error_of_the_trigger_stops_capture_with_its_text_where_rows_were_rewritten(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    running = RunningCapture(options)
    begun(change_log)
    source.execute_as_admin("alter table keepstream.schema_state rename to elsewhere")
    source.execute("alter table customer alter a type int using a + 1")
    error = running.ended_with()
    assert error.code == "schema-error"
    assert "an event trigger of the source could not tell what ALTER TABLE did: 42P01" in error.message


def test_a_rewritten_table_that_is_too_large_is_told_without_its_rows_and_capture_goes_on(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 0")
    with capturing(options):
        content = begun(change_log)
        source.execute(
            "begin; insert into customer values (1, 1); alter table customer alter a type text;"
            " insert into customer values (2, 'two'); commit"
        )
        written(content, 2)
    with capturing(options):  # its start proves the table's new shape by what the log says
        source.execute("insert into customer values (3, 'three')")
        written(content, 3)
    [message] = schema_messages(content)
    assert [change.rewritten for change in message.changes] == [TOO_LARGE]
    assert told(content) == [
        ("insert", "public.customer", {"id": "1", "a": "1"}),
        ("ALTER TABLE", "public.customer"),
        ("insert", "public.customer", {"id": "2", "a": "two"}),
        ("insert", "public.customer", {"id": "3", "a": "three"}),
    ]


def test_a_missing_key_stops_a_capture_that_relies_on_it(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        begun(change_log)
    source.execute_as_admin("drop table keepstream.schema_key cascade")
    assert RunningCapture(options).ended_with().code == "ddl-key-missing"


def test_a_capture_that_runs_knows_the_messages_of_a_removal(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        content = begun(change_log)
        source.execute("alter table customer rename a to b")
        uninstall_triggers(source)
        source.execute("insert into customer values (1, 1)")
        written(content, 1)
        install_triggers(source)
        source.execute("alter table customer rename b to c; insert into customer values (2, 2)")
        written(content, 2)
    expected: list[Any] = [
        ("ALTER TABLE", "public.customer"),
        "removed",
        ("insert", "public.customer", {"id": "1", "b": "1"}),
        "installed",
        ("ALTER TABLE", "public.customer"),
        ("insert", "public.customer", {"id": "2", "c": "2"}),
    ]
    assert told(content) == expected


RENAME = "alter table customer rename a to b; insert into customer values (1, 1)"
ADD = "alter table customer add c int default 5; insert into customer values (2, 2, 2)"
WHILE_DOWN: dict[str, tuple[list[str], list[Any]]] = {
    "altered and removed": ([RENAME, "remove"], ["ALTER TABLE", "insert", "removed"]),
    "altered, removed and a column added": (
        [RENAME, "remove", ADD], ["ALTER TABLE", "insert", "removed", "columns added", "insert"],
    ),
    "removed, installed and altered": (
        ["remove", "install", RENAME], ["removed", "installed", "ALTER TABLE", "insert"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("scripts", "expected"), WHILE_DOWN.values(), ids=WHILE_DOWN)
def test_a_removal_while_capture_is_down_is_taken_in_its_place(
    source: Database, options: CaptureOptions, change_log: ChangeLog, scripts: list[str], expected: list[Any]
) -> None:
    with capturing(options):
        content = begun(change_log)
    acts = {"remove": uninstall_triggers, "install": install_triggers}
    for script in scripts:
        acts.get(script, lambda source, script=script: source.execute(script))(source)
    with capturing(options):
        content.wait(lambda c: len(told(c)) >= len(expected), "what happened meanwhile")
        source.execute("alter table customer add last int default 9; insert into customer (id) values (9)")
        written(content, sum(each == "insert" for each in expected) + 1)
    found = [each if isinstance(each, str) else each[0] for each in told(content)]
    assert found[: len(expected)] == expected
