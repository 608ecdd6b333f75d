"""schemas.lsn: LSNs as text, and what a position holds (P1)."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.errors import UsageError
from schemas.lsn import START, Lsn, Position, format_lsn, parse_lsn

HALVES = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
LSNS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("text", "lsn"),
    [
        ("0/0", 0),
        ("0/1", 1),
        ("0/80000000", 1 << 31),
        ("0/FFFFFFFF", (1 << 32) - 1),
        ("1/0", 1 << 32),
        ("16/B374D848", 0x16_B374_D848),
        ("80000000/0", 1 << 63),
        ("FFFFFFFF/FFFFFFFF", (1 << 64) - 1),
    ],
)
def test_an_lsn_is_written_as_postgresql_writes_it(text: str, lsn: int) -> None:
    assert (parse_lsn(text), format_lsn(lsn)) == (lsn, text)


@given(LSNS)
@example(1 << 31)
@example(1 << 63)
def test_what_is_written_is_read(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


@given(HALVES, HALVES)
def test_lsns_are_ordered_by_their_first_half_and_then_by_the_second(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    first, second = (parse_lsn(f"{high:08x}/{low:X}") for high, low in (one, other))
    assert (first < second, first == second) == (one < other, one == other)


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "0", "0/", "/0", "0/0/0", "123456789/0", "0/123456789", "G/0", "0/G", "-1/0", "0/-1"),
        *("0x1/0", " 0/0", "0/0 ", "0/0\n", "0 /0", "0_0/0", "0\\0", "１/0", "0/１", "16/B374D848, 0/0"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_lsn(text)
    error = caught.value
    assert (error.code, error.message) == ("lsn-invalid", f"not an LSN: {text!r}")
    assert error.hint == "Write it as PostgreSQL does, for example 16/B374D848."


@given(st.integers(1, 2**64 - 2))
def test_p1_a_position_holds_what_commits_before_it_and_not_what_commits_there(lsn: int) -> None:
    position = Position(Lsn(lsn))
    assert [position.holds(commit_lsn) for commit_lsn in (0, lsn - 1, lsn, lsn + 1)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_position_is_shown_as_its_lsn_and_the_first_holds_nothing() -> None:
    assert str(Position(Lsn(0x16_B374_D848), 7, 8)) == "16/B374D848"
    assert (str(START), START.holds(0)) == ("0/0", False)
