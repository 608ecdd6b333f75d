"""A published table whose UPDATE and DELETE fail in the application is helped, or leaves (decision 010)."""

from __future__ import annotations

import pkgutil
import threading
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from connectors.interfaces import ChangeLog
from connectors.postgres.catalog.publication import read_publication
from connectors.postgres.catalog.tables import Table, list_tables
from connectors.postgres.replication.stream import Batch, SlotStream
from connectors.postgres.session import connect
from pipeline.capture.entries.announcements import LEAVES
from pipeline.capture.joins.definitions import Definition, Definitions
from pipeline.capture.joins.protection import Protected, Protection
from pipeline.capture.options import CaptureOptions, FollowingReplica
from pipeline.check.publication import check_endangered
from pipeline.config import Initial, Keyless, TablePattern, Tables
from pipeline.dev.process import require
from pipeline.selection import EXCLUDED
from schemas.change import Message
from schemas.entries import Entries
from schemas.errors import RetryLater
from schemas.lsn import Lsn
from tests.capturing import LogContent, RunningCapture, begun, capture_options, capturing, once
from tests.copying import begin_following
from tests.fix_postgres import Database
from tests.postgres_releases import needs_release
from tests.tracked import install_triggers

pytestmark = needs_release("source", 18)  # virtual columns

VIRTUAL = "alter table visit add twice int generated always as (n * 2) virtual"
KEY = "alter table visit add primary key (n); alter table visit replica identity default"
END_OWN_SESSION = """
    select pg_terminate_backend(pid, 5000) from pg_stat_activity
     where application_name like 'keepstream:%:join' and datname = current_database()
"""
STORED = "alter table visit add twice int generated always as (n * 2) stored"


@pytest.fixture
def options(source: Database, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> CaptureOptions:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.6)
    monkeypatch.setattr("pipeline.capture.housekeeping.HEARTBEAT_EVERY_S", 0.2)
    source.grant_ownership()
    source.execute("create table visit (n int, page text); insert into visit values (1, 'a')")
    source.execute("create table other (id int primary key)")
    return replace(capture_options(source, change_log), keyless=Keyless.FULL)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Protection]:
    """One of each look at the tables, as it begins."""
    seen: list[Protection] = []
    look = Protection.look

    def counted(protection: Protection, *given: Any) -> Protected:
        seen.append(protection)
        return look(protection, *given)

    monkeypatch.setattr(Protection, "look", counted)
    return seen


def require_another_look(looks: list[Protection]) -> None:
    """One that began since now, and has ended."""
    before = len(looks)
    require(lambda: len(looks) > before + 1, 10, what="a look behind another one")


def listed(source: Database) -> set[str]:
    with connect(source.dsn, purpose="test") as session:
        found = read_publication(session, "keepstream_crm")
    return {table.name for table in found.tables} if found else set()


def way_back(running: RunningCapture, table: str | None = None) -> str:
    """Of this table, else of the first one that left."""
    reported = running.reports[-1].left if running.reports else ()
    return next((each.fix for each in reported if table in (None, each.table)), "")


def left(running: RunningCapture) -> list[str]:
    return [each.table for each in running.reports[-1].left] if running.reports else []


def reasons(running: RunningCapture) -> str:
    return " ".join(each.reason for each in running.reports[-1].not_replicated) if running.reports else ""


def prefixes(content: LogContent) -> list[str]:
    changes = [change for one in content.committed for change in one.changes]
    return [change.payload.prefix for change in changes if isinstance(change.payload, Message)]


def lose_everything() -> None:
    raise RetryLater("killed by the test", code="killed")


