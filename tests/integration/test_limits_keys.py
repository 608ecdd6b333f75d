"""Keys of a table with a column list: which ones a replica, where the other columns are NULL, cannot have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.postgres.limits.relaxing import read_unmakeable, unmaking_sql
from connectors.postgres.session import Session, connect
from connectors.postgres.snapshot_tables import SnapshotTable
from tests.fix_postgres import Database

KEYS = """
    create table o (x int, y int, unique (x, y));
    create table t (
        id int, n int, s text, flag boolean, p int4range,
        up text generated always as (coalesce(s, '-')) stored, twice int generated always as (n * 2) stored,
        primary key (id),
        constraint fk_full foreign key (n, id) references o (x, y) match full,
        constraint fk_simple foreign key (n, id) references o (x, y)
    );
    alter table t add fo int, add constraint fk_unlisted foreign key (id, fo) references o (x, y) match full;
    alter table t add constraint ex_where exclude using gist (p with &&) where (flag);
    alter table t add constraint ex exclude using gist (p with &&);
    create unique index ix_where on t (n) where s is null;
    create unique index ix_expression on t (coalesce(s, '-'));
    create unique index ix_whole on t ((t is null));
    create unique index ix_computed on t (up);
    create unique index ix_distinct on t (s) nulls not distinct;
    create unique index ix_twice on t (twice) nulls not distinct;
    create unique index ix_plain on t (n, s) include (flag);
    create unique index ix_listed on t ((n + 1)) include (s) where n > 0;
    create index ix_common on t (coalesce(s, '-')) where s is null
"""
LISTED = ("id", "n", "p")
BROKEN = {"ex_where", "ix_where", "ix_expression", "ix_whole", "ix_computed", "ix_distinct"}


@pytest.fixture
def session(source: Database) -> Iterator[Session]:
    source.execute(KEYS)
    with connect(source.dsn, purpose="test") as opened:
        yield opened


def oid_of_t(session: Session) -> int:
    (oid,) = session.execute("select 'public.t'::regclass::oid::bigint").fetchone() or (0,)
    return int(oid)


def test_keys_are_not_made_whose_columns_expressions_or_predicate_are_empty_there(session: Session) -> None:
    oid = oid_of_t(session)
    table = SnapshotTable(oid, "public", "t", LISTED, (23, 23, 3904), (), 0, 0, None, "", has_list=True)
    found = {each.deferred.object.rpartition(".")[2]: each for each in read_unmakeable(session, [table])}
    assert set(found) == BROKEN | {"fk_unlisted"}
    assert found["ex_where"].deferred.statement == (
        "alter table only public.t add constraint ex_where EXCLUDE USING gist (p WITH &&) WHERE (flag);"
    )


def test_a_table_that_joins_is_made_without_them(source: Database, session: Session) -> None:
    source.execute(unmaking_sql(session, oid_of_t(session), ("public", "t"), LISTED))
    kept = source.execute("select relname from pg_class where relname ~ '^(ix|ex)' order by 1")
    assert kept == [("ex",), ("ix_common",), ("ix_listed",), ("ix_plain",), ("ix_twice",)]
