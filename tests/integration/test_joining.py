"""A table joins while it is written to: the application never waits long, and no row is lost or doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psycopg
import pytest

from connectors.interfaces import ChangeLog
from connectors.postgres.catalog.publication import read_publication
from connectors.postgres.catalog.tableddl import TableDdl, dump_table
from connectors.postgres.catalog.tablerows import copied_columns, copied_rows, emit_rows, row_versions
from connectors.postgres.catalog.tables import list_tables
from connectors.postgres.session import connect
from pipeline.capture.joins import joining
from pipeline.capture.joins.joins import missing_rights
from pipeline.capture.options import CaptureOptions
from pipeline.config import Partitions
from pipeline.dev.process import require, wait_until
from schemas.change import Message
from schemas.errors import BEGIN_ANEW
from schemas.join import JOIN_EMPTY_PREFIX, JOIN_PREFIX, JOIN_ROWS_PREFIX, Join
from tests.capturing import LogContent, RunningCapture, begun, capture_options, capturing, once
from tests.fix_postgres import Database

BIG = "insert into lead select i, repeat('x', 900) from generate_series(1, 9000) i"
"""Some 9 MiB: more than is sent under the lock."""
WHOLE = (
    "create table lead (id int primary key, note text) partition by range (id);"
    " create table lead_all partition of lead default"
)


@pytest.fixture
def options(source: Database, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> CaptureOptions:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.1)
    source.grant_ownership()
    return capture_options(source, change_log)


@dataclass
class Application:
    """Inserts one row after another into a table, with little patience; the errors it saw."""

    dsn: str
    ids: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def writing(self) -> Iterator[None]:
        thread = threading.Thread(target=self._write)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _write(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as session:
            session.execute("set lock_timeout = '1s'")
            for key in range(100_000, 200_000):
                try:
                    session.execute("insert into lead values (%s, '')", [key])
                    self.ids.append(key)
                except psycopg.Error as error:
                    self.errors.append(str(error))
                if self._stop.wait(0.01):
                    return


def sent_ids(content: LogContent) -> list[int]:
    """Keys of the rows that the join sent."""
    messages = [c.payload for one in content.committed for c in one.changes if isinstance(c.payload, Message)]
    rows = b"".join(m.content for m in messages if m.prefix == JOIN_ROWS_PREFIX)
    return [int(line.split(b"\t")[0]) for line in rows.splitlines()]


def joined(content: LogContent) -> bool:
    return bool(sent_ids(content))


def test_a_small_table_joins_while_it_is_written_to(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options):
        content = begun(change_log)
        source.execute("create table lead (id int primary key, note text); insert into lead values (1, '')")
        application = Application(source.dsn)
        with application.writing():
            content.wait(joined, "the join")
            time.sleep(0.3)
        content.wait(lambda c: application.ids[-1] in c.ids("public.lead"), "the last row")
    assert application.errors == []
    assert [*sent_ids(content), *content.ids("public.lead")] == [1, *application.ids]


def test_a_large_table_joins_in_the_first_pause_of_its_writers(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written between the sending of its rows and the lock makes it begin again."""
    written = once(
        monkeypatch,
        "pipeline.capture.joins.joining",
        "capture.join_rows_sent",
        lambda: source.execute("insert into lead values (9001, ''); delete from lead where id <= 9"),
    )
    with capturing(options):
        content = begun(change_log)
        source.execute(f"create table lead (id int primary key, note text); {BIG}")
        content.wait(joined, "the join")
        source.execute("update lead set note = '' where id = 10")
        content.wait(lambda c: c.ids("public.lead") == [10], "the row after it")
    assert len(written) >= 2
    assert sorted(sent_ids(content)) == [*range(10, 9002)]


