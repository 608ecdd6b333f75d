"""Copies into tables that somebody prepared: what they must hold, down to domains and composite types."""

from __future__ import annotations

import pytest

from pipeline.config import Initial
from schemas.errors import OperatorNeeded
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


def test_the_sql_that_mends_a_narrower_composite_type_mends_it(source: Database, replica: Database) -> None:
    source.execute(WIDE)
    source.execute(ROW)
    replica.execute(WIDE.replace('the amount" crm.price', 'the amount" numeric(8,2)'))
    replica.execute("alter table crm.deal drop column lines; alter table crm.deal add column lines text")
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica, initial=Initial.DATA)
    mending = refused.value.hint.split("start again: ")[1]
    assert mending.count(";") == 3
    replica.execute(mending)
    copy(source, replica, initial=Initial.DATA)
    assert replica.execute("select line::text, price::text from crm.deal") == [("(x,1.2345)", "1.2345")]


@pytest.mark.parametrize("wider", ["numeric(12,4)", "numeric(30,10)", "numeric"])
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
    mending = refused.value.hint.split("start again: ")[1]
    assert mending == (
        'alter table public.t alter column ours drop not null; alter domain public."Un filled" drop not null;'
    )
    replica.execute(mending)
    copy(source, replica, initial=Initial.DATA)
    assert replica.execute("select a, ours, b, d, e, f from t") == [(1, None, 1, 3, 1, 1)]
