"""Durations, sizes, table patterns and hidden passwords."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.values import (
    Secret,
    TablePattern,
    hide_passwords,
    parse_duration,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("7d", 604800),
        ("1h30m", 5400),
        ("1.5 h", 5400),
        ("250ms", 0.25),
        ("1w", 604800),
        ("0", 0),
    ],
)
def test_a_duration_is_read_with_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["5", "5x", "", "m", "-5m", "5m x", "1e3s", True, None])
def test_a_duration_without_a_known_unit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a duration with its unit"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["99999999999999d", "9" * 400 + "s"])
def test_a_duration_without_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration of less than a billion days"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("public.*", ("public", "any"), ("public2", "any")),
        ("*.audit_*", ("crm", "audit_1"), ("crm", "my_audit_1")),
        ('crm."odd.name"', ("crm", "odd.name"), ("crm", "oddxname")),
        ('crm."a*"', ("crm", "a*"), ("crm", "ab")),
        ('"a""b".t', ('a"b', "t"), ("ab", "t")),
        ("Crm.T", ("Crm", "T"), ("crm", "t")),
        ("a.b+c", ("a", "b+c"), ("a", "bbc")),
        ('"a""b"."c.d"', ('a"b', "c.d"), ("a", 'b"."c.d')),
        ('*."Two ""words"" *"', ("s", 'Two "words" *'), ("s", 'Two "words" x')),
    ],
)
def test_a_pattern_matches_names_as_postgresql_stores_them(
    pattern: str, matching: tuple[str, str], other: tuple[str, str]
) -> None:
    assert TablePattern.parse(pattern).matches(*matching)
    assert not TablePattern.parse(pattern).matches(*other)


@pytest.mark.parametrize("text", ["public", "a.b.c", "", ".a", "a.", 'a."', "a b.c", 5])
def test_a_pattern_without_schema_and_table_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"schema\.table"):
        TablePattern.parse(text)


PASSWORD = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=8)


@given(PASSWORD)
def test_a_password_in_a_uri_is_hidden_whatever_it_holds(password: str) -> None:
    assert hide_passwords(f"postgresql://u:{password}@h/d") == "postgresql://u:***@h/d"


@given(PASSWORD)
def test_a_quoted_password_is_hidden_whatever_it_holds(password: str) -> None:
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    assert hide_passwords(f"host=h password='{quoted}' user=u") == "host=h password=*** user=u"


def test_a_secret_shows_itself_only_when_asked() -> None:
    assert (str(Secret("x")), repr(Secret("x")), f"{Secret('x')}") == ("***", "Secret('***')", "***")
    assert Secret("x").reveal() == "x"
    assert Secret("x") == Secret("x") != Secret("y")
