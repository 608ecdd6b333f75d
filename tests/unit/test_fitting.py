"""Whether a replica's column takes every value of the log's as it is."""

from __future__ import annotations

import pytest

from connectors.postgres.apply_catalog import HeldType, TargetColumn, TargetTable
from connectors.postgres.fitting import misfits
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
        (NUMERICS, numeric(12, 2), NUMERICS, numeric(12, 3)),
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
    assert lacking.fix == 'alter table "crm"."Deal" add column "c" text;'