def test_writers_of_a_large_table_do_not_wait_while_its_rows_are_sent(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk of the first attempt is sent only when a write has come through."""
    application = Application(source.dsn)
    send, sent = joining._Joining._emit, threading.Event()

    def emit(self: joining._Joining, prefix: str, content: bytes) -> None:
        if prefix == JOIN_ROWS_PREFIX and not sent.is_set():
            written = len(application.ids)
            wait_until(lambda: len(application.ids) > written or bool(application.errors), 5)
            assert len(application.ids) > written, application.errors
        send(self, prefix, content)

    monkeypatch.setattr(joining._Joining, "_emit", emit)
    once(monkeypatch, "pipeline.capture.joins.joining", "capture.join_rows_sent", sent.set)
    with capturing(options):
        content = begun(change_log)
        source.execute(f"create table lead (id int primary key, note text); {BIG}")
        with application.writing():
            require(sent.is_set, 30, what="the sending of all rows")
        content.wait(joined, "the join")
    assert application.errors == []
    assert sorted([*sent_ids(content), *content.ids("public.lead")]) == [*range(1, 9001), *application.ids]


def test_a_table_that_outgrows_its_joining_joins_as_a_large_one(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was announced and then refused adds nothing to the publication."""
    once(
        monkeypatch,
        "pipeline.capture.joins.joining",
        "capture.after_join_announced",
        lambda: source.execute(BIG),
    )
    with capturing(options):
        content = begun(change_log)
        source.execute("create table lead (id int primary key, note text)")
        content.wait(joined, "the join")
    (definition, *rows) = [c.payload for one in content.committed for c in one.changes]
    assert isinstance(definition, Message)
    assert definition.prefix == JOIN_PREFIX
    assert {row.prefix for row in rows if isinstance(row, Message)} == {JOIN_ROWS_PREFIX}
    assert sorted(sent_ids(content)) == [*range(1, 9001)]


@pytest.mark.parametrize("place", ["capture.after_join_announced", "capture.join_rows_sent"])
def test_ddl_of_the_application_does_not_wait_for_the_log_or_for_rows(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    def alter() -> None:
        with psycopg.connect(source.dsn, autocommit=True) as session:
            session.execute("set lock_timeout = '300ms'; alter table lead add column extra int default 7")

    hits = once(monkeypatch, "pipeline.capture.joins.joining", place, alter)
    with capturing(options):
        content = begun(change_log)
        source.execute(f"create table lead (id int primary key, note text); {BIG}")
        content.wait(joined, "the join")
    assert len(hits) == 2
    assert content.follower.live_tables[-1].columns[-1].name == "extra"


def test_an_application_that_goes_on_to_ddl_while_we_wait_for_it_is_no_deadlock_s_victim(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.postgres.catalog.publication.WRITERS_WAIT_MS", 10_000)
    waits = "select count(*) from pg_locks where relation = 'lead'::regclass and not granted"
    with capturing(options), psycopg.connect(source.dsn) as writer:
        content = begun(change_log)
        writer.execute("create table lead (id int primary key, note text)")
        writer.commit()
        writer.execute("insert into lead values (1, 'a')")
        require(lambda: source.execute(waits) == [(1,)], 20.0, what="the join to wait for the writer")
        writer.execute("alter table lead add column extra int")
        writer.execute("insert into lead values (2, 'b', 3)")
        writer.commit()
        content.wait(joined, "the join")
    assert sent_ids(content) == [1, 2]


def test_the_server_ends_a_join_that_falls_silent_while_writers_wait(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a frozen host would: the application's write comes through, and the table joins later."""
    commit = joining._Joining._commit
    frozen: list[float] = []

    def freeze(self: joining._Joining, deadline: float) -> None:
        if not frozen:
            frozen.append(time.monotonic())
            with psycopg.connect(source.dsn, autocommit=True) as session:
                session.execute("set lock_timeout = '3s'; insert into lead values (1, 'a')")
            frozen.append(time.monotonic())
        commit(self, deadline)

    monkeypatch.setattr(joining._Joining, "_commit", freeze)
    with capturing(options):
        content = begun(change_log)
        source.execute("create table lead (id int primary key, note text)")
        content.wait(joined, "the join")
    assert frozen[1] - frozen[0] > 0.5
    assert sent_ids(content) == [1]


def test_a_reader_gives_way_to_ddl_that_waits_for_the_table(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers would have to queue behind it until all rows are sent."""
    monkeypatch.setattr(joining, "WAITERS_EVERY_S", 0.0)
    emit = joining._Joining._emit
    altering: list[threading.Thread] = []
    waits = "select count(*) from pg_locks where relation = 'lead'::regclass and not granted"

    def alter() -> None:
        with source.connect() as session:
            session.execute("alter table lead add column extra int default 7")

    def emit_while_somebody_waits(self: joining._Joining, prefix: str, content: bytes) -> None:
        if prefix == JOIN_ROWS_PREFIX and not altering:
            altering.append(threading.Thread(target=alter))
            altering[0].start()
            require(lambda: source.execute(waits) == [(1,)], 20.0, what="the ALTER to wait")
        emit(self, prefix, content)

    monkeypatch.setattr(joining._Joining, "_emit", emit_while_somebody_waits)
    sent = once(monkeypatch, "pipeline.capture.joins.joining", "capture.join_rows_sent", lambda: None)
    with capturing(options):
        content = begun(change_log)
        source.execute(f"create table lead (id int primary key, note text); {BIG}")
        content.wait(joined, "the join")
    altering[0].join()
    assert len(sent) == 1
    assert content.follower.live_tables[-1].columns[-1].name == "extra"


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of rows each message had that was written to the WAL, whatever became of it."""
    sizes: list[int] = []
    emit = joining._Joining._emit

    def count(self: joining._Joining, prefix: str, content: bytes) -> None:
        if prefix == JOIN_ROWS_PREFIX:
            sizes.append(len(content))
        emit(self, prefix, content)

    monkeypatch.setattr(joining._Joining, "_emit", count)
    return sizes


def joined_without_rows(source: Database, content: LogContent) -> bool:
    """Whether table lead did, seen once a row comes behind that."""
    published = "select count(*) from pg_publication_tables where tablename = 'lead'"
    require(lambda: source.execute(published) == [(1,)], 30.0, what="the join")
    source.execute("insert into lead values (9001, '')")
    content.wait(lambda c: 9001 in c.ids("public.lead"), "the row after it")
    payloads = [c.payload for one in content.committed for c in one.changes]
    (definition,) = [
        p for p in payloads if isinstance(p, Message) and p.prefix in (JOIN_PREFIX, JOIN_EMPTY_PREFIX)
    ]
    return definition.prefix == JOIN_EMPTY_PREFIX and Join.from_json(definition.content).table == "lead"


@pytest.mark.parametrize("made", ["create table lead (id int primary key, note text)", WHOLE])
def test_a_table_whose_rows_are_too_large_as_text_joins_without_them(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    emitted: list[int],
    made: str,
) -> None:
    monkeypatch.setattr(joining, "ROWS_LIMIT_BYTES", 4_000_000)
    with capturing(replace(options, partitions=Partitions.ROOT)):
        content = begun(change_log)
        source.execute(f"{made}; {BIG}")
        assert joined_without_rows(source, content)
    assert sum(emitted) <= 4_000_000


def test_a_large_table_whose_writers_never_pause_joins_without_its_rows(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.capture.joins.joins._WRITTEN_TRIES", 2)
    monkeypatch.setattr(
        "pipeline.capture.joins.joins._PAUSES_S",
        dict.fromkeys(("table-written", "query-canceled"), (0.0, 0.0)),
    )
    application = Application(source.dsn)
    with capturing(options) as running:
        content = begun(change_log)
        source.execute(f"create table lead (id int primary key, note text); {BIG}")
        with application.writing():
            soon = "it joins soon, without its rows: they are too many, or written to without a pause"
            require(lambda: left_out(running).get("public.lead") == soon, 30.0, what="its joining to give up")
            assert joined_without_rows(source, content)
    assert application.errors == []
    assert set(content.ids("public.lead")) <= {9001, *application.ids}


def test_a_table_that_was_refused_keeps_its_pause_under_another_name_and_passes_none_on(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    with capturing(options) as running:
        content = begun(change_log)
        source.execute_as_admin("create table lead (id int primary key); insert into lead values (0)")
        require(
            lambda: "may not add it" in left_out(running).get("public.lead", ""),
            20.0,
            what="the table to be left out",
        )
        source.execute_as_admin("alter table lead rename to sold")
        require(
            lambda: "may not add it" in left_out(running).get("public.sold", ""), 20.0, what="its new name"
        )
        assert "public.lead" not in left_out(running)
        source.execute("create table lead (id int primary key); insert into lead values (1)")
        content.wait(joined, "the join of the new table")
        assert running.error is None
    assert sent_ids(content) == [1]


def test_policies_that_hide_a_table_s_rows_are_named_also_beside_a_missing_privilege(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    hidden = (
        "row-level security hides its rows from the source role: run as a superuser"
        ' alter role "keepstream" bypassrls;'
    )
    lifting = 'alter table only "public"."lead" no force row level security;'
    with capturing(options) as running:
        content = begun(change_log)
        source.execute(
            "create table lead (id int primary key); insert into lead values (1);"
            " alter table lead enable row level security, force row level security"
        )
        told = f"{hidden}, or, as it is FORCE that binds its owner, {lifting}"
        require(lambda: left_out(running).get("public.lead") == told, 20.0, what="the table to be left out")
        source.execute_as_admin("alter table lead owner to postgres")
        require(lambda: "may not add it" in left_out(running)["public.lead"], 20.0, what="both reasons")
        assert left_out(running)["public.lead"] == (
            "the source role may not add it to the publication: it belongs to a superuser, whose rights are"
            f" not to be lent; give it another owner; and {hidden}"
        )
        source.execute_as_admin(f"alter table lead owner to {source.owner}; {lifting}")
        content.wait(joined, "the join")
        assert running.error is None
    assert sent_ids(content) == [1]


@pytest.mark.parametrize(
    ("owners", "reason"),
    [
        (("crm", "crm"), 'run as an administrator `grant "crm" to "keepstream";`'),
        (
            ("crm", "postgres"),
            "it belongs to a superuser, whose rights are not to be lent; give it another owner",
        ),
        (
            ("postgres", "crm"),
            'run `alter publication "keepstream_crm" owner to "crm"; grant "crm" to "keepstream";`',
        ),
        (("postgres", "postgres"), "or give it another owner"),
    ],
)
def test_what_lets_us_publish_a_table_is_said_of_its_owner_and_the_publication_s(
    source: Database, owners: tuple[str, str], reason: str
) -> None:
    source.execute("create publication keepstream_crm; create table lead (id int primary key)")
    source.execute_as_admin(
        f"alter publication keepstream_crm owner to {owners[0]}; alter table lead owner to {owners[1]}"
    )
    with connect(source.dsn, purpose="test") as session:
        (lead,) = list_tables(session, publication="keepstream_crm")
        published = read_publication(session, "keepstream_crm")
        assert published is not None
        told = missing_rights(session, lead, published)
    assert told is not None
    assert told.startswith("the source role may not add it to the publication")
    assert reason in told
    assert 'grant "postgres"' not in told
    assert (BEGIN_ANEW in told) == (owners == ("postgres", "crm"))


def test_the_stream_goes_on_between_tables_that_join(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look does not let all of them join; the others are named until it is their turn."""
    monkeypatch.setattr("pipeline.capture.joins.joins.LOOK_LIMIT_S", -1.0)
    with capturing(options) as running:
        content = begun(change_log)
        source.execute("create table lead (id int primary key); insert into lead values (1)")
        require(lambda: "public.lead" in left_out(running), 20.0, what="the table to be named")
        assert left_out(running)["public.lead"] == "it joins soon: tables join one after another"
        monkeypatch.setattr("pipeline.capture.joins.joins.LOOK_LIMIT_S", 2.0)
        content.wait(joined, "the join")
        require(lambda: "public.lead" not in left_out(running), 20.0, what="the table not to be named")


def left_out(running: RunningCapture) -> dict[str, str]:
    """Reasons by table, as capture's last report has them."""
    return {one.table: one.reason for report in running.reports[-1:] for one in report.not_replicated}


def test_a_table_that_is_altered_while_it_is_dumped_joins_as_it_is_then(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered: list[str] = []

    def dump_and_alter(*arguments: object, **named: object) -> TableDdl:
        dumped = dump_table(*arguments, **named)  # type: ignore[arg-type]
        if not altered:
            altered.append("lead")
            source.execute("alter table lead alter column note set default 'none'")
        return dumped

    monkeypatch.setattr("pipeline.capture.joins.definitions.dump_table", dump_and_alter)
    with capturing(options):
        content = begun(change_log)
        source.execute("create table lead (id int primary key, note text); insert into lead values (1, '')")
        content.wait(joined, "the join")
    (definition,) = [
        change.payload.content
        for change in content.committed[0].changes
        if isinstance(change.payload, Message) and change.payload.prefix != JOIN_ROWS_PREFIX
    ]
    assert b"DEFAULT 'none'" in definition


ODD = (
    (
        1,
        "tab\tline\nreturn\rback\\slash\\N",
        "t",
        "a",
        "2026-01-01 12:00+02",
        "\\x00ff5c",
        '{"a\\"b",null}',
        "(,)",
    ),
    (2, "", "f", "", "infinity", "", "{}", "(1,)"),
    (3, None, None, None, None, None, None, None),
    (4, "\\.", None, "\\N", None, None, '{"c\\\\d\te"}', '(,"")'),
    (5, "\v\f\b\u00e9\U0001f600", None, None, None, None, None, None),
)


def test_rows_that_the_server_sends_are_those_that_copy_sends(source: Database) -> None:
    source.grant_ownership()
    source.execute("create type pair as (a int, b text)")
    source.execute(
        'create table "le%ad" (id int, "no%te" text, flag bool, code char(4), at timestamptz, raw bytea,'
        " list text[], pair pair, place point, net inet default '10.0.0.1/8')"
    )
    slot = f"rows_{source.name}"
    make = f"select pg_create_logical_replication_slot('{slot}', 'pgoutput')"
    read = (
        f"select data from pg_logical_slot_get_binary_changes('{slot}', null, null,"
        " 'proto_version', '1', 'publication_names', 'none', 'messages', 'true')"
    )
    with psycopg.connect(source.dsn) as session:
        insert = 'insert into "le%%ad" values (%s, %s, %s, %s, %s, %s, %s, %s)'
        session.cursor().executemany(insert, ODD)
        session.commit()
        source.execute_as_admin(make)
        try:
            columns = copied_columns(session, ("public", "le%ad"))
            copied = b"".join(copied_rows(session, ("public", "le%ad"), columns, chunk_bytes=1))
            emit_rows(session, ("public", "le%ad"), columns, "rows", pages=1)
            session.commit()
            messages = b"".join(data for (data,) in source.execute_as_admin(read))
        finally:
            source.execute_as_admin(f"select pg_drop_replication_slot('{slot}')")
    source.execute('create table again (like "le%ad")')
    begin = messages.index(b"1\ttab")
    size = int.from_bytes(messages[begin - 4 : begin])
    with psycopg.connect(source.dsn) as session, session.cursor() as cursor:
        with cursor.copy("copy again from stdin") as copy:
            copy.write(messages[begin : begin + size])
        session.commit()
    assert copied.count(b"\n") == len(ODD)
    of_both = [source.execute(f"select t::text from {name} t order by id") for name in ('"le%ad"', "again")]
    assert of_both[0] == of_both[1]


@pytest.mark.parametrize(
    "change",
    [
        "insert into lead values (3)",
        "delete from lead where id = 1",
        "update lead set id = 3 where id = 1",
        "update lead set id = 1 where id = 1",
        "delete from lead; insert into lead values (1), (2)",
        "truncate lead",
    ],
)
def test_any_change_of_rows_is_seen(source: Database, change: str) -> None:
    source.execute("create table lead (id int); insert into lead values (1); insert into lead values (2)")
    with psycopg.connect(source.dsn, autocommit=True) as session:
        before = row_versions(session, ("public", "lead"))
        source.execute("vacuum freeze lead" if "truncate" not in change else "analyze lead")
        assert row_versions(session, ("public", "lead")) == before
        source.execute(change)
        assert row_versions(session, ("public", "lead")) != before
