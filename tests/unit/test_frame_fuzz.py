"""The frame reader under fire: damage is never accepted, and a right digest over wrong content is refused by
name or read as exactly what it is, never as something else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.change import Change, Operation
from schemas.changecodec import encode_change
from schemas.errors import RefusedData
from schemas.frame import (
    Anchor,
    CaptureStart,
    Commit,
    Fragment,
    Frame,
    Heartbeat,
    Part,
    PartChanges,
    Sequences,
    Transaction,
    Transactions,
)
from schemas.framecodec import (
    FrameHeader,
    encode_anchor,
    encode_capture_start,
    encode_heartbeat,
    encode_part,
    encode_sequences,
    encode_transaction,
    encode_transactions,
    open_frame,
    seal_frame,
)
from schemas.lsn import Lsn, Position
from schemas.sequence import SequenceValue
from schemas.table import Column, ReplicaIdentity, TableSchema
from tests.damage import damaged, edited
from tests.frames import STREAM, TABLE, Writer
from tests.unit.test_frame import IN_C, changes, in_python

DIGEST_BYTES = 32


@pytest.fixture(scope="module", params=["C", "Python"], autouse=True)
def _changes_are_read(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds for both readers of changes."""
    if request.param == "Python":
        with in_python():
            yield
    elif None in IN_C:
        pytest.skip("schemas._changecode was not built: no C compiler was found")
    else:
        yield


longs = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300)
lsns = st.integers(0, 2**63 - 1).map(Lsn)
texts = st.text(max_size=12)
positions = st.builds(Position, lsns, st.integers(0, 2**32 - 1), longs)
columns = st.builds(
    Column, texts, st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1), texts, st.booleans()
)
tables = st.just(()) | st.lists(
    st.builds(
        TableSchema, texts, texts, st.sampled_from(ReplicaIdentity), st.lists(columns, max_size=3).map(tuple)
    ),
    min_size=1,
    max_size=2,
).map(tuple)
encoded_changes = st.lists(changes.map(encode_change), max_size=3)
transactions = st.builds(
    encode_transaction,
    xid=longs,
    commit_lsn=lsns,
    end_lsn=lsns,
    commit_time=longs,
    origin=st.none() | texts,
    changes=encoded_changes,
)
sequence_values = st.builds(
    SequenceValue, texts, texts, st.booleans(), longs, st.booleans(), st.none() | longs
)
bodies = st.one_of(
    st.lists(transactions, min_size=1, max_size=3).map(encode_transactions),
    st.builds(
        encode_part,
        xid=longs,
        commit_lsn=lsns,
        commit_time=longs,
        part=longs,
        changes=encoded_changes,
        fragment=st.none() | st.builds(Fragment, st.binary(max_size=40), st.booleans()),
        commit=st.none() | st.builds(Commit, lsns, st.none() | texts),
    ),
    st.builds(CaptureStart, st.binary(min_size=16, max_size=16), texts, longs, longs).map(
        encode_capture_start
    ),
    st.builds(Anchor, positions, texts, longs, st.lists(texts, max_size=3).map(tuple), longs).map(
        encode_anchor
    ),
    st.builds(Heartbeat, positions, longs).map(encode_heartbeat),
    st.builds(Sequences, positions, st.lists(sequence_values, min_size=1, max_size=3).map(tuple), longs).map(
        encode_sequences
    ),
)
headers = st.builds(
    FrameHeader, st.binary(min_size=16, max_size=16), longs, longs, st.binary(min_size=32, max_size=32), longs
)
frames = st.builds(seal_frame, headers, tables, bodies).map(lambda sealed: sealed[0])


def sealed_anew(content: bytes) -> bytes:
    """Any content with the digest that is right for it."""
    return content + hashlib.sha256(content).digest()


def encoded_again(frame: Frame) -> bytes:
    """The record of a frame, from nothing but what the frame says."""
    header = FrameHeader(
        frame.stream, frame.epoch, frame.number, frame.previous_digest, frame.max_commit_time
    )
    return seal_frame(header, frame.tables, _encoded_body(frame))[0]


