"""Frames: what is written is read, fastavro agrees, and a damaged byte is never accepted."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import changecodec, framecodec
from schemas.avsc import load
from schemas.change import AddedColumn, Change, ColumnsAdded, Message, Operation, Truncate
from schemas.changecodec import decode_change, decode_changes, encode_change
from schemas.errors import RefusedData
from schemas.frame import Anchor, Fragment, Part, PartChanges, Sequences, Transactions
from schemas.framecodec import (
    FrameHeader,
    encode_part,
    encode_transaction,
    encode_transactions,
    open_frame,
    seal_frame,
)
from schemas.lsn import Lsn, Position
from schemas.sequence import SequenceValue
from tests.frames import STREAM, TABLE, Writer, insert, opened

FRAME_SCHEMA = load("frame.avsc")

row_changes = st.builds(
    Change,
    operation=st.sampled_from([Operation.INSERT, Operation.UPDATE, Operation.DELETE]),
    table=st.binary(min_size=8, max_size=8),
    old_key=st.none() | st.binary(max_size=300),
    old_row=st.none(),
    row=st.none() | st.binary(max_size=300),
    absent=st.lists(st.integers(0, 1599), max_size=4).map(tuple),
    payload=st.none(),
) | st.builds(
    Change,
    operation=st.just(Operation.UPDATE),
    table=st.binary(min_size=8, max_size=8),
    old_key=st.none(),
    old_row=st.binary(max_size=300),
    row=st.binary(max_size=300),
    absent=st.just(()),
    payload=st.none(),
)
texts = st.text(max_size=40)
payloads = (
    st.builds(
        Truncate,
        tables=st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=3).map(tuple),
        cascade=st.booleans(),
        restart_identity=st.booleans(),
    )
    | st.builds(Message, transactional=st.booleans(), prefix=texts, content=st.binary(max_size=300))
    | st.builds(
        ColumnsAdded,
        previous=st.binary(min_size=8, max_size=8),
        columns=st.lists(
            st.builds(
                AddedColumn,
                name=texts,
                type_name=texts,
                not_null=st.booleans(),
                default=st.none() | texts,
                missing=st.none() | texts,
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
    )
)
_OPERATION_OF = {Truncate: Operation.TRUNCATE, Message: Operation.MESSAGE, ColumnsAdded: Operation.DDL}
payload_changes = payloads.map(
    lambda payload: Change(_OPERATION_OF[type(payload)], bytes(8), payload=payload)
)
changes = row_changes | payload_changes


def read_with_fastavro(record: bytes) -> dict[str, Any]:
    source = io.BytesIO(record)
    value = fastavro.schemaless_reader(source, FRAME_SCHEMA, None)
    assert source.tell() == len(record)
    assert isinstance(value, dict)
    return value


def frame_of(encoded: list[bytes]) -> bytes:
    transaction = encode_transaction(
        xid=7, commit_lsn=10, end_lsn=20, commit_time=1, origin="other", changes=encoded
    )
    return seal_frame(FrameHeader(STREAM, 1, 2, bytes(32), 1), (TABLE,), encode_transactions([transaction]))[
        0
    ]


IN_C = (changecodec.encode_row_change, changecodec.walk_changes, framecodec.decode_transactions)


@contextmanager
def in_python() -> Iterator[None]:
    """Changes are written and read by the Python, as where there is no compiler."""
    changecodec.encode_row_change = changecodec.walk_changes = framecodec.decode_transactions = None
    try:
        yield
    finally:
        changecodec.encode_row_change, changecodec.walk_changes, framecodec.decode_transactions = IN_C


@given(st.lists(changes, max_size=4))
def test_changes_are_read_as_they_were_written_in_c_and_in_python(written: list[Change]) -> None:
    block = b"".join(map(encode_change, written))
    assert [decode_change(encode_change(change)) for change in written] == written
    assert decode_changes(block, len(written)) == written
    with in_python():
        assert b"".join(map(encode_change, written)) == block
        assert decode_changes(block, len(written)) == written
    if os.environ.get("CI"):
        assert None not in IN_C


@given(st.lists(changes, min_size=1, max_size=3), st.data())
def test_damaged_changes_are_the_same_or_refused_in_c_and_in_python(
    written: list[Change], data: st.DataObject
) -> None:
    block = bytearray(b"".join(map(encode_change, written)))
    for _ in range(data.draw(st.integers(1, 3))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    by_c = read_or_refused(bytes(block), len(written))
    with in_python():
        assert read_or_refused(bytes(block), len(written)) == by_c


def read_or_refused(block: bytes, count: int) -> object:
    try:
        return decode_changes(block, count)
    except RefusedData as refused:
        return refused.code


@given(st.lists(changes, max_size=5))
def test_fastavro_reads_what_the_hand_written_encoder_wrote(written: list[Change]) -> None:
    value = read_with_fastavro(frame_of([encode_change(change) for change in written]))
    (transaction,) = value["body"]["transactions"]
    assert transaction["origin"] == "other"
    assert [change["operation"] for change in transaction["changes"]] == [c.operation.name for c in written]
    assert [change["row"] for change in transaction["changes"]] == [c.row for c in written]
    assert [tuple(change["absent"]) for change in transaction["changes"]] == [c.absent for c in written]


@given(changes, st.data())
def test_a_truncated_change_is_never_read_as_a_shorter_one(change: Change, data: st.DataObject) -> None:
    encoded = encode_change(change)
    cut = data.draw(st.integers(1, len(encoded) - 1))
    with pytest.raises(RefusedData):
        decode_change(encoded[:cut])
    with in_python(), pytest.raises(RefusedData):
        decode_change(encoded[:cut])


def test_every_kind_of_frame_agrees_with_fastavro() -> None:
    writer = Writer()
    records = [writer.start(), writer.anchor(), writer.transaction(), writer.part(1), writer.heartbeat()]
    moved = SequenceValue("public", 'naïve "s"', False, -(2**63), True, back_from=-7)
    records.append(writer.sequences(moved, replace(moved, back_from=None)))
    kinds = [type(opened(record).body).__name__ for record in records]
    assert kinds == ["CaptureStart", "Anchor", "Transactions", "Part", "Heartbeat", "Sequences"]
    for record in records:
        value = read_with_fastavro(record)
        assert value["number"] == opened(record).number
        assert value["digest"] == opened(record).digest
    assert opened(records[-1]).body == Sequences(
        Position(Lsn(writer.lsn), 1, 1), (moved, replace(moved, back_from=None)), 0
    )
    assert value["body"]["values"][0]["back_from"] == -7
    anchor = opened(records[1])
    assert isinstance(anchor.body, Anchor)
    assert anchor.tables == (TABLE,)
    assert read_with_fastavro(records[1])["tables"][0]["id"] == TABLE.id


def test_every_part_says_which_transaction_it_belongs_to_and_the_last_one_where_that_ends() -> None:
    writer = Writer()
    commit_lsn = writer.lsn
    first, last = (writer.part(number, last=number == 2, xid=9) for number in (1, 2))
    for record in (first, last):
        value = read_with_fastavro(record)["body"]
        assert (value["xid"], value["commit_lsn"]) == (9, commit_lsn)
        assert value["commit_time"] == datetime(1970, 1, 1, 0, 0, 0, 7, tzinfo=UTC)
        part = opened(record).body
        assert isinstance(part, Part)
        assert (part.xid, part.commit_lsn, part.commit_time) == (9, commit_lsn, 7)
    assert read_with_fastavro(first)["body"]["commit"] is None
    assert read_with_fastavro(last)["body"]["commit"] == {"end_lsn": writer.lsn, "origin": None}
    assert opened(first).position is None
    assert opened(last).position == Position(Lsn(writer.lsn), 9, 7)


@pytest.mark.parametrize("kind", ["start", "anchor", "transaction", "heartbeat"])
def test_a_damaged_byte_is_never_accepted(kind: str) -> None:
    writer = Writer()
    writer.start()
    record = getattr(writer, kind)()
    for index in range(len(record)):
        for flipped in (0x01, 0x80):
            damaged = bytearray(record)
            damaged[index] ^= flipped
            assert open_frame(bytes(damaged)) is None


def test_a_truncated_or_lengthened_record_is_never_accepted() -> None:
    record = Writer().start()
    assert all(open_frame(record[:end]) is None for end in range(len(record)))
    assert open_frame(record + b"\0") is None


def test_a_right_digest_over_a_wrong_form_is_another_version_not_damage() -> None:
    record, _ = seal_frame(FrameHeader(STREAM, 1, 1, bytes(32), 0), (), b"\x7e")
    with pytest.raises(RefusedData) as caught:
        opened(record)
    assert caught.value.code == "frame-format"


def test_the_position_after_a_frame_is_the_end_of_its_last_transaction() -> None:
    writer = Writer()
    writer.start()
    frame = opened(writer.transaction(xid=9))
    assert isinstance(frame.body, Transactions)
    assert frame.position is not None
    assert (frame.position.lsn, frame.position.xid) == (writer.lsn, 9)


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=6), st.integers(1, 500))
def test_a_change_cut_into_fragments_comes_out_whole(rows: list[bytes], size: int) -> None:
    written = [Change(Operation.INSERT, TABLE.id, row=row) for row in rows]
    together = PartChanges()
    read: list[Change] = []
    for number, change in enumerate(written):
        encoded = encode_change(change)
        for start in range(0, len(encoded), size):
            piece = Fragment(encoded[start : start + size], last=start + size >= len(encoded))
            read += together.feed(Part(1, Lsn(1), 1, number + 1, 0, b"", piece))
    assert read == written


def test_changes_stand_back_to_back_in_a_part() -> None:
    body = encode_part(
        xid=1,
        commit_lsn=1,
        commit_time=1,
        part=1,
        changes=[insert(b"a"), insert(b"b")],
        fragment=None,
        commit=None,
    )
    record, _ = seal_frame(FrameHeader(STREAM, 1, 1, bytes(32), 0), (), body)
    part = opened(record).body
    assert isinstance(part, Part)
    assert part.change_count == 2
    assert [change.row for change in decode_changes(part.changes, part.change_count)] == [b"a", b"b"]
