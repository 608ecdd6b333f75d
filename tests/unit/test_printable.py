"""Names with control characters: shown, never obeyed, and exact where a machine reads them."""

from __future__ import annotations

import json

import pytest
from psycopg import sql

from pipeline.cli.output import json_line
from pipeline.printable import printable, printable_lines, printable_sql

EVIL = "a\x1b]0;owned\x07\n\r\t\x7f\x9b'\"\\é"
CONTROLS = [chr(code) for code in (*range(32), *range(127, 160))]


def test_no_control_character_is_left_in_a_line() -> None:
    assert printable(EVIL) == r"""a\x1b]0;owned\x07\n\r\t\x7f\x9b'"\é"""
    assert all(printable(control).isprintable() for control in CONTROLS)


def test_only_line_breaks_are_left_in_several_lines() -> None:
    assert printable_lines("a\n\x1bb") == "a\n\\x1bb"
    assert [each for each in CONTROLS if not printable_lines(each).isprintable()] == ["\n"]


def test_json_shows_none_and_says_the_same() -> None:
    text = json_line({EVIL: CONTROLS})
    assert text.isprintable()
    assert json.loads(text) == {EVIL: CONTROLS}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('drop table "a\x1bb";', 'drop table U&"a\\001bb";'),
        ('table "a""\n\\";', 'table U&"a""\\000a\\\\";'),
        ("select 'it''s\x9b'", "select E'it''s\\u009b'"),
        ("select  E'\\\\\x1b'", "select  E'\\\\\\u001b'"),
        ("select 1;  -- don't \x1b\nselect 'a'", "select 1;  -- don't \\x1b\nselect 'a'"),
        ("do $$ begin\n  execute 'x' || \"y\";\nend $$;", "do $$ begin\n  execute 'x' || \"y\";\nend $$;"),
    ],
)
def test_sql_is_spelled_with_its_own_escapes_where_it_must_be(before: str, after: str) -> None:
    assert printable_sql(before) == after


def test_sql_of_an_evil_name_and_literal_shows_none_of_it() -> None:
    made = sql.SQL("comment on table {} is {};").format(sql.Identifier(EVIL), sql.Literal(EVIL))
    assert printable_sql(made.as_string()).isprintable()
