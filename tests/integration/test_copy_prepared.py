"""Copies into tables that somebody prepared: what they must hold, down to domains and composite types."""

from __future__ import annotations

import pytest

from connectors.postgres.replica.leftovers import empty_tables
from connectors.postgres.session import connect
from pipeline.config import Initial
from schemas.errors import OperatorNeeded, RefusedData
from schemas.lsn import Lsn, Position
from tests.copying import copy
from tests.fix_postgres import Database

WIDE = """
    create schema crm; create schema "Odd.Types";
    create domain crm.money as numeric(12,4);
    create domain crm.price as crm.money check (value >= 0);
    create type "Odd.Types"."a ""line" as (what text, "the amount" crm.price);
    create type crm.span as range (subtype = crm.money);
    create table crm.deal (id int primary key, price crm.price, line "Odd.Types"."a ""line",
        lines "Odd.Types"."a ""line"[], prices crm.money[], span crm.span, spans crm.span_multirange)
"""
ROW = """insert into crm.deal values
    (1, 1.2345, '(x,1.2345)', '{"(y,1.2345)"}', '{1.2345}', '[1.2345,2.3456)', '{[1.2345,2.3456)}')"""


@pytest.mark.parametrize("initial", [Initial.DATA, Initial.NONE])
def test_a_prepared_table_whose_domains_and_composite_types_would_round_is_refused(
    source: Database, replica: Database, initial: Initial
) -> None:
    source.execute(WIDE)
    source.execute(ROW)
    replica.execute(WIDE.replace("numeric(12,4)", "numeric(8,2)"))
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=initial, position=Position(Lsn(1)) if initial is Initial.NONE else None)
    assert refused.value.code == "replica-schema"
    for column in ("price", "line", "lines", "prices", "span", "spans"):
        assert f"its column {column} is " in refused.value.message
    assert replica.execute("select to_regnamespace('keepstream')") == [(None,)]


@pytest.mark.parametrize("initial", [Initial.DATA, Initial.NONE])
def test_a_prepared_column_that_only_the_source_computes_is_refused(
    source: Database, replica: Database, initial: Initial
) -> None:
    source.execute("create table t (a int primary key, c int generated always as (a * 3) stored)")
    replica.execute("create table t (a int primary key, c int)")
    position = Position(Lsn(1)) if initial is Initial.NONE else None
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=initial, position=position)
    assert (refused.value.code, refused.value.message) == (
        "replica-schema",
        "public.t of the replica cannot hold what public.t holds: it does not compute column c, as the source"
        " does",
    )
    mending = refused.value.hint.split("start again:\n")[1]
    assert mending.endswith("; -- loses its values, and the indexes and constraints that name it")
    replica.execute(mending)
    source.execute("insert into t values (7)")
    copy(source, replica, initial=initial, position=position)
    assert replica.execute("select a, c from t") == ([(7, 21)] if initial is Initial.DATA else [])


def test_the_sql_that_mends_a_narrower_composite_type_mends_it(source: Database, replica: Database) -> None:
    source.execute(WIDE)
    source.execute(ROW)
    replica.execute(WIDE.replace('the amount" crm.price', 'the amount" numeric(8,2)'))
    replica.execute("alter table crm.deal drop column lines; alter table crm.deal add column lines text")
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)
    mending = refused.value.hint.split("start again:\n")[1]
    assert mending.count(";") == 3
    replica.execute(mending)
    copy(source, replica, initial=Initial.DATA)
    assert replica.execute("select line::text, price::text from crm.deal") == [("(x,1.2345)", "1.2345")]


def test_a_remedy_that_is_no_sql_hides_none_of_those_behind_it(source: Database, replica: Database) -> None:
    schema = "create type pair as (%s); create table t (p pair, amount %s)"
    source.execute(schema % ("a int, b text", "numeric(12,4)"))
    replica.execute(schema % ("b text, a int", "numeric(8,2)"))
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)
    replica.execute(refused.value.hint.split("start again:\n")[1])
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)
    assert "amount" not in refused.value.message


