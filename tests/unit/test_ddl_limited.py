"""What schema messages tell replicas of columns that the publication does not list."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from connectors.postgres.limits.limit import Limit
from pipeline.capture.ddl.judging import after_message
from pipeline.capture.ddl.limited import relaxed, to_be_listed
from pipeline.capture.entries.limitednames import LIMITED, LimitedName, limit_to_say
from pipeline.capture.entries.told import TOLD, TRACKED, TRACKING, Told
from pipeline.config.model import Tables
from schemas.ddl.message import SENT, UNPUBLISHED, ObjectChange, SchemaMessage, TableRows
from schemas.entries import Entries


def column(num: int, name: str, **more: Any) -> dict[str, Any]:
    known = {"identity": "", "identity_options": None, "missing": "1", "has_missing": True, "generated": ""}
    return {"num": num, "name": name, "type_oid": 23, "not_null": True, "default": "1", **known, **more}


def constraint(oid: int, kind: str, definition: str) -> dict[str, Any]:
    return {"oid": oid, "type": kind, "def": definition}


STATE = {
    "columns": [column(1, "id"), column(2, 'a"b'), column(3, "g", generated="s", default="id + 1")],
    "constraints": [
        constraint(1, "p", "PRIMARY KEY (id)"),
        constraint(2, "c", 'CHECK (("a""b" > 0))'),
        constraint(3, "u", 'UNIQUE (id, "a""b")'),
        constraint(4, "u", 'UNIQUE NULLS NOT DISTINCT ("a""b")'),
        constraint(5, "c", "CHECK ((idle > 0))"),
    ],
    "indexes": [
        {"oid": 6, "primary": False, "unique": False, "def": 'CREATE INDEX i ON t USING btree ("a""b")'}
    ],
}


def test_columns_that_are_not_listed_may_be_null_and_nothing_fills_them() -> None:
    change = relaxed(ObjectChange("table", 9, None, STATE, SENT), [1])
    assert change.after is not None
    told = {each["name"]: (each["not_null"], each["default"]) for each in change.after["columns"]}
    assert told == {"id": (True, "1"), 'a"b': (False, None), "g": (False, "id + 1")}
    assert [each["oid"] for each in change.after["constraints"]] == [1, 3, 5]
    assert [each["oid"] for each in change.after["indexes"]] == [6]
    assert change.rewritten == UNPUBLISHED
    assert change.unlisted == ('a"b', "g")


def test_a_column_whose_type_may_be_a_domain_with_a_default_is_told_with_none() -> None:
    state = STATE | {"columns": [column(1, "id"), column(2, "d", type_oid=16999, default=None)]}
    change = relaxed(ObjectChange("table", 9, None, state, SENT), [1])
    assert change.after is not None
    assert change.after["columns"][1]["default"] == "NULL"


@pytest.mark.parametrize(
    ("kind", "definition", "told"),
    [
        ("", 'CREATE UNIQUE INDEX i ON s.t USING btree (id) WHERE ("a""b" IS NULL)', False),
        ("", 'CREATE UNIQUE INDEX i ON s.t USING btree (COALESCE("a""b", 0))', False),
        ("", "CREATE UNIQUE INDEX i ON s.t USING btree (((t.*)::text))", False),
        ("", "CREATE UNIQUE INDEX i ON s.t USING btree (h)", False),
        ("", "CREATE UNIQUE INDEX i ON s.t USING btree (g)", True),
        ("", 'CREATE UNIQUE INDEX i ON s.t USING btree ("a""b", id)', True),
        ("", 'CREATE UNIQUE INDEX i ON s.t USING btree (lower(id)) INCLUDE ("a""b")', True),
        ("", 'CREATE UNIQUE INDEX "i(1" ON s.t USING btree ("a""b") WITH (fillfactor=\'70\')', True),
        ("", 'CREATE UNIQUE INDEX i ON s.t USING btree (id) INCLUDE ("a)b", "a""b")', True),
        (
            "x",
            "EXCLUDE USING gist (\"a\"\"b\" o (len='9') WITH OPERATOR(p.&&)) WITH (fillfactor='70', a=auto)",
            True,
        ),
        ("x", 'EXCLUDE USING gist (id WITH =) WHERE ("a""b")', False),
        ("x", 'EXCLUDE USING gist (id WITH =, "a""b" WITH &&)', True),
        ("f", 'FOREIGN KEY (id, "a""b") REFERENCES s.o(x, y) MATCH FULL', False),
        ("f", 'FOREIGN KEY (id, "a""b") REFERENCES s.o(x, y)', True),
        ("f", 'FOREIGN KEY (id) REFERENCES s.o("a""b") MATCH FULL', True),
        ("f", "FOREIGN KEY (h) REFERENCES s.o(x)", False),
        ("c", "CHECK ((num_nulls(t.*) = 0))", False),
        ("c", "CHECK ((id ~ '^a.*'::text))", True),
        ("c", "CHECK ((h(id) <> 'h'::h))", True),
    ],
)
def test_keys_that_null_may_break_are_not_told(kind: str, definition: str, told: bool) -> None:
    index = {"oid": 8, "primary": False, "unique": True, "def": definition}
    computed = column(4, "h", generated="s", default='COALESCE("a""b", 0)')
    members = {"constraints": [constraint(8, kind, definition)]} if kind else {"indexes": [index]}
    state = {"columns": [*STATE["columns"], computed], "constraints": [], "indexes": [], **members}
    change = relaxed(ObjectChange("table", 9, None, state, SENT), [1])
    assert change.after is not None
    assert bool(change.after["constraints"] or change.after["indexes"]) == told


def test_a_table_without_a_list_and_another_object_are_told_as_they_are() -> None:
    table, other = ObjectChange("table", 9, None, STATE), ObjectChange("type", 9, None, {"name": "t"})
    assert relaxed(table, None) is table
    assert relaxed(other, [1]) is other


def test_a_table_that_is_to_join_is_told_as_its_name_or_what_it_is_a_partition_of_stands_for() -> None:
    entries = Entries().put(LIMITED, LimitedName(0, "s", "t", ("id",), is_filtered=False))
    part = {**STATE, "schema": "s", "name": "t_1", "partition_of": ["s", "t"]}
    states = part, {**part, "name": "t", "partition_of": None}, {**part, "partition_of": ["s", "other"]}
    changes = [ObjectChange("table", 9, None, state) for state in states]
    assert [to_be_listed(change, Tables(), entries) for change in changes] == [(1,), (1,), None]


def test_a_limit_has_the_names_that_its_table_s_schema_gives_it_too_and_keeps_them() -> None:
    entries = Entries().put(TRACKING, TRACKED).put(TOLD, Told(9, "s", "t", ""))
    entries = entries.put(LIMITED, LimitedName(9, "s", "t", ("id",), is_filtered=False))
    renamed = ObjectChange("schema", 5, {"name": "s"}, {"name": "r"})
    dropped = ObjectChange("table", 9, {"schema": "r", "name": "t"}, None)
    for n, change in enumerate((renamed, dropped)):
        entries = after_message(entries, SchemaMessage("7", n, changes=(change,)), "p")
        assert {each.name for each in entries.of(LIMITED)} == {("s", "t"), ("r", "t")}
    assert {each.oid for each in entries.of(LIMITED)} == {0}


def test_the_entry_to_write_stands_in_the_file_as_it_is_told() -> None:
    odd = "select \u202e'\n\\ \U0001f600 \".*"
    said = limit_to_say(LimitedName(1, odd, "a.b", (odd, "id"), is_filtered=False))
    entry = said.partition("as in `source.tables.limits: ")[2].partition("` (`columns`")[0]
    tables = Tables.model_validate({"limits": yaml.safe_load(entry)})
    assert tables.limits_by_name == {(odd, "a.b"): Limit((odd, "id"))}


def test_rewritten_rows_are_those_that_the_publication_sends() -> None:
    rows = TableRows(9, "s", "t", ("id",), True, True, ("(1)", "(2)", "(3)"))
    rows = replace(rows, filters=("p", "q"), sent=("10", "01", "11"))
    assert rows.sent_by("p").records == ("(1)", "(3)")
    assert rows.sent_by("q").records == ("(2)", "(3)")
    assert rows.sent_by("other").records == rows.records
