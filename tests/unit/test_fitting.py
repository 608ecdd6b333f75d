"""Whether a replica's column takes every value of the log's as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from connectors.postgres.apply.catalog import TargetColumn, TargetTable
from connectors.postgres.catalog.columns import TableColumns
from connectors.postgres.catalog.held_types import HeldType
from connectors.postgres.replica.fitting import Misfit, misfits, unfilled
from connectors.postgres.replica.narrowing import narrowing
from schemas.pgtypes import format_type
from schemas.table import Column, ReplicaIdentity, TableSchema

TEXT, VARCHAR, BPCHAR, NUMERIC = (25, "text"), (1043, "varchar"), (1042, "bpchar"), (1700, "numeric")
TIMESTAMP, TIMESTAMPTZ, INTERVAL = (1114, "timestamp"), (1184, "timestamptz"), (1186, "interval")
INT4, INT8, FLOAT4, FLOAT8 = (23, "int4"), (20, "int8"), (700, "float4"), (701, "float8")
JSON, JSONB, DATE, NUMERICS = (114, "json"), (3802, "jsonb"), (1082, "date"), (1231, "_numeric")
Type = tuple[int, str]


def numeric(precision: int, scale: int) -> int:
    return (precision << 16 | scale & 0x7FF) + 4


def seen(column: Column, held: HeldType, *, generated: bool = False) -> list[str]:
    table = TableSchema("crm", "deal", ReplicaIdentity.DEFAULT, (column,))
    there = TargetColumn(column.name, "its type", generated, False, held)
    return [each.seen for each in misfits(table, TargetTable("crm", "deal", "r", {"c": there}, (), (), ()))]


def fits(source: Type, source_modifier: int, there: Type, modifier: int) -> bool:
    column = Column("c", source[0], source_modifier, format_type(source[0], source_modifier), False)
    return not seen(column, HeldType(there[0], modifier, there[1], "b"))


@pytest.mark.parametrize(
    ("source", "source_modifier", "there", "modifier"),
    [
        (NUMERIC, numeric(12, 4), NUMERIC, numeric(12, 4)),
        (NUMERIC, numeric(12, 4), NUMERIC, numeric(8, 4)),  # too large a number is refused aloud
        (NUMERIC, numeric(12, -3), NUMERIC, numeric(12, 0)),
        (NUMERICS, numeric(12, 2), NUMERICS, numeric(14, 2)),
        (NUMERICS, numeric(12, -3), NUMERICS, numeric(12, -2)),
        (NUMERIC, numeric(12, 4), NUMERIC, -1),
        (NUMERIC, -1, TEXT, -1),
        (VARCHAR, 24, VARCHAR, 44),
        (VARCHAR, 24, VARCHAR, -1),
        (TEXT, -1, VARCHAR, -1),
        (TIMESTAMP, 3, TIMESTAMP, 6),
        (TIMESTAMP, -1, TIMESTAMP, 6),
        (INT4, -1, INT8, -1),
        (INT4, -1, NUMERIC, -1),
        (JSONB, -1, JSON, -1),
    ],
)
def test_a_type_that_holds_every_value_fits(
    source: Type, source_modifier: int, there: Type, modifier: int
) -> None:
    assert fits(source, source_modifier, there, modifier)


@pytest.mark.parametrize(
    ("source", "source_modifier", "there", "modifier"),
    [
        (NUMERIC, numeric(12, 4), NUMERIC, numeric(12, 2)),
        (NUMERIC, numeric(12, 0), NUMERIC, numeric(12, -3)),
        (NUMERICS, numeric(12, 4), NUMERICS, numeric(12, 2)),
        (NUMERICS, numeric(12, 2), NUMERICS, numeric(12, 3)),  # 1.50 becomes 1.500
        (NUMERIC, numeric(12, -3), NUMERIC, numeric(12, 1)),
        (NUMERIC, -1, NUMERIC, numeric(30, 10)),
        (VARCHAR, 44, VARCHAR, 24),
        (TEXT, -1, VARCHAR, 24),
        (BPCHAR, 9, BPCHAR, 14),
        (TIMESTAMP, -1, TIMESTAMP, 3),
        (TIMESTAMP, 3, TIMESTAMP, 0),
        (TIMESTAMPTZ, -1, TIMESTAMP, -1),
        (TIMESTAMP, -1, DATE, -1),
        (INTERVAL, -1, INTERVAL, 0x7FFF << 16),
        (INT4, -1, NUMERIC, numeric(12, -3)),
        (FLOAT8, -1, FLOAT4, -1),
        (FLOAT4, -1, FLOAT8, -1),  # 1e+06 becomes 1000000
        (JSON, -1, JSONB, -1),
    ],
)
def test_a_type_that_could_change_a_value_does_not(
    source: Type, source_modifier: int, there: Type, modifier: int
) -> None:
    assert not fits(source, source_modifier, there, modifier)


def test_types_of_users_are_told_by_their_names_and_an_enum_refuses_aloud() -> None:
    mood = Column("c", 16500, -1, '"crm"."my ""mood"""', False)
    assert seen(mood, HeldType(20000, -1, 'my "mood"', "c")) == []
    assert seen(mood, HeldType(20000, -1, "other", "e")) == []
    assert seen(mood, HeldType(20000, -1, "other", "c")) == [
        'its column c is its type instead of "crm"."my ""mood"""'
    ]
    domain = Column("c", 16501, -1, '"pg_catalog"."numeric"', False)
    assert seen(domain, HeldType(1700, numeric(8, 2), "numeric", "b")) == []
    assert seen(domain, HeldType(23, -1, "int4", "b")) != []


