"""Packing: nothing lost, nothing reordered, whatever the sizes; bodies read back as frames (P3)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.capture.writing.packer import FramePacker, PackedBody
from schemas.change import Change, Operation
from schemas.changecodec import encode_change
from schemas.frame import Part, PartChanges, Transactions
from schemas.framecodec import FrameHeader, seal_frame
from schemas.lsn import Lsn
from schemas.table import Column, TableSchema
from tests.frames import STREAM, TABLE, opened

TARGET = 400


def pack(sizes: list[list[int]], *, flush_every: int = 3) -> list[PackedBody]:
    packer = FramePacker((), target_bytes=TARGET)
    bodies: list[PackedBody] = []
    lsn = 100
    for number, rows in enumerate(sizes):
        packer.begin(xid=number + 1, commit_lsn=Lsn(lsn), commit_time=number)
        for size in rows:
            packer.need(TABLE)
            change = Change(Operation.INSERT, TABLE.id, row=bytes(size))
            bodies += packer.add(encode_change(change))
        bodies += packer.commit(end_lsn=Lsn(lsn + 50))
        lsn += 100
        if number % flush_every == 0:
            bodies += packer.flush()
    return [*bodies, *packer.flush()]


def unpack(bodies: list[PackedBody]) -> list[tuple[int, list[int]]]:
    """(xid, row sizes) of every transaction, in order."""
    found: list[tuple[int, list[int]]] = []
    parts, rows = PartChanges(), list[int]()
    for body in bodies:
        record, _ = seal_frame(FrameHeader(STREAM, 1, 1, bytes(32), 0), body.tables, body.body)
        frame = opened(record)
        assert frame.position == body.position
        if isinstance(frame.body, Transactions):
            found += [
                (transaction.xid, [len(change.row or b"") for change in transaction.iter_changes()])
                for transaction in frame.body.transactions
            ]
        else:
            assert isinstance(frame.body, Part)
            assert frame.body.commit_time == frame.body.xid - 1  # known from its first part on
            rows += [len(change.row or b"") for change in parts.feed(frame.body)]
            if frame.body.commit is not None:
                found.append((frame.body.xid, rows))
                rows = []
    assert rows == []
    return found


@given(st.lists(st.lists(st.integers(0, 1500), max_size=8), max_size=8))
def test_every_row_of_every_transaction_comes_out_in_order(sizes: list[list[int]]) -> None:
    assert unpack(pack(sizes)) == [(number + 1, rows) for number, rows in enumerate(sizes)]


@given(st.lists(st.lists(st.integers(0, 5000), max_size=8), max_size=8))
def test_no_frame_is_much_larger_than_the_target(sizes: list[list[int]]) -> None:
    assert all(len(body.body) <= 2 * TARGET + 100 for body in pack(sizes))


def test_a_table_version_travels_once_before_its_first_row() -> None:
    bodies = pack([[10], [10], [2000], [10]])
    assert [body.tables for body in bodies].count((TABLE,)) == 1
    assert bodies[0].tables == (TABLE,)


def test_a_newer_version_replaces_the_older_one_among_the_live_tables() -> None:
    packer = FramePacker((TABLE,))
    newer = TableSchema(
        TABLE.schema,
        TABLE.name,
        TABLE.replica_identity,
        (*TABLE.columns, Column("city", 25, -1, "text", key=False)),
    )
    packer.need(newer)
    assert packer.live_tables == (newer,)


def test_an_anchor_is_never_due_inside_the_parts_of_a_transaction() -> None:
    packer = FramePacker((), target_bytes=TARGET)
    packer.begin(xid=1, commit_lsn=Lsn(1), commit_time=1)
    handed_out = [
        body
        for _ in range(3)
        for body in packer.add(encode_change(Change(Operation.INSERT, TABLE.id, row=bytes(300))))
    ]
    assert handed_out
    assert all(body.position is None for body in handed_out)


def test_p7_a_table_version_never_travels_before_the_transaction_that_brought_it() -> None:
    """If that transaction is voided, a capture that continues must find the version new again."""
    packer = FramePacker(())
    packer.begin(xid=1, commit_lsn=Lsn(100), commit_time=1)
    assert list(packer.commit(end_lsn=Lsn(150))) == []
    packer.begin(xid=2, commit_lsn=Lsn(200), commit_time=2)
    packer.need(TABLE)
    (before,) = packer.flush()
    assert before.tables == ()
    assert list(packer.commit(end_lsn=Lsn(250))) == []
    (after,) = packer.flush()
    assert after.tables == (TABLE,)
