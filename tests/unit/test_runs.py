"""Runs of messages in C give the frames that the messages give one by one, whatever comes: the same bodies,
and the same refusal at the same place."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.replication import runs
from connectors.postgres.replication.pgoutput import Begin, Commit, Decoder, Origin, RelationChanged
from connectors.postgres.replication.runs import Runs
from pipeline.capture.writing.packer import FramePacker, PackedBody
from schemas.change import UNCHANGED, Change, TextValue
from schemas.changecodec import encode_change
from schemas.errors import KeepstreamError
from schemas.lsn import Lsn, Position
from schemas.table import Column, ReplicaIdentity, TableSchema
from tests.damage import edited
from tests.unit.test_pgoutput_machine import TEXTS, begin, commit, relation, tuple_data

KINDS = {16: "boolean", 17: "bytea", 20: "bigint", 23: "integer", 25: "text", 701: "double precision"}
KINDS |= {1082: "date", 1114: "timestamp without time zone", 1184: "timestamp with time zone"}
UNKNOWN_OID = 99


def table(name: str, types: list[int], identity: ReplicaIdentity) -> TableSchema:
    full = identity is ReplicaIdentity.FULL
    columns = [Column(f"c{at}", oid, -1, KINDS[oid], full or at == 0) for at, oid in enumerate(types)]
    return TableSchema("public", name, identity, tuple(columns))


TABLES = {
    1: table("customer", [20, 25, 1184, 16], ReplicaIdentity.DEFAULT),
    2: table("note", [25, 701, 17, 1082], ReplicaIdentity.FULL),
    3: table("counter", [23, 1114], ReplicaIdentity.INDEX),
    4: table("total", [20, 25, 23, 25], ReplicaIdentity.DEFAULT),
}
LEFT_OUT = {4: ("c1", "c2")}


class Capture:
    """What `pipeline.capture.pump` does with messages, with runs or without."""

    def __init__(self, target_bytes: int, *, with_runs: bool) -> None:
        self.bodies: list[PackedBody] = []
        self.runs_taken = 0
        self.refused: str | None = None
        self._decoder = Decoder()
        self._packer = FramePacker((), target_bytes=target_bytes)
        self._runs = Runs() if with_runs else None
        self._relations: dict[bytes, tuple[int, TableSchema]] = {}
        self._open: Begin | None = None

    def feed(self, batches: list[list[bytes]]) -> Capture:
        """Ends at the first message that is refused."""
        for batch in batches:
            at = 0
            while at < len(batch):
                after = self._run(batch, at) if self._runs is not None else at
                if after == at:
                    try:
                        self._one(batch[at])
                    except KeepstreamError as error:
                        self.refused = f"{error.code} {error.message}"
                        return self
                    after += 1
                else:
                    self.runs_taken += 1
                at = after
        self.bodies += self._packer.flush()
        return self

    def _run(self, batch: list[bytes], at: int) -> int:
        assert self._runs is not None
        packer = self._packer
        if self._open is not None:
            found = self._runs.changes(batch, at, room_bytes=packer.room_bytes)
            if found is None:
                return at
            packer.add_many(found[1], found[2])
            return found[0]
        held, target = packer.held_bytes, packer.target_bytes
        run = self._runs.transactions(batch, at, held_bytes=held, target_bytes=target)
        if run is None:
            return at
        if run.transactions:
            position = Position(Lsn(run.end_lsn), run.xid, run.commit_time)
            self.bodies += packer.take(run.encoded, run.transactions, run.changes, position)
        if run.is_full:
            self.bodies += packer.flush()
        return run.after

    def _one(self, message: bytes) -> None:
        decoded = self._decoder.decode(message)
        if isinstance(decoded, Begin):
            self._open = decoded
            self._packer.begin(
                xid=decoded.xid, commit_lsn=decoded.commit_lsn, commit_time=decoded.commit_time
            )
        elif isinstance(decoded, Commit):
            if self._open is None or (self._open.commit_lsn, self._open.commit_time) != (
                decoded.commit_lsn,
                decoded.commit_time,
            ):
                raise KeepstreamError("no such begin", code="pgoutput-order")
            self._open = None
            self.bodies += self._packer.commit(end_lsn=decoded.end_lsn)
        elif isinstance(decoded, Origin):
            self._packer.set_origin(decoded.name)
        elif isinstance(decoded, RelationChanged):
            self._decoder.leave_out(decoded.oid, LEFT_OUT.get(decoded.oid, ()))
            known = decoded.table.without(self._decoder.skipped(decoded.oid))
            self._relations[known.id] = decoded.oid, known
            if self._runs is not None:
                self._runs.forget(decoded.oid)
        elif isinstance(decoded, Change):
            if self._open is None:
                raise KeepstreamError("outside of a transaction", code="pgoutput-order")
            if decoded.payload is None:
                oid, known = self._relations[decoded.table]
                self._packer.need(known)
                if self._runs is not None:
                    self._runs.know(oid, known, self._decoder.skipped(oid))
            self.bodies += self._packer.add(encode_change(decoded))


@st.composite
def values(draw: st.DrawFn, of: TableSchema, *, key: bool = False, unsent: bool = False) -> list[TextValue]:
    found: list[TextValue] = []
    for column in of.columns:
        if key and not column.key:
            found.append(None)
        elif unsent and not column.key and draw(st.integers(0, 3)) == 0:
            found.append(UNCHANGED)
        else:
            found.append(draw(TEXTS[column.type_oid] | st.none()))
    return found


@st.composite
def rows(draw: st.DrawFn) -> bytes:
    """`I`, `U` or `D` of one of the tables; seldom of one that was not described."""
    oid = draw(st.sampled_from([1, 1, 1, 2, 2, 3, 4, 4]))
    of = TABLES[oid]
    kind = draw(st.sampled_from("IIUUD"))
    message = kind.encode() + struct.pack(">I", oid if draw(st.integers(0, 99)) else UNKNOWN_OID)
    if kind == "D" or (kind == "U" and draw(st.booleans())):
        key = of.replica_identity is not ReplicaIdentity.FULL
        message += (b"K" if key else b"O") + tuple_data(draw(values(of, key=key)))
    if kind != "D":
        message += b"N" + tuple_data(draw(values(of, unsent=kind == "U")))
    return message


@st.composite
def others(draw: st.DrawFn) -> bytes:
    """What stands in a transaction and is no row."""
    oid = draw(st.integers(1, 4))
    content = draw(st.binary(max_size=20))
    return draw(
        st.sampled_from(
            [
                relation(oid, TABLES[oid]),
                b"T" + struct.pack(">IBI", 1, 0, oid),
                b"M\1" + bytes(8) + b"app\0" + struct.pack(">I", len(content)) + content,
                b"O" + bytes(8) + b"elsewhere\0",
            ]
        )
    )


@st.composite
def streams(draw: st.DrawFn) -> list[list[bytes]]:
    """Batches of a stream that begins with every description; cut anywhere, at times one damaged."""
    messages: list[bytes] = [relation(oid, of) for oid, of in TABLES.items()]
    lsn = 1000
    for xid in range(1, draw(st.integers(1, 8)) + 1):
        rest = st.integers(0, 9).flatmap(lambda n: others() if n == 0 else rows())
        body = draw(st.lists(rest, max_size=12))
        time = 1_700_000_000_000_000 + xid
        messages.append(begin(Begin(Lsn(lsn), time, xid)))
        messages += body
        messages.append(commit(Commit(Lsn(lsn), Lsn(lsn + 8), time)))
        lsn += 100
    if draw(st.integers(0, 2)) == 0:
        at = draw(st.integers(len(TABLES), len(messages) - 1))
        messages[at] = draw(edited(messages[at])) or b"?"
    cuts = sorted(draw(st.lists(st.integers(0, len(messages)), max_size=3)))
    return [messages[a:b] for a, b in zip([0, *cuts], [*cuts, len(messages)], strict=True)]


@pytest.fixture(scope="module", autouse=True)
def needs_c() -> None:
    if runs._encode_changes is None:
        if os.environ.get("CI"):
            pytest.fail("connectors.postgres.replication._runs was not built")
        pytest.skip("connectors.postgres.replication._runs was not built: no C compiler was found")


@given(streams(), st.sampled_from([60, 200, 1000, 10**6]))
def test_runs_give_what_the_messages_give_one_by_one(batches: list[list[bytes]], target: int) -> None:
    one_by_one = Capture(target, with_runs=False).feed([batch.copy() for batch in batches])
    at_once = Capture(target, with_runs=True).feed(batches)
    assert at_once.bodies == one_by_one.bodies
    assert at_once.refused == one_by_one.refused


def small_stream(transactions: int) -> list[bytes]:
    messages = [relation(1, TABLES[1])]
    for xid in range(1, transactions + 1):
        row = b"I\0\0\0\1N" + tuple_data([b"%d" % xid, b"Ada", b"2026-01-02 03:04:05.678+00", b"t"])
        bounds = (Lsn(xid * 100), 1_700_000_000_000_000 + xid)
        messages += [begin(Begin(*bounds, xid)), row, row.replace(b"Ada", b"Bob")]
        messages.append(commit(Commit(bounds[0], Lsn(xid * 100 + 8), bounds[1])))
    return messages


def test_many_small_transactions_are_one_run() -> None:
    """The first row of a table is looked at, the rest of its transaction is a run, and all others are one."""
    taken = Capture(10**6, with_runs=True).feed([small_stream(500)])
    assert taken.runs_taken == 2
    assert [(body.transactions, body.changes) for body in taken.bodies] == [(500, 1000)]


def test_a_frame_that_is_full_ends_a_run_and_the_next_one_begins() -> None:
    taken = Capture(2000, with_runs=True).feed([small_stream(500)])
    assert len(taken.bodies) > 20
    assert sum(body.transactions for body in taken.bodies) == 500
    assert all(len(body.body) <= 2000 + 20 for body in taken.bodies)


def test_a_table_that_is_described_again_is_looked_at_again() -> None:
    stream = small_stream(3)
    stream.insert(5, relation(1, TABLES[1]))
    known = Runs()
    known.know(1, TABLES[1])
    found = known.transactions(stream, 1, held_bytes=0, target_bytes=10**6)
    assert found is not None
    assert (found.after, found.transactions, found.is_full) == (5, 1, False)
    known.forget(1)
    assert known.transactions(stream, 1, held_bytes=0, target_bytes=10**6) is None


def test_a_wide_row_is_left_to_the_decoder() -> None:
    known = Runs()
    known.know(1, TABLES[1])
    wide = b"I\0\0\0\1N" + tuple_data([b"1", b"x" * 5000, None, None])
    assert known.changes([wide], 0, room_bytes=4000) is None
    found = known.changes([wide], 0, room_bytes=6000)
    assert found is not None
    assert found[0] == found[2] == 1