def _encoded_body(frame: Frame) -> bytes:
    match frame.body:
        case Transactions(transactions=whole):
            return encode_transactions([_encoded_transaction(transaction) for transaction in whole])
        case Part() as part:
            assert part.change_count == 0 or part.changes
            return encode_part(
                xid=part.xid,
                commit_lsn=part.commit_lsn,
                commit_time=part.commit_time,
                part=part.part,
                changes=_changes_of(part),
                fragment=part.fragment,
                commit=part.commit,
            )
        case CaptureStart() as start:
            return encode_capture_start(start)
        case Anchor() as anchor:
            return encode_anchor(anchor)
        case Heartbeat() as heartbeat:
            return encode_heartbeat(heartbeat)
        case Sequences() as sequences:
            return encode_sequences(sequences)


def _encoded_transaction(transaction: Transaction) -> bytes:
    return encode_transaction(
        xid=transaction.xid,
        commit_lsn=transaction.commit_lsn,
        end_lsn=transaction.end_lsn,
        commit_time=transaction.commit_time,
        origin=transaction.origin,
        changes=[encode_change(change) for change in transaction.iter_changes()],
    )


def _changes_of(part: Part) -> list[bytes]:
    whole = Part(part.xid, part.commit_lsn, part.commit_time, part.part, part.change_count, part.changes)
    return [encode_change(change) for change in PartChanges().feed(whole)]


def assert_read_or_refused(record: bytes) -> None:
    """A record with a right digest is what it says, refused as another version's, or no frame at all."""
    try:
        frame = open_frame(record)
        again = None if frame is None else encoded_again(frame)
    except RefusedData as refused:
        assert refused.code == "frame-format"  # noqa: PT017 - whatever else comes is the failure
        return
    if again is None:
        assert record[:4] != b"KSF1" or len(record) < 4 + 16 + 2 * DIGEST_BYTES
    else:
        assert again == record


@given(frames)
def test_every_frame_reads_back_as_the_same_bytes(record: bytes) -> None:
    frame = open_frame(record)
    assert frame is not None
    assert encoded_again(frame) == record


@given(st.data())
def test_a_frame_with_any_damage_is_never_accepted(data: st.DataObject) -> None:
    record = data.draw(frames)
    spoilt = data.draw(damaged(record))
    assert open_frame(spoilt) is None


@given(frames, frames, st.data())
def test_pieces_of_two_frames_are_never_one(first: bytes, second: bytes, data: st.DataObject) -> None:
    """A torn write leaves the beginning of one record and the end of another."""
    joined = first[: data.draw(st.integers(0, len(first)))] + second[data.draw(st.integers(0, len(second))) :]
    if joined not in (first, second):
        assert open_frame(joined) is None


@given(st.binary(max_size=300))
def test_noise_is_no_frame(noise: bytes) -> None:
    assert open_frame(noise) is None
    assert open_frame(b"KSF1" + noise) is None


@given(st.data())
def test_edited_content_under_a_right_digest_is_read_as_it_stands_or_refused(data: st.DataObject) -> None:
    content = data.draw(frames)[:-DIGEST_BYTES]
    assert_read_or_refused(sealed_anew(data.draw(edited(content))))


HEAD = b"KSF1" + STREAM + b"\2\2" + bytes(DIGEST_BYTES) + b"\0\0"
"""Up to the body: epoch 1, number 1, nothing before it, no tables."""
A_TABLE = b"t" * 8


@given(st.binary(max_size=200))
def test_noise_under_a_right_digest_is_refused_or_read_as_it_stands(noise: bytes) -> None:
    assert_read_or_refused(sealed_anew(b"KSF1" + STREAM + noise))
    assert_read_or_refused(sealed_anew(HEAD + noise))


def in_a_frame(change: bytes, *, count: int = 1) -> bytes:
    """One encoded change in one transaction."""
    block = bytes((2 * count - 1, 2 * len(change))) + change + b"\0"
    return sealed_anew(HEAD + b"\0\2" + b"\2\2\2\2\0" + block + b"\0")


