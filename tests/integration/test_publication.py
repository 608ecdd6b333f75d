"""The publication: how it is made, read, and recognised as the one we know (P11)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from connectors.postgres.catalog.publication import (
    add_tables,
    create_publication,
    create_publication_sql,
    drop_publication,
    publication_identity,
    read_publication,
    read_row_filters,
)
from connectors.postgres.catalog.replica_identity import full_identity_sql, set_full_identity
from connectors.postgres.catalog.tables import Table, list_tables
from connectors.postgres.session import Session, connect
from schemas.errors import OperatorNeeded, RetryLater
from tests.fix_postgres import Database


@pytest.fixture
def session(source: Database) -> Iterator[Session]:
    with connect(source.dsn, purpose="test") as opened:
        yield opened


@pytest.fixture
def owner(source: Database) -> Iterator[Session]:
    """The tables' owner, with three tables."""
    source.execute(
        'create table a (id int); create table b (id int); create schema "S"; create table "S"."T t" (id int)'
    )
    with connect(source.owner_dsn, purpose="test") as opened:
        yield opened


def test_a_publication_that_is_not_there_is_none(session: Session) -> None:
    assert read_publication(session, "no_such") is None
    assert publication_identity(session, "no_such") == ()


def test_what_is_made_is_read_by_a_role_that_owns_nothing(owner: Session, session: Session) -> None:
    create_publication(owner, "p", [("public", "a"), ("S", "T t")])
    found = read_publication(session, "p")
    assert found is not None
    assert (found.owner, found.all_tables, found.via_partition_root, found.schemas) == (
        "crm",
        False,
        False,
        (),
    )
    assert found.published == {"insert", "update", "delete", "truncate"}
    assert [(table.schema, table.name) for table in found.tables] == [("S", "T t"), ("public", "a")]
    assert all(table.columns is None and not table.is_filtered for table in found.tables)


def test_an_empty_publication_can_be_made(owner: Session, session: Session) -> None:
    create_publication(owner, 'we"ird', [])
    found = read_publication(session, 'we"ird')
    assert found is not None
    assert found.tables == ()


def test_limits_that_somebody_set_are_seen(source: Database, session: Session) -> None:
    source.execute("create table a (id int primary key, b int, c int); create schema s")
    source.execute_as_admin(
        "create publication p for table a (id, c) where (id > 5) with (publish = 'insert')"
    )
    found = read_publication(session, "p")
    assert found is not None
    assert found.published == {"insert"}
    assert found.tables[0].columns == ("id", "c")
    assert found.tables[0].is_filtered
    assert read_row_filters(session, "p") == {("public", "a"): "(id > 5)"}


def test_a_publication_of_a_whole_schema_or_of_all_tables_is_seen(source: Database, session: Session) -> None:
    source.execute("create schema s")
    source.execute_as_admin(
        "create publication p for tables in schema s; create publication q for all tables"
    )
    in_schema, of_all = read_publication(session, "p"), read_publication(session, "q")
    assert in_schema is not None
    assert of_all is not None
    assert in_schema.schemas == ("s",)
    assert of_all.all_tables
    source.execute_as_admin("drop publication q")


def test_a_role_without_the_tables_is_told_what_it_lacks(owner: Session, session: Session) -> None:
    with pytest.raises(OperatorNeeded) as caught:
        create_publication(session, "p", [("public", "a")])
    assert caught.value.code == "privilege-missing"


def test_one_that_another_makes_meanwhile_is_tried_again(source: Database, owner: Session) -> None:
    """Whether that is seen at once, or only when the other commits."""
    with connect(source.owner_dsn, purpose="test") as second, ThreadPoolExecutor(1) as pool:
        with owner.transaction():
            create_publication(owner, "p", [])
            waiting = pool.submit(create_publication, second, "p", [])
            assert wait([waiting], timeout=0.5).not_done
        with pytest.raises(RetryLater) as later:
            waiting.result(20)
        with pytest.raises(RetryLater) as at_once:
            create_publication(second, "p", [])
    assert later.value.code == at_once.value.code == "publication-exists"