@pytest.mark.parametrize("wider", ["numeric(12,4)", "numeric(30,4)", "numeric"])
def test_a_prepared_table_whose_domains_and_composite_types_are_equal_or_wider_is_accepted(
    source: Database, replica: Database, wider: str
) -> None:
    source.execute(WIDE)
    source.execute(ROW)
    replica.execute(WIDE.replace("numeric(12,4)", wider))
    copy(source, replica, initial=Initial.DATA)
    assert replica.execute("select price::numeric(12,4)::text from crm.deal") == [("1.2345",)]


def test_a_prepared_table_with_a_column_that_nothing_fills_is_refused(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (a int primary key); insert into t values (1)")
    replica.execute(
        """create domain filled as int not null default 1; create domain "Un filled" as int not null;
           create table t (a int primary key, ours int not null, domained "Un filled", b filled, c int,
                           d int not null default 3, e int generated always as identity,
                           f int generated always as (1) stored not null)"""
    )
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)
    assert (refused.value.code, refused.value.message) == (
        "replica-schema",
        "public.t of the replica cannot hold what public.t holds: its own column ours is NOT NULL and has no"
        " default; its own column domained is NOT NULL and has no default",
    )
    mending = refused.value.hint.split("start again:\n")[1]
    assert mending == (
        "alter table public.t alter column ours drop not null; -- loses the constraint\n"
        'alter domain public."Un filled" drop not null; -- loses the constraint'
    )
    replica.execute(mending)
    copy(source, replica, initial=Initial.DATA)
    assert replica.execute("select a, ours, b, d, e, f from t") == [(1, None, 1, 3, 1, 1)]


@pytest.mark.parametrize("whole", ["", ", primary key (a, ours)"])
def test_not_null_that_a_partition_has_from_its_whole_is_dropped_there(
    source: Database, replica: Database, whole: str
) -> None:
    source.execute("create table part (a int primary key); insert into part values (1)")
    replica.execute(f"create table top (a int, ours int not null{whole}) partition by range (a)")
    replica.execute("create table middle partition of top for values from (0) to (10) partition by range (a)")
    replica.execute("create table part (ours int not null, a int not null)")
    replica.execute("alter table middle attach partition part for values from (0) to (10)")
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)
    mending = refused.value.hint.split("start again:\n")[1]
    assert mending.endswith("alter table public.top alter column ours drop not null; -- loses the constraint")
    replica.execute(mending)
    copy(source, replica, initial=Initial.DATA)
    assert replica.execute("select a, ours from part") == [(1, None)]


def test_not_null_that_a_table_inherits_is_named_with_sql_that_can_be_run(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (a int primary key); insert into t values (1)")
    replica.execute(
        "create table base (ours int not null); create table t (a int primary key) inherits (base)"
    )
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)
    replica.execute(refused.value.hint.split("start again:\n")[1])
    copy(source, replica, initial=Initial.DATA)


def test_a_row_outside_of_the_bounds_of_a_prepared_partition_is_refused_with_a_hint(
    source: Database, replica: Database
) -> None:
    tables = "create table t (id int primary key) partition by range (id);"
    tables += " create table p1 partition of t for values from (0) to (10)"
    source.execute(f"{tables}; insert into t values (7)")
    replica.execute(tables.replace("to (10)", "to (5)"))
    with pytest.raises(RefusedData) as refused:
        copy(source, replica, initial=Initial.DATA)
    assert refused.value.code == "row-refused"
    assert refused.value.hint == (
        "No partition of the replica takes it; `keepstream check` names bounds that differ. Make one that it"
        " lacks as the source has it. Give the replica's partitions the bounds of the source's: alter table"
        " PARENT detach partition NAME; of each"
        " whose bounds differ, then alter table PARENT attach partition NAME for values …;"
    )


def test_rows_of_a_table_that_is_partitioned_on_the_replica_alone_are_seen_and_emptied(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (a int primary key); insert into t values (1)")
    replica.execute("create table t (a int primary key) partition by range (a)")
    replica.execute("create table low partition of t for values from (0) to (10); insert into t values (1)")
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)
    assert refused.value.message == "the replica has rows in public.t"
    with connect(replica.dsn, purpose="test") as session:
        empty_tables(session, [("public", "t")], lambda: None)
    copy(source, replica, initial=Initial.DATA)
    assert replica.execute("select a from low") == [(1,)]
