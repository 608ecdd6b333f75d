"""schemas.names: any PostgreSQL name as an Avro name and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from schemas.identifiers import as_sql, qualified
from schemas.names import decode_name, encode_name

AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What escapes are made of, so that collisions would be found.
TRICKY = st.text(st.sampled_from("_x0159abcfgXZ-.é\"' 😀"), min_size=1, max_size=12)
DOTTED = st.text(st.sampled_from('.".a'), min_size=1, max_size=4)
ANY_NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63)


@given(TRICKY | ANY_NAME)
def test_a_name_is_valid_in_avro_and_comes_back(name: str) -> None:
    assert AVRO_NAME.fullmatch(encode_name(name))
    assert decode_name(encode_name(name)) == name


@given(TRICKY, TRICKY)
def test_two_names_never_become_one(one: str, other: str) -> None:
    assert (encode_name(one) == encode_name(other)) == (one == other)


@given(st.tuples(DOTTED, DOTTED), st.tuples(DOTTED, DOTTED))
def test_two_tables_are_never_told_alike(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (qualified(*one) == qualified(*other)) == (one == other)


def test_only_what_could_be_taken_for_two_names_is_quoted() -> None:
    assert qualified("a.b", 'c"d', '"e') == '"a.b".c"d."""e"'


@given(DOTTED | ANY_NAME, DOTTED | ANY_NAME)
def test_what_was_told_of_a_table_names_it_in_sql(schema: str, name: str) -> None:
    assert as_sql(qualified(schema, name)) == sql.Identifier(schema, name).as_string()


@pytest.mark.parametrize("name", ["id", "created_at", "_private", "tax_xml", "x2d", "Name", "a__b", "select"])
def test_names_that_avro_allows_stay_as_they_are(name: str) -> None:
    assert encode_name(name) == name


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("e-mail", "e_x2d_mail"),
        ("2nd", "_x32_nd"),
        ("_x2d_", "_x5f_x2d_"),
        ("größe", "gr_xf6__xdf_e"),
        ("a.b", "a_x2e_b"),
        ("😀", "_x1f600_"),
    ],
)
def test_other_names_are_escaped_with_their_code_points(name: str, encoded: str) -> None:
    assert encode_name(name) == encoded
