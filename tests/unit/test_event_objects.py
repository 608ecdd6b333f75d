"""Events without a log: COPY's text of a joining table, and the spool of a big transaction."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.events import _line
from pipeline.events.event import EventEncoder
from pipeline.events.joined import joined_rows
from pipeline.events.spool import PartSpool
from schemas.change import Change, Message, Operation
from schemas.changecodec import encode_change
from schemas.frame import Fragment, Part
from schemas.join import Join
from schemas.lsn import ZERO

TEXT = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_ESCAPES = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def copied(value: str | None) -> str:
    """As PostgreSQL's COPY TO writes it."""
    return "\\N" if value is None else "".join(_ESCAPES.get(letter, letter) for letter in value)


@given(st.lists(st.tuples(TEXT, TEXT)))
def test_rows_of_a_joining_table_come_back_from_copy_s_text(
    rows: list[tuple[str | None, str | None]],
) -> None:
    join = Join("public", "late", ("a", "b"), (), ())
    content = "".join(f"{copied(a)}\t{copied(b)}\n" for a, b in rows).encode()
    assert list(joined_rows(join, content)) == [{"a": a, "b": b} for a, b in rows]


def test_a_row_of_one_empty_text_and_a_row_without_columns_are_rows() -> None:
    assert list(joined_rows(Join("s", "t", ("a",), (), ()), b"\nx\n")) == [{"a": ""}, {"a": "x"}]
    assert list(joined_rows(Join("s", "t", (), (), ()), b"\n\n")) == [{}, {}]
    assert list(joined_rows(Join("s", "t", ("a",), (), ()), b"")) == []


def test_bytes_that_are_no_text_cannot_be_taken_for_text() -> None:
    join = Join("public", "late", ("a", "b"), (), ())
    (row,) = joined_rows(join, b"\xff\\\\\t\\\\xff\n")
    assert row == {"a": {"bytes": "\\xff5c"}, "b": "\\xff"}
    (event,) = EventEncoder({}).encode(
        Change(Operation.MESSAGE, bytes(8), payload=Message(True, "p", b"\x00\xff"))
    )
    assert event["after"] == {"prefix": "p", "content": {"bytes": "\\x00ff"}}
    line = _line(event | {"commit_time": "T", "commit_lsn": "0/1"})
    assert line == r'T  0/1  message   prefix="p"  content={"bytes": "\\x00ff"}'


@given(st.lists(st.binary(max_size=60), max_size=12), st.integers(1, 40))
def test_changes_come_back_from_the_spool_however_they_were_cut(contents: list[bytes], limit: int) -> None:
    changes = [
        Change(Operation.MESSAGE, bytes(8), payload=Message(True, "p", content)) for content in contents
    ]
    spool = PartSpool()
    for change in changes:
        encoded = encode_change(change)
        if len(encoded) <= limit:
            spool.add(Part(1, ZERO, 0, 1, 1, encoded))
            continue
        for start in range(0, len(encoded), limit):
            end = start + limit
            spool.add(Part(1, ZERO, 0, 1, 0, b"", Fragment(encoded[start:end], last=end >= len(encoded))))
    assert list(spool.changes()) == changes
    spool.close()