def test_the_statement_can_be_printed_for_the_owner() -> None:
    made = create_publication_sql("p", [("public", "a"), ("S", 'T"t')], server_version=170009)
    assert made == (
        'create publication "p" for table only "public"."a", only "S"."T""t" '
        "with (publish = 'insert, update, delete, truncate', publish_via_partition_root = false)"
    )
    of_18 = create_publication_sql("p", [], server_version=180000)
    assert of_18.endswith("publish_via_partition_root = false, publish_generated_columns = stored)")
    assert full_identity_sql(("public", "a")) == 'alter table only "public"."a" replica identity full'


def test_a_whole_is_made_and_identified_with_its_partitions(source: Database, owner: Session) -> None:
    source.execute(
        "create table w (id int, d int) partition by list (d); create table w1 partition of w default;"
        " create table w2 partition of w for values in (2) partition by list (id);"
        " create table w3 partition of w2 default; alter table w3 replica identity full"
    )

    def whole() -> Table:
        return next(table for table in list_tables(owner, publication="p") if table.name == "w")

    create_publication(owner, "p", [("public", "w")], by_root=True)
    found = read_publication(owner, "p")
    assert found is not None
    assert (found.via_partition_root, [(t.name, t.partitioned) for t in found.tables]) == (
        True,
        [("w", True)],
    )
    assert whole().identity_problem == "no primary key"
    source.execute("alter table w replica identity full")
    assert (whole().identity_problem or "").startswith("partition public.w1: no primary key")
    set_full_identity(owner, whole())
    assert whole().identity_problem is None


def test_children_do_not_join_with_their_parent(source: Database, owner: Session, session: Session) -> None:
    source.execute("create table child () inherits (a)")
    create_publication(owner, "p", [("public", "a")])
    found = read_publication(session, "p")
    assert found is not None
    assert [table.name for table in found.tables] == ["a"]


def test_every_change_of_the_publication_changes_its_identity(
    source: Database, owner: Session, session: Session
) -> None:
    create_publication(owner, "p", [("public", "a"), ("public", "b")])
    seen = {publication_identity(session, "p")}
    for statement in (
        'alter publication p add table "S"."T t"',
        "alter publication p drop table b",
        "alter publication p add table b",
        "alter publication p set (publish = 'insert')",
        "alter publication p set (publish = 'insert, update, delete, truncate')",
        "alter publication p drop table a; alter publication p add table a",
        "alter publication p set table a where (id > 1)",
        "drop table b cascade; create table b (id int); alter publication p add table b",
        "drop publication p; create publication p for table a",
    ):
        source.execute(statement)
        identity = publication_identity(session, "p")
        assert identity not in seen, statement
        seen.add(identity)


def test_what_is_not_a_change_of_the_publication_keeps_its_identity(
    source: Database, owner: Session, session: Session
) -> None:
    create_publication(owner, "p", [("public", "a")])
    before = publication_identity(session, "p")
    source.execute("alter table a add column b text; alter table a rename to z; create table y (id int)")
    source.execute_as_admin("create publication other for table z")
    for statement in (
        "vacuum freeze pg_publication",
        "vacuum full pg_publication_rel",
        "vacuum full pg_publication",
    ):
        source.execute_as_admin(statement)
    assert publication_identity(session, "p") == before


def test_our_own_transaction_is_recognised_by_its_xid(
    source: Database, owner: Session, session: Session
) -> None:
    create_publication(owner, "p", [("public", "a")])
    before = set(publication_identity(session, "p"))
    with owner.transaction():
        ((xid,),) = owner.execute("select pg_current_xact_id()::xid::text").fetchall()
        add_tables(owner, "p", [("public", "b")])
    (added,) = set(publication_identity(session, "p")) - before
    assert added.startswith("pg_publication_rel:")
    assert added.rpartition(":")[2] == xid


def test_a_publication_goes_and_may_be_gone_already(owner: Session, session: Session) -> None:
    create_publication(owner, "p", [("public", "a"), ("public", "b")])
    drop_publication(owner, "p")
    drop_publication(owner, "p")
    assert read_publication(session, "p") is None
