"""Record text is taken apart exactly as PostgreSQL put it together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ddl.record import parse_record


def record_out(values: list[str | None]) -> str:
    """As PostgreSQL's rowtypes.c writes it."""

    def field(value: str | None) -> str:
        if value is None:
            return ""
        quoted = value == "" or any(c in '"\\(),' or c in " \t\n\r\v\f" for c in value)
        return '"' + value.replace("\\", "\\\\").replace('"', '""') + '"' if quoted else value

    return "(" + ",".join(map(field, values)) + ")"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("(1,a)", ["1", "a"]),
        ("(,)", [None, None]),
        ('("",)', ["", None]),
        ('("a ""b"" \\\\c","(1,""x"")")', ['a "b" \\c', '(1,"x")']),
        ('("\n",é\u00a0é)', ["\n", "é\u00a0é"]),
        ("()", [None]),
    ],
)
def test_fields_are_unquoted(text: str, values: list[str | None]) -> None:
    assert parse_record(text, len(values)) == values


def test_a_row_without_columns_is_one_too() -> None:
    assert parse_record("()", 0) == []


@pytest.mark.parametrize(
    "text", ["", "(", "1,2", "(1,2,3)", "(1)", '("a,b)', '(a"b",c)', '("a"b,c)', "(a(,b)"]
)
def test_what_is_no_record_of_two_columns_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="record"):
        parse_record(text, 2)


@given(st.lists(st.none() | st.text('"\\(), \t\nab☃') | st.text(), min_size=1, max_size=5))
def test_any_row_comes_back(values: list[str | None]) -> None:
    assert parse_record(record_out(values), len(values)) == values
