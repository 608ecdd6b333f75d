"""What a change is that is more than a row: the same for who plans, applies and shows it."""

from __future__ import annotations

import pytest

from pipeline.apply.grouping import is_barrier
from pipeline.events.event import EventEncoder
from schemas.barrier import (
    Barrier,
    DdlMessage,
    JoinKeysMessage,
    JoinMessage,
    JoinRowsMessage,
    UnknownMessage,
    barrier_of,
)
from schemas.change import Change, ColumnsAdded, Message, Operation, Truncate
from schemas.errors import InternalError
from schemas.join import is_join

TABLE = b"t" * 8


def message(prefix: str) -> Change:
    return Change(Operation.MESSAGE, bytes(8), payload=Message(True, prefix, b"x"))


@pytest.mark.parametrize(
    ("prefix", "barrier"),
    [
        ("keepstream.join", JoinMessage(b"x")),
        ("keepstream.join.empty", JoinMessage(b"x", empty=True)),
        ("keepstream.join.rows", JoinRowsMessage(b"x")),
        ("keepstream.join.keys", JoinKeysMessage(b"x")),
        ("keepstream.ddl", DdlMessage(b"x")),
        ("keepstream.ddl.v2", UnknownMessage("keepstream.ddl.v2")),
        ("keepstream.join.rows.v2", UnknownMessage("keepstream.join.rows.v2")),
        ("keepstream.join.sequence", UnknownMessage("keepstream.join.sequence")),
        ("keepstream.wait", None),
        ("keepstream.verify", None),
        ("crm.note", None),
        ("keepstream.joinery", None),
        ("", None),
    ],
)
def test_a_message_is_a_barrier_by_its_prefix(prefix: str, barrier: Barrier | None) -> None:
    assert barrier_of(message(prefix)) == barrier
    assert is_barrier((message(prefix),)) is (barrier is not None)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("keepstream.join", True),
        ("keepstream.join.rows", True),
        ("keepstream.join.of-a-later-version", True),
        ("keepstream.joined", False),
        ("keepstream.joinery.rows", False),
        ("keepstream", False),
    ],
)
def test_a_message_is_about_a_joining_table_by_the_whole_word(prefix: str, expected: bool) -> None:
    assert is_join(prefix) is expected


@pytest.mark.parametrize("payload", [Truncate((TABLE,), False, False), ColumnsAdded(TABLE, ())])
def test_a_change_of_whole_tables_is_a_barrier(payload: Truncate | ColumnsAdded) -> None:
    change = Change(Operation.DDL, TABLE, payload=payload)
    assert barrier_of(change) is payload
    assert is_barrier((change,))


def test_a_row_is_none() -> None:
    row = Change(Operation.INSERT, TABLE, row=b"\0")
    assert barrier_of(row) is None
    assert not is_barrier((row, row))


def test_events_do_not_pass_over_an_unknown_message_of_a_joining_table() -> None:
    encoder = EventEncoder({})
    with pytest.raises(InternalError) as stopped:
        list(encoder.encode(message("keepstream.join.sequence")))
    assert stopped.value.code == "join-unknown"
    assert list(encoder.encode(message("keepstream.verify"))) == []
    (event,) = encoder.encode(message("crm.note"))
    assert event["after"] == {"prefix": "crm.note", "content": "x"}
