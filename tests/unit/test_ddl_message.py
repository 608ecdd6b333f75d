"""Messages of schema changes survive the log."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from schemas.ddl.message import TOO_LARGE, ObjectChange, SchemaMessage, TableRows, is_ddl

STATE = {"schema": "sales", "name": "ord"}
CHANGE = ObjectChange("table", 16385, STATE, None, "sent", ("sales", "whole"), unlisted=("a", "ü"))
MESSAGES = [
    SchemaMessage("733", 0, tag="ALTER TABLE", role="crm", changes=(CHANGE,)),
    SchemaMessage(
        "733", 1, rows=TableRows(16385, "s", "t", ("a", "ü"), True, False, ('(1,"a ""b""")', "(,)"))
    ),
    SchemaMessage("733", 2, rows=TableRows(16385, "s", "t", ("a",), True, True, ("(1)",), ("s", "whole"))),
    SchemaMessage("734", 0, installed=True),
    SchemaMessage("735", 0, removed=True),
    SchemaMessage("736", 0, tag="CREATE TABLE", error="XX000 no idea"),
]


@pytest.mark.parametrize(
    "message", MESSAGES, ids=["change", "rows", "rows of a whole", "installed", "removed", "error"]
)
def test_a_message_survives_the_log(message: SchemaMessage) -> None:
    assert SchemaMessage.from_json(message.to_json()) == message


def test_a_later_version_is_not_read_as_this_one() -> None:
    with pytest.raises(ValueError, match="version 3"):
        SchemaMessage.from_json(b'{"v":3,"xid":"1","n":0}')


def test_only_a_message_that_leaves_a_table_without_its_rows_needs_the_second_version() -> None:
    """A release that knows the first alone would keep rows that the source has not any more."""
    assert json.loads(MESSAGES[0].to_json())["v"] == 1
    large = replace(CHANGE, rewritten=TOO_LARGE)
    content = SchemaMessage("733", 0, changes=(CHANGE, large)).to_json()
    assert json.loads(content)["v"] == 2
    assert SchemaMessage.from_json(content).changes == (CHANGE, large)


def test_an_object_is_called_by_its_newest_name() -> None:
    before, after = {"schema": "a", "name": "b"}, {"schema": "a", "name": "c"}
    assert ObjectChange("table", 1, before, after).name == "a.c"
    assert ObjectChange("schema", 1, {"schema": None, "name": "a"}, None).name == "a"
    assert ObjectChange("other", 7, None, {"tag": "CREATE CAST", "identity": "(x as y)"}).name == "(x as y)"


def test_prefixes_of_later_versions_are_known_as_ours() -> None:
    assert [is_ddl(p) for p in ("keepstream.ddl", "keepstream.ddl.x", "keepstream.ddlx")] == [
        True,
        True,
        False,
    ]