@given(st.data())
def test_an_edited_change_under_a_right_digest_is_read_as_it_stands_or_refused(data: st.DataObject) -> None:
    change = data.draw(edited(encode_change(data.draw(changes))))[:60]
    assert_read_or_refused(in_a_frame(change))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (b"\1" + A_TABLE + b"\0\0\0\0", "an operation of a negative number"),
        (b"\x0c" + A_TABLE + b"\0\0\0\0", "an operation that is not known"),
        (b"\6" + A_TABLE + b"\0\0\0\0", "a TRUNCATE that says nothing"),
        (b"\0" + A_TABLE + b"\6\0\0\0", "an old row of an unknown kind"),
        (b"\0" + A_TABLE + b"\0\4\0\0", "a row of an unknown kind"),
        (b"\0" + A_TABLE + b"\0\0\1\0\0", "a count of absent columns below zero"),
        (b"\6" + bytes(8) + b"\0\0\0\2\1" + bytes(12), "a count of truncated tables below zero"),
        (
            b"\6" + bytes(8) + b"\0\0\0\2" + b"\xfe" * 8 + b"\x7f" + bytes(12),
            "a count of truncated tables beyond memory",
        ),
        (b"\6" + bytes(8) + b"\0\0\0\2\2" + A_TABLE + b"\0\2\0", "a flag that is neither"),
        (b"\6" + bytes(8) + b"\0\0\0\1\2" + A_TABLE + b"\0\0\0", "a payload's branch below zero"),
        (b"\x0a" + bytes(8) + b"\0\0\0\x80\0" + A_TABLE + b"\0\0", "a payload's branch in a long form"),
        (b"\x0a" + bytes(8) + b"\0\0\0\6" + A_TABLE + b"\1\0", "a count of columns below zero"),
        (b"\0" + bytes(8) + b"\0\0\0\4\0\0\0", "a message called an insert"),
        (b"\0" + A_TABLE + b"\0\2\x81\0x\0\0", "a length in a long form"),
        (b"\0" + A_TABLE + b"\0\2" + b"\xff" * 9 + b"\x7f" + b"\0\0", "a length of more than 64 bits"),
        (b"\0" + A_TABLE + b"\0\2\2x\0", "a change that ends too early"),
    ],
)
def test_a_change_that_is_none_is_refused_by_name(change: bytes, what: str) -> None:
    frame = open_frame(in_a_frame(change))
    assert frame is not None
    assert isinstance(frame.body, Transactions)
    with pytest.raises(RefusedData) as refused:
        list(frame.body.transactions[0].iter_changes())
    assert refused.value.code == "frame-format", what


@pytest.mark.parametrize("count", [2, 3])
def test_a_transaction_with_fewer_changes_than_it_counts_is_refused(count: int) -> None:
    change = encode_change(Change(Operation.INSERT, A_TABLE, row=b"x"))
    frame = open_frame(in_a_frame(change, count=count))
    assert frame is not None
    assert isinstance(frame.body, Transactions)
    with pytest.raises(RefusedData):
        list(frame.body.transactions[0].iter_changes())


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\1\2\2\2\2", "a body's branch below zero, which counts from the end in Python"),
        (b"\x0a", "a body that is not known"),
        (b"\2\2\2\2\2\0\4\0", "a fragment of an unknown kind"),
        (b"\2\2\2\2\2\0\2\2x\2\0", "a fragment that is neither the last nor not"),
        (b"\2\2\2\2\2\0\0\4", "a commit of an unknown kind"),
        (b"\6\2\2\2\0\2\1\0\2", "a count of publication rows below zero"),
        (b"\x86\0\2\2\2\0\2\0\0", "a branch in a long form"),
    ],
)
def test_a_body_that_is_none_is_refused_by_name(body: bytes, what: str) -> None:
    with pytest.raises(RefusedData) as refused:
        open_frame(sealed_anew(HEAD + body))
    assert refused.value.code == "frame-format", what


@given(st.data())
@example(data=None)
def test_edited_table_versions_are_refused_or_read_as_they_stand(data: st.DataObject | None) -> None:
    """fastavro reads these: lengths and counts beyond all data, unknown symbols, more than one block."""
    record = Writer().seal(encode_heartbeat(Heartbeat(Position(Lsn(1)), 0)), (TABLE,))
    content = record[:-DIGEST_BYTES]
    if data is None:
        assert_read_or_refused(sealed_anew(content))
    else:
        assert_read_or_refused(sealed_anew(data.draw(edited(content))))
