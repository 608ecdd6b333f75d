"""Which partitions brought rows or took them along, by the catalog and what an ANCHOR knew."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from connectors.postgres.partitions import truncates
from connectors.postgres.partitions.tree import read_members
from connectors.postgres.session import Session, connect
from pipeline.capture.ddl.looking import look
from pipeline.capture.entries.partitions import known_partitions, without_shapes_below
from pipeline.capture.entries.shapes import SHAPES
from pipeline.capture.history.publication import published_now
from schemas.entries import Entries
from schemas.errors import KeepstreamError
from tests.fix_postgres import Database

TREE = """
    create table ev (id int default 1, d int default 2) partition by range (d);
    create table ev1 partition of ev (d default 5, check (d < 100)) for values from (0) to (10);
    create table ev2 partition of ev for values from (10) to (20) partition by list (id);
    create table ev2_1 partition of ev2 for values in (1);
    insert into ev values (1, 1), (1, 11);
    create table filled (id int default 1, d int default 2); insert into filled values (1, 25);
    create table empty (id int, d int);
"""
NAME = "p"


@pytest.fixture
def session(source: Database) -> Iterator[Session]:
    source.execute(TREE)
    source.execute_as_admin(f"create publication {NAME} for table ev with (publish_via_partition_root)")
    with connect(source.admin_dsn, purpose="test") as session:
        yield session


@pytest.mark.parametrize(
    "statements",
    [
        "create table ev3 partition of ev for values from (20) to (30); insert into ev values (1, 25)",
        "alter table ev attach partition empty for values from (20) to (30)",
        "create table ev3 partition of ev for values from (20) to (30) partition by list (id);"
        " create table ev3_1 partition of ev3 default; insert into ev values (1, 25)",
        "begin; create table x (a int); create table ev3 partition of ev default;"
        " insert into ev values (1, 25); commit",
        "analyze ev1; insert into ev values (1, 5); alter table ev1 alter d set default 6",
    ],
)
def test_partitions_whose_rows_are_all_in_the_stream_are_known_from_then_on(
    session: Session, source: Database, statements: str
) -> None:
    entries = published_now(session, NAME)
    source.execute(statements)
    seen = look(session, NAME, entries)
    assert not seen.differences
    members = read_members(session, NAME)
    assert known_partitions(seen.entries).keys() == {m.oid for m in members if m.oid != m.root}


@pytest.mark.parametrize(
    ("statements", "code"),
    [
        ("alter table ev attach partition filled for values from (20) to (30)", "partition-attached"),
        (
            "begin; create table ev3 (id int, d int); insert into ev3 values (1, 25);"
            " alter table ev attach partition ev3 default; commit",
            "partition-attached",
        ),
        (
            "create table m (id int, d int) partition by list (id); create table m1 partition of m default;"
            " insert into m values (1, 25); alter table ev attach partition m default",
            "partition-attached",
        ),
        ("alter table ev2 detach partition ev2_1", "partition-gone"),
        ("drop table ev2", "partition-gone"),
    ],
)
def test_rows_that_come_or_go_with_a_partition_are_not_taken_for_the_stream_s(
    session: Session, source: Database, statements: str, code: str
) -> None:
    entries = published_now(session, NAME)
    source.execute(statements)
    with pytest.raises(KeepstreamError) as caught:
        look(session, NAME, entries)
    assert caught.value.code == code


def test_what_nobody_can_see_of_a_locked_partition_is_looked_at_later(
    session: Session, source: Database
) -> None:
    entries = published_now(session, NAME)
    oids = {member.table: member.oid for member in read_members(session, NAME)}
    source.execute("alter table ev attach partition filled for values from (20) to (30)")
    with source.connect(autocommit=False) as holding:
        holding.execute("lock table ev1, filled")
        by = f"(process {holding.info.backend_pid})"
        seen = look(session, NAME, without_shapes_below(entries, oids["ev"]))
        assert {*seen.locked.values()} == {f"public.ev1 {by}", f"public.filled {by}"}
        assert not seen.is_clear
    assert seen.entries.of(SHAPES).keys() == {*oids.values()} - {oids["ev1"]}
    assert known_partitions(seen.entries).keys() == {oids["ev1"], oids["ev2"], oids["ev2_1"]}
    with pytest.raises(KeepstreamError, match=r"public\.filled was attached to public\.ev with rows"):
        look(session, NAME, seen.entries)


ODD = """
    create table "Ev, 3" partition of ev for values from (20) to (30);
    create table notes (id int primary key, note text);
