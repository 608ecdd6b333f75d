"""Schema changes as `events tail` shows them."""

from __future__ import annotations

from pipeline.events.event import EventEncoder
from schemas.change import Change, Message, Operation
from schemas.ddl.message import DDL_PREFIX, TOO_LARGE, ObjectChange, SchemaMessage, TableRows


def events(message: SchemaMessage) -> list[tuple[object, ...]]:
    change = Change(Operation.MESSAGE, bytes(8), payload=Message(True, DDL_PREFIX, message.to_json()))
    return [
        tuple(e[key] for key in ("schema", "name", "op", "after")) for e in EventEncoder({}).encode(change)
    ]


def test_each_object_of_a_command_is_an_event() -> None:
    before, after = {"schema": "s", "name": "a"}, {"schema": "s", "name": "b"}
    message = SchemaMessage("1", 0, tag="ALTER TABLE", changes=(ObjectChange("table", 7, before, after),))
    shown = {"tag": "ALTER TABLE", "class": "table", "before": before, "after": after}
    assert events(message) == [("s", "b", "ddl", shown)]


def test_rows_of_a_rewritten_table_come_after_it_was_emptied() -> None:
    rows = TableRows(7, "s", "t", ("id", "note"), first=True, last=True, records=('(1,"a b")', "(2,)"))
    assert events(SchemaMessage("1", 1, rows=rows)) == [
        ("s", "t", "truncate", None),
        ("s", "t", "insert", {"id": "1", "note": "a b"}),
        ("s", "t", "insert", {"id": "2", "note": None}),
    ]


def test_a_rewritten_table_whose_rows_are_too_many_for_the_log_is_told_without_them() -> None:
    state = {"schema": "s", "name": "a"}
    message = SchemaMessage("1", 0, changes=(ObjectChange("table", 7, state, state, TOO_LARGE),))
    [(*_, after)] = events(message)
    assert isinstance(after, dict)
    assert after["without_rows"] is True


def test_that_the_trigger_came_is_no_event() -> None:
    assert events(SchemaMessage("1", 0, installed=True)) == []
