"""Names with control characters: shown, never obeyed, and exact where a machine reads them."""

from __future__ import annotations

import json
import re
import sys
import unicodedata

import pytest
from psycopg import sql

from pipeline.check.findings import Place, comment, refusal
from pipeline.cli.errors import render_error
from pipeline.cli.output import json_line
from pipeline.logs import LogFormat
from pipeline.printable import printable, printable_lines, printable_sql
from schemas.errors import OperatorNeeded

EVIL = "a\x1b]0;owned\x07\n\r\t\x7f\x9b'\"\\é\u202e\U000e0001"
UNSEEN = [
    chr(code)
    for code in range(160, sys.maxunicode + 1)
    if unicodedata.category(chr(code)) in ("Cf", "Zl", "Zp")
]
CONTROLS = [chr(code) for code in (*range(32), *range(127, 160))]


def test_no_control_character_is_left_in_a_line() -> None:
    assert printable(EVIL) == r"""a\x1b]0;owned\x07\n\r\t\x7f\x9b'"\é\u202e\U000e0001"""
    assert [each for each in CONTROLS + UNSEEN if not printable(each).isprintable()] == []


def test_only_line_breaks_are_left_in_several_lines() -> None:
    assert printable_lines("a\n\x1bb") == "a\n\\x1bb"
    assert [each for each in CONTROLS + UNSEEN if not printable_lines(each).isprintable()] == ["\n"]


def test_json_shows_none_and_says_the_same() -> None:
    text = json_line({EVIL: CONTROLS + UNSEEN})
    assert text.isprintable()
    assert json.loads(text) == {EVIL: CONTROLS + UNSEEN}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('drop table "a\x1bb";', 'drop table U&"a\\001bb";'),
        ('table "a""\n\\";', 'table U&"a""\\000a\\\\";'),
        ("select 'it''s\x9b'", "select E'it''s\\u009b'"),
        ('"a\u202e\U000e0001"', 'U&"a\\202e\\+0e0001"'),
        ("'a\u202e\U000e0001'", "E'a\\u202e\\U000e0001'"),
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


@pytest.mark.parametrize("broken_by", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028"])
def test_a_comment_never_ends_inside_of_a_name(broken_by: str) -> None:
    """PostgreSQL ends one at \\n and at \\r."""
    lines = re.split(r"[\n\r]", printable_sql(comment(f'or: drop table "x{broken_by}; drop table y; --";')))
    assert [line for line in lines if not line.startswith("--")] == []


def test_what_stands_behind_a_line_break_of_a_name_does_not_look_like_a_line_of_ours() -> None:
    error = OperatorNeeded("no x\nhint: run it", code="c", hint="Mend x\nerror[d]: \u202ey\nthen start.")
    shown = render_error(error, LogFormat.TEXT)
    assert shown == "error[c]: no x\\nhint: run it\nhint: Mend x\n  error[d]: \\u202ey\n  then start."


def test_what_run_says_of_a_finding_names_exactly_what_is_meant() -> None:
    finding = Place("source").error("c", "t", "bad", sql='drop table "x\n; drop table y";')
    error = refusal([finding])
    assert error is not None
    assert error.hint == 'Run on the source:\ndrop table U&"x\\000a; drop table y";'
