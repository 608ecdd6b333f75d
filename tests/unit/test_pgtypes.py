"""schemas.pgtypes: OIDs and modifiers as SQL. The integration tests ask PostgreSQL itself."""

from __future__ import annotations

import pytest

from schemas.errors import RefusedData
from schemas.pgtypes import format_type


@pytest.mark.parametrize(
    ("oid", "modifier", "name"),
    [
        (23, -1, "integer"),
        (18, -1, '"char"'),
        (1042, -1, "bpchar"),  # not `character`, which is character(1)
        (1042, 5, "character(1)"),
        (1043, 259, "character varying(255)"),
        (1700, -1, "numeric"),
        (1700, (10 << 16 | 2) + 4, "numeric(10,2)"),
        (1700, (4 << 16 | (-1000 & 0x7FF)) + 4, "numeric(4,-1000)"),
        (1114, 0, "timestamp(0) without time zone"),
        (1184, 6, "timestamp(6) with time zone"),
        (1266, 3, "time(3) with time zone"),
        (1560, -1, '"bit"'),
        (1560, 8, "bit(8)"),
        (1562, 8, "bit varying(8)"),
        (1186, -1, "interval"),
        (1186, 0x7FFF << 16 | 3, "interval(3)"),
        (1186, (1 << 3 | 1 << 10 | 1 << 11 | 1 << 12) << 16 | 2, "interval day to second(2)"),
        (1186, 1 << 2 << 16 | 0xFFFF, "interval year"),
        (1007, -1, "integer[]"),
        (1231, (5 << 16 | 1) + 4, "numeric(5,1)[]"),
        (22, -1, "int2vector"),
        (1006, -1, "int2vector[]"),
    ],
)
def test_built_in_types_are_named_with_their_modifiers(oid: int, modifier: int, name: str) -> None:
    assert format_type(oid, modifier) == name


@pytest.mark.parametrize(
    ("user_type", "name"),
    [
        (("public", "citext"), '"public"."citext"'),
        (("crm", "_mood"), '"crm"."_mood"'),
        (('we"ird', "Select"), '"we""ird"."Select"'),
    ],
)
def test_user_types_are_quoted_and_qualified(user_type: tuple[str, str], name: str) -> None:
    assert format_type(16400, 77, user_type) == name


def test_a_built_in_oid_needs_no_name_and_ignores_one() -> None:
    assert format_type(25, -1, ("public", "text")) == "text"


def test_a_type_that_nobody_names_is_refused() -> None:
    with pytest.raises(
        RefusedData, match=r"the type of crm\.deal\.c, with OID 16400, is not known"
    ) as refused:
        format_type(16400, -1, column="crm.deal.c")
    assert refused.value.code == "type-unknown"
    assert "select 16400::regtype" in refused.value.hint