def test_a_column_that_is_computed_or_missing_is_named_with_its_remedy() -> None:
    column = Column("c", 25, -1, "text", False)
    assert seen(column, HeldType(25, -1, "text", "b"), generated=True) == ["it computes column c itself"]
    table = TableSchema("crm", "deal", ReplicaIdentity.DEFAULT, (column,))
    (lacking,) = misfits(table, TargetTable("crm", "Deal", "r", {}, (), (), ()))
    assert lacking.seen == "it lacks column c (text)"
    assert lacking.fix == 'alter table "crm"."Deal" add column if not exists "c" text;'


MONEY = HeldType(1700, numeric(12, 4), "numeric", "b")
CENTS = HeldType(1700, numeric(8, 2), "numeric", "b")


def line(amount: HeldType) -> HeldType:
    parts = (("what", HeldType(25, -1, "text", "b")), ("the amount", amount))
    return HeldType(16600, -1, "line", "c", "crm", parts)


def array(element: HeldType, name: str) -> HeldType:
    return HeldType(16700, -1, name, "a", "crm", (("", element),))


def deep(type_name: str, source: HeldType, there: HeldType, *, told_by_the_log: bool = False) -> list[Misfit]:
    """What is seen of a column that the log describes by that name."""
    table = TableSchema("crm", "deal", ReplicaIdentity.DEFAULT, (Column("c", 16500, -1, type_name, False),))
    target = TargetTable(
        "crm", "deal", "r", {"c": TargetColumn("c", "crm.it", False, False, there)}, (), (), ()
    )
    assert bool(list(misfits(table, target))) is told_by_the_log
    return list(misfits(table, target, TableColumns({"c": source}, {})))


@pytest.mark.parametrize("there", [MONEY, HeldType(1700, -1, "numeric", "b"), HeldType(25, -1, "text", "b")])
def test_what_a_domain_or_a_composite_type_consists_of_may_be_as_wide_or_wider(there: HeldType) -> None:
    assert deep('"pg_catalog"."numeric"', MONEY, there) == []
    assert deep('"crm"."line"', line(MONEY), line(there)) == []
    assert deep('"crm"."_line"', array(line(MONEY), "_line"), array(line(there), "_line")) == []
    assert deep('"crm"."_money"', array(MONEY, "_money"), array(there, "_money")) == []


def test_what_a_domain_or_a_composite_type_consists_of_must_not_be_narrower() -> None:
    (plain,) = deep('"pg_catalog"."numeric"', MONEY, CENTS)
    assert plain.seen == "its column c is crm.it with numeric(8,2) instead of numeric(12,4)"
    assert plain.fix == 'alter table "crm"."deal" alter column "c" type numeric(12,4);'
    (composite,) = deep('"crm"."line"', line(MONEY), line(CENTS))
    assert composite.seen == (
        "its column c is crm.it with numeric(8,2) instead of numeric(12,4) in attribute the amount"
    )
    assert composite.fix == (
        'alter table "crm"."deal" alter column "c" type text;'
        ' alter type "crm"."line" alter attribute "the amount" type numeric(12,4);'
        ' alter table "crm"."deal" alter column "c" type crm.it using "c"::crm.it;'
    )
    (elements,) = deep('"crm"."_money"', array(MONEY, "_money"), array(CENTS, "_money"))
    assert elements.fix == 'alter table "crm"."deal" alter column "c" type text;'
    assert deep('"crm"."_line"', array(line(MONEY), "_line"), array(line(CENTS), "_line")) != []


