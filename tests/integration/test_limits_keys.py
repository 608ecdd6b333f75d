"""Keys of a table with a column list: which ones a replica, where the other columns are NULL, cannot have."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from connectors.interfaces import ChangeLog
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.limits.harmless import require_harmless
from connectors.postgres.limits.keys import read_unmakeable, unmaking_sql
from connectors.postgres.limits.unfit import read_unfit
from connectors.postgres.session import Session, connect
from pipeline.capture.ddl.limited import relaxed
from schemas.ddl.message import ObjectChange
from tests.capturing import RunningCapture, capture_options
from tests.copying import copy
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
    alter table t add constraint ex exclude using gist (p with &&) with (fillfactor = 70);
    create unique index ix_where on t (n) where s is null;
    create unique index ix_expression on t (coalesce(s, '-'));
    create unique index ix_whole on t ((t is null));
    create unique index ix_computed on t (up);
    create unique index ix_distinct on t (s) nulls not distinct;
    create unique index ix_twice on t (twice) nulls not distinct;
    create unique index ix_plain on t (n, s) include (flag);
    create unique index "ix (odd)" on t (s) with (fillfactor = 70);
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
    kept = source.execute("select relname from pg_class where relname ~ '^(ix|ex)'")
    assert {name for (name,) in kept} == {"ex", "ix (odd)", "ix_common", "ix_listed", "ix_plain", "ix_twice"}


STATE = """
    select jsonb_build_object(
        'columns', (
            select jsonb_agg(jsonb_build_object(
                       'num', a.attnum, 'name', a.attname, 'not_null', a.attnotnull,
                       'type_oid', a.atttypid::bigint, 'generated', a.attgenerated,
                       'default', pg_get_expr(d.adbin, d.adrelid)))
              from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
             where a.attrelid = 'public.t'::regclass and a.attnum > 0),
        'constraints', (
            select jsonb_agg(jsonb_build_object(
                       'oid', k.conname, 'type', k.contype, 'def', pg_get_constraintdef(k.oid)))
              from pg_constraint k where k.conrelid = 'public.t'::regclass),
        'indexes', (
            select jsonb_agg(jsonb_build_object(
                       'oid', c.relname, 'primary', i.indisprimary, 'unique', i.indisunique,
                       'def', pg_get_indexdef(c.oid)))
              from pg_index i join pg_class c on c.oid = i.indexrelid
             where i.indrelid = 'public.t'::regclass
               and not exists (select from pg_constraint k where k.conindid = c.oid and k.contype <> 'f')))
"""


def test_schema_messages_leave_out_the_same_ones(session: Session) -> None:
    ((state,),) = session.execute(STATE).fetchall()
    listed = [column["num"] for column in state["columns"] if column["name"] in LISTED]
    told = relaxed(ObjectChange("table", 1, None, state), listed).after
    assert told is not None
    left_out = [
        one["oid"] for kind in ("constraints", "indexes") for one in state[kind] if one not in told[kind]
    ]
    assert set(left_out) == BROKEN | {"fk_unlisted"}


def test_a_primary_key_goes_with_its_not_null(source: Database) -> None:
    source.execute("create table t (id int, s text, primary key (id, s))")
    with connect(source.dsn, purpose="test") as session:
        source.execute(unmaking_sql(session, oid_of_t(session), ("public", "t"), ("id",)))
    source.execute("insert into t (id) values (1), (1)")
    with pytest.raises(psycopg.errors.NotNullViolation):
        source.execute("insert into t (s) values ('x')")


PARTITIONS = """
    create table o (x int, y int, unique (x, y));
    create table p (
        id int, d int, s int, note text, unique (id, d, s), constraint fine unique (id, d),
        constraint whole foreign key (d, s) references o (x, y) match full
    ) partition by range (d);
    create table p1 partition of p for values from (0) to (10) partition by range (d);
    create table p11 partition of p1 (primary key (id, d)) for values from (0) to (10);
    create table p2 partition of p (primary key (id, d)) for values from (10) to (20);
    create table q (id int primary key, d int, s int,
        constraint to_p foreign key (id, d, s) references p (id, d, s));
    insert into o values (1, 1), (11, 1); insert into p values (1, 1, 1), (2, 11, 1);
    insert into q values (1, 1, 1)
"""


def publish(source: Database, *tables: str) -> None:
    source.grant_ownership()
    source.execute(f"create publication keepstream_crm for table {', '.join(tables)}")


def test_a_parent_s_foreign_keys_are_left_out_where_a_partition_does_not_list_their_columns(
    source: Database, replica: Database
) -> None:
    source.execute(PARTITIONS)
    publish(source, "o", "p11 (id, d)", "p2", "q")
    copy(source, replica, publication="keepstream_crm")
    kept = "select object from keepstream.deferred_ddl where kind = 'foreign key'"
    assert set(replica.execute(kept)) == {("public.p.whole",), ("public.q.to_p",)}
    assert replica.execute("select id, s from p order by id") == [(1, None), (2, 1)]


ABOVE = {
    "alter table p add constraint up unique nulls not distinct (d, s)": "key up of public.p is on s, too",
    "create unique index ix on p (d, s) nulls not distinct": "key ix of public.p is on s, too",
    "create unique index ix on p (id, d, coalesce(s, 0))": "key ix of public.p is on s, too",
    "alter table p1 add constraint k unique nulls not distinct (d, s)": "key k of public.p1 is on s, too",
}


def test_a_list_that_breaks_a_unique_key_of_the_parent_is_refused_with_what_drops_it(
    source: Database, change_log: ChangeLog
) -> None:
    source.execute(PARTITIONS)
    publish(source, "o", "p11 (id, d)", "p2", "q")
    with connect(source.dsn, purpose="test") as session:
        for statement, problem in ABOVE.items():
            source.execute(statement)
            (unfit,) = read_unfit(session, "keepstream_crm")
            assert unfit.problem.startswith(problem)
            assert unfit.remedy.startswith("List s, too; or make the key on single partitions")
            if statement == list(ABOVE)[-1]:
                running = RunningCapture(capture_options(source, change_log))
                assert running.ended_with().code == "limit-unfit"
                require_harmless(session, "keepstream_crm", [("public", "p2")])
            source.execute(unfit.remedy.rpartition(": ")[2])
        assert read_unfit(session, "keepstream_crm") == []
