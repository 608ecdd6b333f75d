"""What the catalog says of tables, server and role, seen by the role of `init --grants`."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from connectors.postgres.catalog.publication import create_publication
from connectors.postgres.catalog.tables import (
    Table,
    TableKind,
    count_large_objects,
    find_table,
    list_tables,
    read_columns,
)
from connectors.postgres.server import DECODING_MEMORY_BYTES, read_role, read_server
from connectors.postgres.session import Session, connect
from schemas.table import ReplicaIdentity
from tests.fix_postgres import Database
from tests.postgres_releases import needs_release, release


@pytest.fixture
def session(source: Database) -> Iterator[Session]:
    with connect(source.dsn, purpose="test") as opened:
        yield opened


def table(session: Session, name: str) -> Table:
    return next(found for found in list_tables(session, publication="p") if found.name == name)


def test_every_table_is_listed_but_postgresqls_and_our_own(source: Database, session: Session) -> None:
    source.execute(
        'create table b (a int); create table "A b" (a int); create schema s; create table s.c (a int);'
        "create temp table t (a int); create view v as select 1; create schema keepstream;"
        "create table keepstream.progress (a int); create table keepstream.schema_left_out (a int)"
    )
    assert [found.qualified_name for found in list_tables(session, publication="p")] == [
        "public.A b",
        "public.b",
        "s.c",
    ]


def test_what_the_stream_cannot_carry_is_named(source: Database, session: Session) -> None:
    source.execute("create unlogged table u (a int); create materialized view m as select 1 as a")
    source.execute_as_admin(
        "create foreign data wrapper w; create server s foreign data wrapper w;"
        "create foreign table f (a int) server s"
    )
    reasons = {found.name: found.uncarried_reason for found in list_tables(session, publication="p")}
    assert reasons == {"u": "unlogged table", "m": "materialized view", "f": "foreign table"}


def test_partitions_are_published_one_by_one(source: Database, session: Session) -> None:
    source.execute(
        "create table p (a int primary key) partition by range (a);"
        "create table p1 partition of p for values from (0) to (10)"
    )
    parent, child = table(session, "p"), table(session, "p1")
    assert (parent.kind, parent.uncarried_reason) == (TableKind.PARTITIONED, None)
    assert (child.kind, child.identity_columns) == (TableKind.TABLE, ("a",))


IDENTITIES = [
    ("create table t (a int primary key)", None, ("a",)),
    ("create table t (a int, b int default 1, primary key (b, a))", None, ("b", "a")),
    ("create table t (a int)", "no primary key", ()),
    ("create table t (a int primary key deferrable)", "primary key is deferrable", ()),
    (
        "create table t (a int not null unique, b text); alter table t replica identity using index t_a_key",
        None,
        ("a",),
    ),
    (
        "create table t (a int not null unique); alter table t replica identity using index t_a_key;"
        "alter table t drop constraint t_a_key",
        "the index of its replica identity is gone",
        (),
    ),
    (
        "create table t (a int primary key); alter table t replica identity nothing",
        "replica identity nothing",
        (),
    ),
    ("create table t (a int); alter table t replica identity full", None, ()),
    (
        "create table t (a int, b int generated always as (a + 1) stored);"
        "alter table t replica identity full",
        None,
        (),
    ),
    (
        "create table t (a int, b int generated always as (a + 1) virtual);"
        "alter table t replica identity full",
        "replica identity full with virtual generated columns",
        (),
    ),
    (
        "create table t (a int primary key, b int generated always as (a + 1) stored)",
        None,
        ("a",),
    ),
]
if release("source") < 18:
    IDENTITIES = [each for each in IDENTITIES if "virtual" not in each[0]]


@pytest.mark.parametrize(
    ("statement", "problem", "columns"), IDENTITIES, ids=[text[:70] for text, *_ in IDENTITIES]
)
def test_a_replica_identity_is_judged_as_the_application_would_meet_it(
    source: Database, session: Session, statement: str, problem: str | None, columns: tuple[str, ...]
) -> None:
    """The judgement is compared with what an UPDATE of the published table really does."""
    source.execute(statement)
    found = table(session, "t")
    assert (found.identity_problem, found.identity_columns) == (problem, columns)
    with connect(source.owner_dsn, purpose="test") as owner:
        create_publication(owner, "p", [("public", "t")])
    assert table(session, "t").identity_problem == problem
    source.execute("insert into t (a) values (1)")
    if problem is None:
        source.execute("update t set a = 2")
        source.execute("delete from t")
    else:
        with pytest.raises(psycopg.Error, match="cannot update table"):
            source.execute("update t set a = 2")


LIMITS = [
    ("alter table t replica identity default", "(a, b)", None),
    (
        "alter table t replica identity default",
        "(b)",
        "the publication's column list lacks a of its replica identity",
    ),
    (
        "alter table t replica identity full",
        "(a, b)",
        "replica identity full with a column list in the publication",
    ),
    ("alter table t replica identity using index t_b_key", "(b) where (b > 0)", None),
    ("alter table t replica identity full", "where (c > 0 and a > 0)", None),
    (
        "alter table t replica identity default",
        "where (c > 0 and a > 0)",
        "the publication's row filter uses c, not in its replica identity",
    ),
]


@pytest.mark.parametrize(("identity", "limit", "problem"), LIMITS)
def test_a_list_or_filter_is_judged_as_the_application_would_meet_it(
    source: Database, session: Session, identity: str, limit: str, problem: str | None
) -> None:
    source.execute("create table t (a int primary key, b int not null unique, c int not null default 1)")
    source.execute(f"{identity}; create publication p for table t {limit}; insert into t values (1, 1)")
    assert table(session, "t").identity_problem == problem
    if problem is None:
        source.execute("update t set c = 2")
    else:
        with pytest.raises(psycopg.Error, match="cannot update table"):
            source.execute("update t set c = 2")


@needs_release("source", 18)
def test_a_publication_that_does_not_send_generated_columns_makes_full_identities_fail(
    source: Database, session: Session
) -> None:
    source.execute(
        "create table t (a int, b int generated always as (a + 1) stored); create publication p for table t;"
        "alter table t replica identity full; insert into t (a) values (1)"
    )
    problem = "replica identity full with generated columns that the publication does not send"
    assert table(session, "t").identity_problem == problem
    with pytest.raises(psycopg.Error, match="cannot update table"):
        source.execute("update t set a = 2")


def test_a_generated_column_is_no_key_because_it_is_not_in_the_log(
    source: Database, session: Session
) -> None:
    source.execute("create table t (a int, b int generated always as (a + 1) stored primary key)")
    found = table(session, "t")
    assert (found.identity_problem, found.identity_columns) == ("primary key contains a generated column", ())


def test_indexes_that_could_identify_rows_are_offered(source: Database, session: Session) -> None:
    source.execute(
        "create table t (a int not null, b int, c int not null);"
        "create unique index usable on t (c, a); create unique index nullable on t (b);"
        "create unique index partial on t (a) where c > 1; create unique index expression on t ((a + 1));"
        "create unique index covering on t (a) include (b); create index plain on t (a);"
        "alter table t add constraint late unique (a, c) deferrable"
    )
    assert [index.name for index in table(session, "t").usable_indexes] == ["covering", "usable"]
    for index in ("covering", "usable"):
        source.execute(f"alter table t replica identity using index {index}")
        assert table(session, "t").identity_problem is None
    for index in ("nullable", "partial", "expression", "plain", "late"):
        with pytest.raises(psycopg.Error):
            source.execute(f"alter table t replica identity using index {index}")


def test_a_policy_that_would_hide_rows_from_us_is_seen(source: Database, session: Session) -> None:
    source.execute("create table t (a int); create table u (a int); alter table t enable row level security")
    assert (table(session, "t").row_security, table(session, "u").row_security) == (True, False)
    with connect(source.owner_dsn, purpose="test") as owner:
        assert table(owner, "t").row_security is False
        source.execute("alter table t force row level security")
        assert table(owner, "t").row_security is True
    with connect(source.admin_dsn, purpose="test") as admin:
        assert table(admin, "t").row_security is False


def test_who_owns_and_who_may_read_is_seen(source: Database, session: Session) -> None:
    source.execute("create table t (a int)")
    seen = table(session, "t")
    assert (seen.owner, seen.owned, seen.readable) == (source.owner, False, True)
    source.grant_ownership()
    assert table(session, "t").owned is True


def test_sizes_are_estimates_that_take_no_lock(source: Database, session: Session) -> None:
    source.execute("create table t (a int); insert into t select generate_series(1, 10000)")
    assert table(session, "t").estimated_rows is None
    source.execute("analyze t")
    with source.connect(autocommit=False) as locker:
        locker.execute("lock table t in access exclusive mode")
        seen = table(session, "t")
    assert seen.estimated_rows == 10_000
    assert seen.estimated_bytes == 45 * 8192


def test_a_table_of_an_extension_is_named_after_it(source: Database, session: Session) -> None:
    source.execute("create table t (a int)")
    assert table(session, "t").extension is None
    source.execute_as_admin("alter extension plpgsql add table t")
    assert table(session, "t").extension == "plpgsql"


def test_one_table_is_found_by_its_oid(source: Database, session: Session) -> None:
    source.execute("create table t (a int primary key)")
    found = table(session, "t")
    assert find_table(session, found.oid, publication="p") == found
    assert find_table(session, 1, publication="p") is None
    assert found.replica_identity is ReplicaIdentity.DEFAULT


def test_columns_say_how_their_values_come_about(source: Database, session: Session) -> None:
    source.execute(
        "create table t (id int generated always as identity, d int generated by default as identity,"
        " a numeric(10,2) not null default 1.5, g int generated always as (id + 1) stored, x text);"
        "insert into t (x) values ('old'); alter table t drop column x;"
        "alter table t add column late text default 'it''s, \"quoted\"',"
        " add column list int[] default '{1,2}', add column plain int"
    )
    columns = {column.name: column for column in read_columns(session, table(session, "t").oid)}
    assert list(columns) == ["id", "d", "a", "g", "late", "list", "plain"]
    assert [(c.identity, c.generated) for c in columns.values()][:4] == [
        ("a", ""),
        ("d", ""),
        ("", ""),
        ("", "s"),
    ]
    assert (columns["a"].type_name, columns["a"].not_null, columns["a"].default) == (
        "numeric(10,2)",
        True,
        "1.5",
    )
    assert columns["g"].default is None
    assert (columns["late"].has_missing, columns["late"].missing) == (True, 'it\'s, "quoted"')
    assert (columns["list"].has_missing, columns["list"].missing) == (True, "{1,2}")
    assert (columns["plain"].has_missing, columns["plain"].missing) == (False, None)


def test_large_objects_are_known(source: Database, session: Session) -> None:
    source.execute("select lo_create(0), lo_create(0)")
    assert count_large_objects(session) == 2


def test_the_server_is_known_by_its_settings(source: Database, session: Session) -> None:
    server = read_server(session)
    assert (server.version, server.major) == (
        session.info.server_version,
        session.info.server_version // 10000,
    )
    assert (server.in_recovery, server.encoding, server.wal_level) == (False, "UTF8", "logical")
    assert (server.max_replication_slots, server.max_wal_senders) == (50, 50)
    assert (server.max_slot_wal_keep_bytes, server.idle_slot_timeout_s) == (None, None)
    assert (server.wal_sender_timeout_s, server.decoding_memory_bytes) == (60.0, DECODING_MEMORY_BYTES)
    assert server.session_replication_role_settable is False


def test_what_anybody_s_slot_holds_back_is_known(source: Database, session: Session) -> None:
    source.execute_as_admin("select pg_create_physical_replication_slot('others', true)")
    try:
        source.execute_as_admin("select pg_logical_emit_message(false, 'x', repeat('x', 2000000))")
        assert read_server(session).held_wal_bytes > 2_000_000
    finally:
        source.execute_as_admin("select pg_drop_replication_slot('others')")


def test_a_decoder_s_memory_is_what_somebody_chose(source: Database) -> None:
    dsn = make_conninfo(source.dsn, options="-c logical_decoding_work_mem=32MB")
    with connect(dsn, purpose="test") as session:
        assert read_server(session).decoding_memory_bytes == 32 * 1024 * 1024


def test_our_role_is_known_by_what_it_may_do(source: Database, session: Session) -> None:
    role = read_role(session)
    assert (role.name, role.replication, role.creates_in_database) == ("keepstream", True, False)
    with connect(source.admin_dsn, purpose="test") as admin:
        assert read_role(admin).creates_in_database is True
