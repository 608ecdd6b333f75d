"""Frames for tests of everything that reads the log."""

from __future__ import annotations

from schemas.change import Change, Operation
from schemas.changecodec import encode_change
from schemas.frame import NO_DIGEST, Anchor, CaptureStart, Commit, Frame, Heartbeat, Sequences
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

STREAM = b"stream-for-tests"
OTHER_STREAM = b"another-stream!!"
TABLE = TableSchema(
    "public",
    "customer",
    ReplicaIdentity.DEFAULT,
    (Column("id", 23, -1, "integer", key=True), Column("name", 25, -1, "text", key=False)),
)


def insert(row: bytes = b"\2\2\0") -> bytes:
    return encode_change(Change(Operation.INSERT, TABLE.id, row=row))


class Writer:
    """Makes the records of a log, one epoch after the other, as an honest capture would."""

    def __init__(self, stream: bytes = STREAM) -> None:
        self.stream = stream
        self.epoch = 0
        self.number = 0
        self.digest = NO_DIGEST
        self.lsn = 1000

    def fork(self) -> Writer:
        """Another capture that knows the same log."""
        other = Writer(self.stream)
        other.__dict__.update(self.__dict__)
        return other

    def start(self, *, epoch: int | None = None) -> bytes:
        self.epoch = epoch if epoch is not None else self.epoch + 1
        header = FrameHeader(self.stream, self.epoch, 0, NO_DIGEST, 0)
        body = encode_capture_start(CaptureStart(b"n" * 16, "7", 1, 0))
        return seal_frame(header, (), body)[0]

    def anchor(self) -> bytes:
        at = Position(Lsn(self.lsn), 1, 1)
        return self.seal(encode_anchor(Anchor(at, "7", 1, (), 0)), (TABLE,))

    def heartbeat(self) -> bytes:
        self.lsn += 10
        return self.seal(encode_heartbeat(Heartbeat(Position(Lsn(self.lsn), 1, 1), 0)))

    def sequences(self, *values: SequenceValue) -> bytes:
        return self.seal(encode_sequences(Sequences(Position(Lsn(self.lsn), 1, 1), values, 0)))

    def transaction(self, *changes: bytes, xid: int = 5) -> bytes:
        commit_lsn, self.lsn = self.lsn, self.lsn + 100
        encoded = encode_transaction(
            xid=xid,
            commit_lsn=commit_lsn,
            end_lsn=self.lsn,
            commit_time=7,
            origin=None,
            changes=list(changes or (insert(),)),
        )
        return self.seal(encode_transactions([encoded]))

    def part(self, number: int, *, last: bool = False, xid: int = 5, commit_time: int = 7) -> bytes:
        commit_lsn = self.lsn
        commit = None
        if last:
            self.lsn += 100
            commit = Commit(Lsn(self.lsn), None)
        body = encode_part(
            xid=xid,
            commit_lsn=commit_lsn,
            commit_time=commit_time,
            part=number,
            changes=[insert()],
            fragment=None,
            commit=commit,
        )
        return self.seal(body)

    def seal(self, body: bytes, tables: tuple[TableSchema, ...] = ()) -> bytes:
        self.number += 1
        header = FrameHeader(self.stream, self.epoch, self.number, self.digest, 0)
        record, self.digest = seal_frame(header, tables, body)
        return record


def opened(record: bytes) -> Frame:
    frame = open_frame(record)
    assert frame is not None
    return frame