def test_a_stored_generated_column_makes_no_update_fail(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        content = begun(change_log)
        source.execute(f"{STORED}; update visit set page = 'b'; insert into visit values (2, 'c')")
        content.wait(lambda c: len(c.rows("public.visit")) == 2, "both rows")
        assert listed(source) == {"other", "visit"}
    assert content.rows("public.visit") == [("UPDATE", [b"1", b"b"]), ("INSERT", [b"2", b"c"])]


def test_a_key_with_a_generated_column_is_none_for_replicas_and_becomes_all_columns_before_the_first_row(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """PostgreSQL lets the application write, where the publication sends generated columns."""
    source.execute(f"{STORED}; alter table visit add primary key (twice)")
    source.execute(
        "create publication keepstream_crm for table only visit, only other"
        " with (publish_generated_columns = stored)"
    )
    with connect(source.dsn, purpose="test") as session:
        tables = list_tables(session, publication="keepstream_crm")
        publication = read_publication(session, "keepstream_crm")
        (finding,) = check_endangered(session, tables, publication, Keyless.FULL, established=False)
    assert (finding.code, finding.message) == (
        "replica-identity",
        "its UPDATE and DELETE do not tell replicas of which row they are: primary key contains a generated"
        " column",
    )
    with capturing(options) as running:
        content = begun(change_log)
        source.execute("update visit set page = 'b'; update visit set n = 2")
        content.wait(lambda c: len(c.rows("public.visit")) == 2, "both rows")
        assert running.error is None
    assert content.rows("public.visit") == [("UPDATE", [b"1", b"b"]), ("UPDATE", [b"2", b"b"])]


def test_a_table_that_cannot_be_helped_leaves_and_joins_again(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options) as running:
        content = begun(change_log)
        source.execute(f"update visit set page = 'b'; {VIRTUAL}")
        with pytest.raises(psycopg.Error, match="cannot update table"):
            source.execute("update visit set page = 'c'")
        require(lambda: listed(source) == {"other"}, 10, what="the table's leaving")
        source.execute("update visit set page = 'd'; insert into other values (1)")
        content.wait(lambda c: c.ids("public.other") == [1], "another table's row")
        require(lambda: left(running) == ["public.visit"], 10, what="the report")
        require(lambda: "drop table" in way_back(running), 10, what="the way back")
        report = running.reports[-1]
        assert report.endangered == ()
        assert [each.table for each in report.not_replicated] == ["public.visit"]
        assert "add primary key" in report.left[0].fix

        source.execute(KEY)
        content.wait(lambda c: "keepstream.join.rows" in prefixes(c), "the joining")
        source.execute("update visit set page = 'e'")
        content.wait(lambda c: len(c.rows("public.visit")) == 2, "the row")
        require(lambda: left(running) == [], 10, what="the report's end")
        assert running.error is None
    assert content.rows("public.visit") == [("UPDATE", [b"1", b"b"]), ("UPDATE", [b"1", b"e"])]


@pytest.mark.parametrize("killed_at", ["capture.after_leave_announced", "capture.after_leave"])
def test_p11_a_capture_killed_while_a_table_leaves_continues_with_its_last_rows(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: str,
) -> None:
    """Row 2 is written when the leaving was announced, and logged only by the capture after."""
    killed = False

    def failpoint(reached: str) -> None:
        nonlocal killed
        if reached == "capture.after_leave_announced" and not killed:
            source.execute("insert into visit values (2, 'late')")
        if reached == killed_at and not killed:
            killed = True
            lose_everything()

    monkeypatch.setattr("pipeline.capture.joins.protection.failpoint", failpoint)
    with capturing(options) as running:
        content = begun(change_log)
        source.execute(VIRTUAL)
        require(lambda: killed and listed(source) == {"other"}, 10, what="the table's leaving")
        source.execute("update visit set page = 'unseen'; insert into other values (1)")
        content.wait(lambda c: c.ids("public.other") == [1], "another table's row")
        assert running.last_error == "killed"
        require(lambda: left(running) == ["public.visit"], 10, what="the report")
        assert running.error is None
    assert content.rows("public.visit") == [("INSERT", [b"2", b"late"])]


@pytest.mark.parametrize(
    "after", ["ownsession.connect", "protection.Protection._announce", "protection.Protection._drop"]
)
def test_a_session_that_is_lost_while_a_table_leaves_is_no_bug_and_is_tried_again(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
) -> None:
    step = pkgutil.resolve_name(f"pipeline.capture.joins.{after}")
    lost = False

    def step_then_lost(*arguments: Any, **named: Any) -> Any:
        nonlocal lost
        result = step(*arguments, **named)
        if not lost:
            lost = True
            source.execute_as_admin(END_OWN_SESSION)
        return result

    monkeypatch.setattr(f"pipeline.capture.joins.{after}", step_then_lost)
    with capturing(options) as running:
        begun(change_log)
        source.execute(VIRTUAL)
        require(lambda: running.last_error == "connection-lost", 10, what="the loss")
        require(lambda: listed(source) == {"other"}, 10, what="the table's leaving")
    assert running.error is None


ALTERED = {
    "another type": "alter table visit drop twice; alter table visit alter n type bigint",
    "rows rewritten": "alter table visit drop twice; alter table visit alter n type int using n + 1",
    "a column dropped": "alter table visit drop page cascade",
    "a generated column made plain": "alter table visit alter words drop expression",
    "another name": "alter table visit rename to visited; create table visit (id int primary key)",
    "made again": "drop table visit; create table visit (id int primary key, page int)",
}


TRACKED = {
    f"{case}, with schema messages": (ALTERED[case], True) for case in ("rows rewritten", "another name")
}


@pytest.mark.parametrize(
    ("altered", "tracked"),
    [*((script, False) for script in ALTERED.values()), *TRACKED.values()],
    ids=[*ALTERED, *TRACKED],
)
def test_rows_from_before_a_table_left_are_logged_as_they_were_whatever_it_is_by_then(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    altered: str,
    tracked: bool,
) -> None:
    """Row 2 is written when the leaving was announced, and logged only by the capture after."""

    def die() -> None:
        source.execute(altered)
        lose_everything()

    def failpoint(reached: str) -> None:
        if reached == "capture.after_leave_announced":
            source.execute("insert into visit values (2, 'late')")
        if reached == "capture.after_leave":
            die()

    source.execute("alter table visit add words text generated always as (page || page) stored")
    if tracked:
        install_triggers(source)
    monkeypatch.setattr("pipeline.capture.joins.protection.failpoint", failpoint)
    with capturing(options) as running:
        content = begun(change_log)
        source.execute(VIRTUAL)
        content.wait(lambda c: bool(c.rows("public.visit")), "the row")
        assert running.last_error == "killed"
    assert content.rows("public.visit") == [("INSERT", [b"2", b"late"])]


def test_a_table_gets_its_identity_inside_a_large_transaction_too(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction's end comes only once the application's UPDATE went through."""
    armed, helped = threading.Event(), threading.Event()
    read = SlotStream.read

    def without_end(stream: SlotStream, timeout_s: float) -> Batch:
        if held and helped.is_set():
            return held.pop()
        batch = read(stream, timeout_s)
        if not helped.is_set() and any(message[:1] == b"C" for message in batch.messages):
            end = [i for i, message in enumerate(batch.messages) if message[:1] == b"C"][-1]
            held.append(replace(batch, messages=batch.messages[end:]))
            return replace(batch, messages=batch.messages[:end])
        return batch

    held: list[Batch] = []
    monkeypatch.setattr("connectors.postgres.replication.stream.SlotStream.read", without_end)
    source.execute("alter table visit add primary key (n)")
    with capturing(options):
        content = begun(change_log)
        armed.set()
        source.execute("insert into visit values (2, 'b')")
        require(lambda: bool(held), 10, what="the open transaction")
        source.execute("alter table visit drop constraint visit_pkey")
        full = "select relreplident::text from pg_class where relname = 'visit'"
        require(lambda: source.execute(full) == [("f",)], 10, what="the identity")
        assert content.read().rows("public.visit") == []
        helped.set()
        content.wait(lambda c: bool(c.rows("public.visit")), "the row")


def test_a_table_that_left_joins_again_only_behind_its_last_rows(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Capture reads nothing from the slot between the leaving and the table's new key, name and type."""
    taken = threading.Event()

    def failpoint(reached: str) -> None:
        if reached == "capture.after_leave_announced":
            source.execute("insert into visit values (2, 'late')")
        if reached == "capture.after_leave":
            monkeypatch.setattr("connectors.postgres.replication.stream.SlotStream.read", nothing)
            taken.set()

    read = SlotStream.read

    def nothing(stream: SlotStream, timeout_s: float) -> Batch:
        time.sleep(0.01)
        return Batch([], Lsn(0), Lsn(0), reply_requested=False)

    monkeypatch.setattr("pipeline.capture.joins.protection.failpoint", failpoint)
    with capturing(options) as running:
        content = begun(change_log)
        source.execute(VIRTUAL)
        assert taken.wait(10)
        source.execute(
            "alter table visit drop twice; alter table visit replica identity default;"
            " alter table visit alter n type bigint, add primary key (n); alter table visit rename to visited"
        )
        require(lambda: "last rows" in reasons(running), 10, what="the reason")
        monkeypatch.setattr("connectors.postgres.replication.stream.SlotStream.read", read)
        content.wait(lambda c: "keepstream.join.rows" in prefixes(c), "the joining")
        source.execute("update visited set page = 'e' where n = 2")
        content.wait(lambda c: bool(c.rows("public.visited")), "the row")
    assert content.rows("public.visit") == [("INSERT", [b"2", b"late"])]
    assert content.rows("public.visited") == [("UPDATE", [b"2", b"e"])]


@pytest.mark.parametrize("is_prepared", [False, True], ids=["open", "prepared"])
def test_a_table_of_the_name_joins_only_behind_every_transaction_from_before_the_leaving(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    is_prepared: bool,
) -> None:
    """No lock keeps the old table's schema from another name. A capture that begins later waits, too."""
    source.execute("create schema crm; create table crm.visit (n int, page text)")
    with psycopg.connect(source.owner_dsn) as writer:

        def failpoint(reached: str) -> None:
            if reached == "capture.after_leave_announced":
                writer.execute("insert into crm.visit values (2, 'late')")
                if is_prepared:
                    writer.execute("prepare transaction 'writer'")
            if reached == "capture.after_leave":
                lose_everything()

        monkeypatch.setattr("pipeline.capture.joins.protection.failpoint", failpoint)
        with capturing(options) as running:
            content = begun(change_log)
            source.execute("alter table crm.visit add twice int generated always as (n * 2) virtual")
            require(lambda: running.last_error == "killed", 10, what="the table's leaving")
            source.execute(
                "alter schema crm rename to old; create schema crm;"
                " create table crm.visit (n int primary key)"
            )
            require(lambda: "Transactions that were open when it left" in reasons(running), 10, what="why")
            assert ("prepared transaction" if is_prepared else "pid ") in reasons(running)
            source.execute("commit prepared 'writer'") if is_prepared else writer.commit()
            content.wait(lambda c: "keepstream.join" in prefixes(c), "the joining")
    changes = [change for one in content.committed for change in one.changes]
    assert content.rows("crm.visit") == [("INSERT", [b"2", b"late"])]
    assert changes[0].row is not None, "the late row comes first"


def test_a_table_that_left_is_not_touched_before_every_replica_is_past_its_last_rows(
    source: Database,
    replica: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    looks: list[Protection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take, joining = Definitions.take, list[str]()

    def noted(definitions: Definitions, table: Table) -> Definition | None:
        joining.append(table.name)
        return take(definitions, table)

    monkeypatch.setattr(Definitions, "take", noted)
    begin_following(replica)
    standby = FollowingReplica(replica.dsn, Initial.COPY)
    with capturing(replace(options, replicas={"standby": standby})) as running:
        content = begun(change_log)
        source.execute(VIRTUAL)
        require(lambda: "Replica standby is at 0/1" in way_back(running), 10, what="what is waited for")
        assert way_back(running).startswith(
            "On replicas leave public.visit as it is: rows from before it left"
        )
        source.execute(KEY)
        require(lambda: "Replica standby is at 0/1" in reasons(running), 10, what="the reason")
        require_another_look(looks)
        assert joining == []
        assert "keepstream.join" not in prefixes(content.read())
        source.execute("insert into other values (1)")
        end = source.execute("select pg_current_wal_insert_lsn()")[0][0]
        replica.execute_as_admin("update keepstream.progress set position = %s", [end])
        content.wait(lambda c: "keepstream.join" in prefixes(c), "the joining")


def test_p11_the_place_of_the_last_rows_is_known_to_the_next_capture(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """A transaction that began since then is not waited for."""

    def places(content: LogContent) -> set[Lsn]:
        anchors = [Entries.parse(anchor.publication) for anchor in content.anchors]
        leaves = [leave for entries in anchors for leave in entries.of(LEAVES).values()]
        return {leave.last_rows for leave in leaves if leave.last_rows is not None}

    with capturing(options) as running:
        content = begun(change_log)
        source.execute(VIRTUAL)
        require(lambda: "drop table" in way_back(running), 10, what="the way back")
        content.wait(lambda c: len(places(c)) == 1, "the place")
    with psycopg.connect(source.owner_dsn) as younger, capturing(options) as running:
        younger.execute("insert into other values (1)")
        require(lambda: "drop table" in way_back(running), 10, what="the way back")
        younger.commit()
        content.wait(lambda c: c.ids("public.other") == [1], "the row")
    assert len(places(content)) == 1


def test_the_way_back_of_a_renamed_table_names_what_replicas_have(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """Until another one has joined under its old name: that one must stay."""
    with capturing(options) as running:
        begun(change_log)
        source.execute(VIRTUAL)
        require(lambda: left(running) == ["public.visit"], 10, what="the report")
        source.execute("alter table visit rename to visited")
        require(lambda: left(running) == ["public.visited"], 10, what="the other name")
        require(lambda: 'drop table "public"."visit";' in way_back(running), 10, what="the way back")
        source.execute("create table visit (id int primary key)")
        require(lambda: listed(source) == {"other", "visit"}, 10, what="the joining")
        alone = 'On the source: alter table "public"."visited" add primary key (…); Then it joins again'
        require(lambda: "drop table" not in way_back(running), 10, what="the way back")
        assert way_back(running).startswith(alone)
        source.execute(
            "alter table visit drop constraint visit_pkey, add twice int generated always as (id * 2) virtual"
        )
        require(lambda: len(left(running)) == 2, 10, what="the leaving of the other one")
        assert way_back(running, "public.visited").startswith(alone), "it is not for this one to drop that"


def test_a_table_that_left_and_is_excluded_meanwhile_has_no_way_back(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options) as running:
        begun(change_log)
        source.execute(VIRTUAL)
        require(lambda: left(running) == ["public.visit"], 10, what="the report")
    chosen = Tables(exclude=(TablePattern("public.visit"),))
    with capturing(replace(options, tables=chosen)) as running:
        require(lambda: EXCLUDED in reasons(running), 10, what="the reason")
        assert left(running) == []


def test_p11_a_table_that_was_helped_before_it_left_stays_and_its_announcement_means_nothing(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    looks: list[Protection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    helped = once(
        monkeypatch,
        "pipeline.capture.joins.protection",
        "capture.after_leave_announced",
        lambda: source.execute(KEY),
    )
    running = RunningCapture(options)
    content = begun(change_log)
    source.execute(VIRTUAL)
    require(lambda: bool(helped), 10, what="the announcement")
    source.execute("update visit set page = 'b'")
    content.wait(lambda c: bool(c.rows("public.visit")), "the row")
    require_another_look(looks)
    assert listed(source) == {"other", "visit"}
    assert left(running) == []
    source.execute_as_admin("alter publication keepstream_crm drop table visit")
    assert running.ended_with().code == "publication-changed"


def test_a_table_that_is_locked_leaves_once_it_is_not(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And capture does not stand still for long meanwhile."""
    monkeypatch.setattr("pipeline.capture.joins.protection.LEAVE_WAIT_MS", 100)
    with capturing(options):
        content = begun(change_log)
        with psycopg.connect(source.admin_dsn) as holder:
            source.execute(VIRTUAL)
            holder.execute("lock table visit in share update exclusive mode")
            for number in range(1, 11):
                source.execute(f"insert into other values ({number})")
                content.wait(lambda c, n=number: n in c.ids("public.other"), "a row")  # type: ignore[misc]
                time.sleep(0.1)
            assert listed(source) == {"other", "visit"}
        require(lambda: listed(source) == {"other"}, 10, what="the table's leaving")


def test_p11_somebody_elses_change_is_not_taken_for_a_leaving(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the announcement and ours: another table goes and comes back."""

    def change() -> None:
        with psycopg.connect(source.admin_dsn) as connection:
            connection.execute("alter publication keepstream_crm drop table other")
            connection.execute("alter publication keepstream_crm add table other")

    once(monkeypatch, "pipeline.capture.joins.protection", "capture.after_leave_announced", change)
    running = RunningCapture(options)
    begun(change_log)
    source.execute(VIRTUAL)
    assert running.ended_with().code == "publication-changed"


def test_a_table_that_left_is_told_of_once_with_all_that_brings_it_back(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """The publication is ours, the table another role's."""
    source.execute("alter table visit add primary key (n)")
    source.execute_as_admin(
        "create publication keepstream_crm for table only visit, only other;"
        f" alter publication keepstream_crm owner to keepstream; revoke {source.owner} from keepstream"
    )
    with capturing(replace(options, keyless=Keyless.REFUSE)) as running:
        begun(change_log)
        source.execute("alter table visit drop constraint visit_pkey")
        require(lambda: way_back(running).startswith("On every replica"), 10, what="the report")
        report = running.reports[-1]
        assert left(running) == ["public.visit"]
        assert report.undecided == ()
        assert report.left[0].fix == (
            'On every replica: drop table "public"."visit"; (or empty it and give it the source\'s key).'
            " Drop foreign keys to it first, as the source did: TRUNCATE … CASCADE would empty other tables."
            ' On the source: grant "crm" to "keepstream"; alter table "public"."visit" add primary key (…);'
            " Then it joins again by itself, within a minute."
        )
        source.execute_as_admin("alter table visit owner to current_user")
        require(lambda: "owner to …" in running.reports[-1].left[0].fix, 10, what="the other way")


def test_a_publication_that_is_not_ours_is_left_as_it_is(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("alter table visit replica identity full")
    source.execute("create publication keepstream_crm for table only visit, only other")
    source.execute_as_admin(f"revoke {source.owner} from keepstream")
    with capturing(options) as running:
        begun(change_log)
        source.execute(VIRTUAL)
        require(lambda: bool(running.reports and running.reports[-1].endangered), 10, what="the report")
        assert listed(source) == {"other", "visit"}
        (each,) = running.reports[-1].endangered
        assert each.table == "public.visit"
        assert "alter publication" in each.fix
    with connect(source.dsn, purpose="test") as session:
        tables = list_tables(session, publication="keepstream_crm")
        publication = read_publication(session, "keepstream_crm")
        (finding,) = check_endangered(session, tables, publication, Keyless.FULL, established=True)
    assert (finding.code, finding.subject) == ("writes-fail", "public.visit")
