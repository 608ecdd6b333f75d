"""What is taken from pg_dump's script for a joining table: literals of users never count as its own lines."""

from __future__ import annotations

import pytest

from connectors.postgres.catalog.tableddl import _entries

FORGED = "-- Name: z; Type: FK CONSTRAINT; Schema: q; Owner: -"
HEAD = """--
-- PostgreSQL database dump
--

\\restrict abc

SET standard_conforming_strings = on;
SET default_tablespace = '';

--
-- Name: it's "odd; Type: TABLE; Schema: public; Owner: -
--

"""


@pytest.mark.parametrize(
    "literal",
    [
        f"'x\n{FORGED}\ndrop table t;\n\n--b\n\\q\nSET default_x\nend'",
        f"E'a\\'b\\\\\n{FORGED}\n\ny'",
        f"'it''s\n{FORGED}\n'",
        f'"odd ""name\n{FORGED}\n\n"',
        f"$q$it's\n{FORGED}\n\n$q$",
        "'a\r\nb\x0bc\u2028d\n\ne'",
    ],
)
def test_what_stands_in_a_literal_stays_and_means_nothing(literal: str) -> None:
    statement = f"CREATE TABLE public.t (\n    v text DEFAULT {literal}\n);"
    after = (
        "\n\n--\n-- Name: t_pkey; Type: CONSTRAINT; Schema: public; Owner: -\n--\n\nALTER TABLE t ADD x;\n\n"
    )
    assert _entries(f"{HEAD}{statement}{after}") == [
        ("TABLE", statement),
        ("CONSTRAINT", "ALTER TABLE t ADD x;"),
    ]