def test_a_type_of_users_is_no_remedy_where_the_replica_may_have_another_one_of_its_name() -> None:
    mood, short = HeldType(16500, -1, "mood", "e", "crm"), HeldType(1043, 14, "varchar", "b")
    (plain,) = deep('"crm"."mood"', mood, short, told_by_the_log=True)
    assert plain.seen == 'its column c is crm.it instead of "crm"."mood"'
    assert plain.fix == 'alter table "crm"."deal" alter column "c" type text;'
    (inside,) = deep('"crm"."line"', line(mood), line(short))
    assert inside.seen == (
        'its column c is crm.it with character varying(10) instead of enum "crm"."mood"'
        " in attribute the amount"
    )
    assert ' alter type "crm"."line" alter attribute "the amount" type text; ' in inside.fix


def enum(*labels: str) -> HeldType:
    return HeldType(16500, -1, "mood", "e", "crm", labels=labels)


def test_labels_that_an_enum_lacks_are_added_where_the_source_has_them() -> None:
    ways: list[tuple[str, Callable[[HeldType], HeldType]]] = [
        ("mood", lambda mood: mood),
        ("line", line),
        ("_mood", lambda mood: array(mood, "_mood")),
    ]
    for name, wrap in ways:
        (found,) = deep(f'"crm"."{name}"', wrap(enum("a", "b", "it's", "c")), wrap(enum("b", "mine")))
        assert (
            found.seen
            == """its column c has enum "crm"."mood", which lacks 'a', "it's", 'c' of the source's"""
        )
        assert found.fix == (
            """alter type "crm"."mood" add value if not exists 'a' before 'b';"""
            """ alter type "crm"."mood" add value if not exists 'it''s' after 'b';"""
            """ alter type "crm"."mood" add value if not exists 'c' after 'it''s';"""
        )
        assert not found.silent  # PostgreSQL refuses such a value aloud
    assert deep('"crm"."mood"', enum("a", "b"), enum("b", "mine", "a")) == []


def test_attributes_in_another_order_change_every_value() -> None:
    parts = (("price", HeldType(1700, -1, "numeric", "b")), ("qty", HeldType(1700, -1, "numeric", "b")))
    ours = HeldType(90_000, -1, "pos", "c", "app", parts)
    theirs = HeldType(80_000, -1, "pos", "c", "app", parts[::-1])
    found = narrowing(ours, theirs)
    assert found is not None
    assert found.reordered
    assert narrowing(ours, HeldType(80_000, -1, "pos", "c", "app", parts)) is None
    outer = [HeldType(each.oid, -1, "row", "c", "app", (("pos", each),)) for each in (ours, theirs)]
    assert (inside := narrowing(*outer)) is not None
    assert inside.reordered


def test_attributes_that_only_one_side_has_are_left_to_the_first_row_that_has_them() -> None:
    shorter = HeldType(16600, -1, "line", "c", "crm", line(MONEY).parts[:1])
    assert deep('"crm"."line"', line(MONEY), shorter) == []
    assert deep('"crm"."line"', shorter, line(MONEY)) == []


def test_a_column_of_the_replica_s_own_must_take_null_or_fill_itself() -> None:
    table = TableSchema("crm", "deal", ReplicaIdentity.DEFAULT, (Column("c", 25, -1, "text", False),))
    text = HeldType(25, -1, "text", "b")
    columns = {name: TargetColumn(name, "text", False, False, text, "SQL;") for name in ("c", "own")}
    found = list(unfilled(table, TargetTable("crm", "deal", "r", columns, (), (), ())))
    seen = "its own column own is NOT NULL and has no default"
    assert found == [Misfit(seen, "SQL;", loses="the constraint")]