"""
TRUNCATES = {
    "truncate ev1; analyze ev1; alter table ev1 rename to renamed": {"renamed"},
    "insert into ev values (1, 2); truncate ev1; insert into ev values (1, 3); vacuum analyze ev1": {"ev1"},
    "vacuum full ev1; analyze; insert into notes values (1, ': TRUNCATE: (no-flags)')": set(),
    "truncate ev; insert into ev values (1, 2); truncate ev1; analyze": {"ev1"},
    "begin; alter table ev1 rename to x; truncate x; alter table x rename to ev1; commit; analyze ev1": {
        "ev1"
    },
    "alter table ev1 rename to x; truncate x; alter table x rename to ev1; analyze ev1": {"ev1"},
    "create table ev4 partition of ev default; insert into ev values (1, 99);"
    " alter table ev add g int generated always as (id) stored; analyze": set(),
    "vacuum full ev1; create table x (id int); truncate x; drop table x; vacuum full ev2_1; analyze": set(),
    "truncate ev1; analyze; truncate ev restart identity cascade; insert into ev values (1, 1)": set(),
    'truncate ev2, "Ev, 3" cascade; analyze': {"ev2_1", "Ev, 3"},
    "begin; truncate ev1; rollback; truncate notes; vacuum full": set(),
    "create table ev4 partition of ev default; insert into ev values (1, 99); truncate ev4; analyze": {"ev4"},
}


@pytest.mark.parametrize(("statements", "emptied"), TRUNCATES.items())
def test_a_partition_that_was_truncated_by_its_own_name_is_known_whoever_looked_at_it_since(
    session: Session, source: Database, statements: str, emptied: set[str]
) -> None:
    source.execute(ODD)
    slot = f"slot_{source.name}"
    source.execute_as_admin("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    try:
        entries = published_now(session, NAME)
        for statement in statements.split("; "):
            source.execute(statement)
        names = {member.oid: member.table for member in read_members(session, NAME)}
        if {"truncate ev", "truncate ev restart identity cascade"}.intersection(statements.split("; ")):
            (root,) = {member.root for member in read_members(session, NAME)}
            entries = without_shapes_below(entries, root)
        for known in (entries, look(session, NAME, entries, slot=slot).entries):
            found = look(session, NAME, known, slot=slot).differences
            assert {names[oid] for oid in found if isinstance(oid, int)} == emptied
            assert {error.code for error in found.values()} <= {"partition-truncated"}
    finally:
        source.execute_as_admin("select pg_drop_replication_slot(%s)", [slot])


def test_the_wal_is_read_few_times_from_a_transaction_on_that_stays_open(
    session: Session, source: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truncates, "_AT_ONCE", 1)
    slot = f"slot_{source.name}"
    source.execute_as_admin("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    executed = Mock(wraps=session.execute)
    monkeypatch.setattr(session, "execute", executed)
    try:
        with source.connect(autocommit=False) as open_one:
            open_one.execute("insert into filled values (1, 1)")
            for _ in range(50):
                source.execute("insert into ev1 values (1, 1); truncate ev1")
            found = truncates.read_truncates(session, slot) or []
            assert [truncate.tables for truncate in found] == 50 * [frozenset({("public", "ev1")})]
    finally:
        source.execute_as_admin("select pg_drop_replication_slot(%s)", [slot])
    assert executed.call_count < 60  # and not 103


def test_an_emptied_partition_is_a_suspicion_until_the_whole_s_truncate_is_met(
    session: Session, source: Database
) -> None:
    entries = published_now(session, NAME)
    (ev1,) = (m.oid for m in read_members(session, NAME) if m.table == "ev1")
    (root,) = {m.root for m in read_members(session, NAME)}
    source.execute("vacuum full ev1")
    assert not look(session, NAME, entries).differences
    source.execute("truncate ev1")
    seen = look(session, NAME, entries)
    assert {oid: error.code for oid, error in seen.differences.items()} == {ev1: "partition-truncated"}
    assert look(session, NAME, seen.entries).differences.keys() == {ev1}
    assert not look(session, NAME, without_shapes_below(seen.entries, root)).differences


UNLOGGED = [
    "alter table ev1 set unlogged; analyze ev1",
    "alter table ev1 set unlogged; insert into ev values (1, 2); alter table ev1 set logged; analyze ev1",
    "create unlogged table ev4 partition of ev default; insert into ev values (1, 99);"
    " alter table ev4 set logged; analyze ev4",
]


@pytest.mark.parametrize("statements", UNLOGGED)
def test_rows_of_a_partition_that_was_not_in_the_wal_for_a_while_are_missed(
    session: Session, source: Database, statements: str
) -> None:
    slot = f"slot_{source.name}"
    source.execute_as_admin("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    try:
        entries = published_now(session, NAME)
        for statement in statements.split("; "):
            source.execute(statement)
        for known in (entries, look(session, NAME, entries, slot=slot).entries):
            found = look(session, NAME, known, slot=slot).differences
            assert [error.code for error in found.values()] == ["partition-unlogged"]
    finally:
        source.execute_as_admin("select pg_drop_replication_slot(%s)", [slot])


def test_an_anchor_that_says_of_no_partition_whether_it_is_unlogged_learns_it(
    session: Session, source: Database
) -> None:
    source.execute("alter table ev1 set unlogged; analyze ev1")
    entries = published_now(session, NAME)
    (root,) = {member.root for member in read_members(session, NAME)}
    texts = entries.encode()
    older = [text.replace(f":{root}u:", f":{root}:").replace(f":{root}p:", f":{root}:") for text in texts]
    assert set(older) != set(texts)
    seen = look(session, NAME, Entries.parse(older))
    assert not seen.differences
    assert set(seen.entries.encode()) == set(texts)
    source.execute("alter table ev1 set logged; analyze ev1")
    (error,) = look(session, NAME, seen.entries).differences.values()
    assert error.code == "partition-unlogged"
    assert 'alter table only "public"."ev1" set logged' in error.hint
