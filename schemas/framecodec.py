"""The bytes of a frame: one Avro record without a container (avsc/frame.avsc, docs/frame-format.md).

Its last field is the SHA-256 of all bytes before it, so a reader checks a frame before it decodes
anything. `seal_frame` makes the bytes; `open_frame` checks and decodes them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fastavro import schemaless_reader, schemaless_writer

from schemas.avsc import load_named
from schemas.changecodec import encode_array, wrong_form
from schemas.compiled import find_compiled
from schemas.frame import (
    Anchor,
    Body,
    CaptureStart,
    Commit,
    Fragment,
    Frame,
    Heartbeat,
    Part,
    Sequences,
    Transaction,
    Transactions,
)
from schemas.lsn import Lsn, Position
from schemas.primitives import (
    encode_long,
    encode_optional_text,
    read_bytes,
    read_count,
    read_end,
    read_flag,
    read_long,
    read_optional_branch,
    read_optional_text,
)
from schemas.sequence import SequenceValue
from schemas.table import Column, ReplicaIdentity, TableSchema

decode_transactions: Callable[..., tuple[list[Transaction], int]] | None = find_compiled(
    "schemas._changecode", "decode_transactions"
)

MAGIC = b"KSF1"
_HEADER_FIXED = len(MAGIC) + 16
_DIGEST_BYTES = 32
_WRONG_FORM = (LookupError, ValueError, EOFError, TypeError)


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What the writer decides for each frame besides its body."""

    stream: bytes
    epoch: int
    number: int
    previous_digest: bytes
    max_commit_time: int


def seal_frame(header: FrameHeader, tables: Iterable[TableSchema], body: bytes) -> tuple[bytes, bytes]:
    """(the frame's bytes, its digest). `body` comes from one of the encode_… functions below."""
    sealed = b"".join(
        (
            MAGIC,
            header.stream,
            encode_long(header.epoch),
            encode_long(header.number),
            header.previous_digest,
            encode_long(header.max_commit_time),
            _encode_tables(tables),
            body,
        )
    )
    digest = hashlib.sha256(sealed).digest()
    return sealed + digest, digest


def open_frame(record: bytes) -> Frame | None:
    """The frame in a record, or None if the bytes are not a whole, undamaged frame of this format.

    Raises RefusedData (`frame-format`) for a frame whose digest is right and whose content is not:
    written by something that does not follow avsc/frame.avsc.
    """
    if len(record) < _HEADER_FIXED + 2 * _DIGEST_BYTES or record[:4] != MAGIC:
        return None
    digest = record[-_DIGEST_BYTES:]
    end = len(record) - _DIGEST_BYTES
    if hashlib.sha256(memoryview(record)[:end]).digest() != digest:
        return None
    try:
        return _decode_frame(record, end, digest)
    except _WRONG_FORM as error:
        raise wrong_form(error) from error


def _decode_frame(record: bytes, end: int, digest: bytes) -> Frame:
    stream = record[4:_HEADER_FIXED]
    epoch, pos = read_long(record, _HEADER_FIXED)
    number, pos = read_long(record, pos)
    previous_digest = record[pos : pos + _DIGEST_BYTES]
    max_commit_time, pos = read_long(record, pos + _DIGEST_BYTES)
    tables, pos = _decode_tables(record, pos)
    body, pos = _decode_body(record, pos)
    if pos != end:
        raise ValueError(f"{end - pos} bytes left over")
    return Frame(
        stream=stream,
        epoch=epoch,
        number=number,
        previous_digest=previous_digest,
        max_commit_time=max_commit_time,
        tables=tables,
        body=body,
        digest=digest,
    )


# Table versions: rare, so fastavro does the work.

_TABLES = load_named("frame.avsc", "Frame", field="tables")
_IDENTITIES = {identity.name: identity for identity in ReplicaIdentity}


def _encode_tables(tables: Iterable[TableSchema]) -> bytes:
    values = [
        {
            "id": table.id,
            "schema": table.schema,
            "name": table.name,
            "replica_identity": table.replica_identity.name,
            "columns": [
                {slot: getattr(column, slot) for slot in Column.__slots__} for column in table.columns
            ],
        }
        for table in tables
    ]
    return _write(_TABLES, values) if values else b"\0"


def _decode_tables(record: bytes, pos: int) -> tuple[tuple[TableSchema, ...], int]:
    if record[pos] == 0:
        return (), pos + 1
    start = pos
    values, pos = _read(_TABLES, record, pos)
    tables = tuple(map(_table, values))
    if _encode_tables(tables) != record[start:pos]:
        raise ValueError("table versions in a form that nobody writes")
    return tables, pos


def _table(value: dict[str, Any]) -> TableSchema:
    table = TableSchema(
        schema=value["schema"],
        name=value["name"],
        replica_identity=_IDENTITIES[value["replica_identity"]],
        columns=tuple(Column(**column) for column in value["columns"]),
    )
    if table.id != value["id"]:
        raise ValueError("a table version's id does not match its content")
    return table


def _write(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    schemaless_writer(out, schema, value)
    return out.getvalue()


def _read(schema: Any, record: bytes, pos: int) -> tuple[Any, int]:
    source = io.BytesIO(record)
    source.seek(pos)
    return schemaless_reader(source, schema, None), source.tell()


# Bodies. The number of a union's branch is its place in avsc/frame.avsc.

_TRANSACTIONS, _PART, _CAPTURE_START, _ANCHOR, _HEARTBEAT, _SEQUENCES = (encode_long(i) for i in range(6))


def encode_transactions(transactions: list[bytes], count: int | None = None) -> bytes:
    """Body of whole transactions, made by `encode_transaction`. count: how many they are, unless each stands
    for itself."""
    counted = len(transactions) if count is None else count
    return _TRANSACTIONS + encode_long(counted) + b"".join(transactions) + b"\0"


def encode_transaction(
    *,
    xid: int,
    commit_lsn: int,
    end_lsn: int,
    commit_time: int,
    origin: str | None,
    changes: list[bytes],
    count: int | None = None,
) -> bytes:
    """One transaction; `changes` made by `schemas.changecodec`, and counted as its `encode_array` does."""
    return b"".join(
        (
            encode_long(xid),
            encode_long(commit_lsn),
            encode_long(end_lsn),
            encode_long(commit_time),
            encode_optional_text(origin),
            encode_array(changes, count),
        )
    )


def encode_part(
    *,
    xid: int,
    commit_lsn: int,
    commit_time: int,
    part: int,
    changes: list[bytes],
    fragment: Fragment | None,
    commit: Commit | None,
    count: int | None = None,
) -> bytes:
    """Body of one part of a transaction."""
    pieces = [
        _PART,
        encode_long(xid),
        encode_long(commit_lsn),
        encode_long(commit_time),
        encode_long(part),
        encode_array(changes, count),
    ]
    if fragment is None:
        pieces.append(b"\0")
    else:
        last = b"\1" if fragment.last else b"\0"
        pieces += [b"\2", encode_long(len(fragment.content)), fragment.content, last]
    if commit is None:
        pieces.append(b"\0")
    else:
        pieces += [b"\2", encode_long(commit.end_lsn), encode_optional_text(commit.origin)]
    return b"".join(pieces)


def encode_capture_start(start: CaptureStart) -> bytes:
    """Body of a CAPTURE_START."""
    return b"".join(
        (
            _CAPTURE_START,
            start.nonce,
            _encode_text(start.system_id),
            encode_long(start.timeline),
            encode_long(start.written_at),
        )
    )


def encode_anchor(anchor: Anchor) -> bytes:
    """Body of an ANCHOR."""
    return b"".join(
        (
            _ANCHOR,
            _encode_position(anchor.at),
            _encode_text(anchor.system_id),
            encode_long(anchor.timeline),
            _encode_texts(anchor.publication),
            encode_long(anchor.written_at),
        )
    )


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    """Body of a HEARTBEAT."""
    return _HEARTBEAT + _encode_position(heartbeat.at) + encode_long(heartbeat.written_at)


def encode_sequences(sequences: Sequences) -> bytes:
    """Body of the values of sequences, of which there must be one at least."""
    return b"".join(
        (
            _SEQUENCES,
            _encode_position(sequences.at),
            encode_long(len(sequences.values)),
            *map(_encode_sequence, sequences.values),
            b"\0",
            encode_long(sequences.written_at),
        )
    )


def _encode_sequence(value: SequenceValue) -> bytes:
    return b"".join(
        (
            _encode_text(value.schema),
            _encode_text(value.name),
            b"\1" if value.ascending else b"\0",
            encode_long(value.last_value),
            b"\1" if value.is_called else b"\0",
            b"\0" if value.back_from is None else b"\2" + encode_long(value.back_from),
        )
    )


def _encode_position(position: Position) -> bytes:
    return encode_long(position.lsn) + encode_long(position.xid) + encode_long(position.commit_time)


def _encode_text(text: str) -> bytes:
    encoded = text.encode()
    return encode_long(len(encoded)) + encoded


def _encode_texts(texts: tuple[str, ...]) -> bytes:
    if not texts:
        return b"\0"
    return encode_long(len(texts)) + b"".join(map(_encode_text, texts)) + b"\0"


def _decode_body(record: bytes, pos: int) -> tuple[Body, int]:
    branch, pos = read_long(record, pos)
    if branch < 0:
        raise ValueError("a union has no such branch")
    return _BODIES[branch](record, pos)


def _decode_transactions(record: bytes, pos: int) -> tuple[Transactions, int]:
    count, pos = read_count(record, pos)
    if decode_transactions is not None:
        transactions, pos = decode_transactions(record, pos, count, Transaction)
    else:
        transactions = []
        for _ in range(count):
            transaction, pos = _decode_transaction(record, pos)
            transactions.append(transaction)
    return Transactions(tuple(transactions)), read_end(record, pos)


def _decode_transaction(record: bytes, pos: int) -> tuple[Transaction, int]:
    xid, pos = read_long(record, pos)
    commit_lsn, pos = read_long(record, pos)
    end_lsn, pos = read_long(record, pos)
    commit_time, pos = read_long(record, pos)
    origin, pos = read_optional_text(record, pos)
    count, changes, pos = _read_changes(record, pos)
    return Transaction(xid, Lsn(commit_lsn), Lsn(end_lsn), commit_time, origin, count, changes), pos


def _read_changes(record: bytes, pos: int) -> tuple[int, bytes, int]:
    count, pos = read_long(record, pos)
    if count == 0:
        return 0, b"", pos
    if count > 0:
        raise ValueError("changes without their size")
    changes, pos = read_bytes(record, pos)
    return -count, changes, read_end(record, pos)


def _decode_part(record: bytes, pos: int) -> tuple[Part, int]:
    xid, pos = read_long(record, pos)
    commit_lsn, pos = read_long(record, pos)
    commit_time, pos = read_long(record, pos)
    part, pos = read_long(record, pos)
    count, changes, pos = _read_changes(record, pos)
    fragment: Fragment | None = None
    present, pos = read_optional_branch(record, pos)
    if present:
        content, pos = read_bytes(record, pos)
        last, pos = read_flag(record, pos)
        fragment = Fragment(content, last)
    commit: Commit | None = None
    present, pos = read_optional_branch(record, pos)
    if present:
        end_lsn, pos = read_long(record, pos)
        origin, pos = read_optional_text(record, pos)
        commit = Commit(Lsn(end_lsn), origin)
    return Part(xid, Lsn(commit_lsn), commit_time, part, count, changes, fragment, commit), pos


def _decode_capture_start(record: bytes, pos: int) -> tuple[CaptureStart, int]:
    nonce = record[pos : pos + 16]
    system_id, pos = read_bytes(record, pos + 16)
    timeline, pos = read_long(record, pos)
    written_at, pos = read_long(record, pos)
    return CaptureStart(nonce, system_id.decode(), timeline, written_at), pos


def _decode_anchor(record: bytes, pos: int) -> tuple[Anchor, int]:
    at, pos = _decode_position(record, pos)
    system_id, pos = read_bytes(record, pos)
    timeline, pos = read_long(record, pos)
    publication, pos = _decode_texts(record, pos)
    written_at, pos = read_long(record, pos)
    return Anchor(at, system_id.decode(), timeline, publication, written_at), pos


def _decode_texts(record: bytes, pos: int) -> tuple[tuple[str, ...], int]:
    if record[pos] == 0:
        return (), pos + 1
    count, pos = read_count(record, pos)
    texts = []
    for _ in range(count):
        text, pos = read_bytes(record, pos)
        texts.append(text.decode())
    return tuple(texts), read_end(record, pos)


def _decode_heartbeat(record: bytes, pos: int) -> tuple[Heartbeat, int]:
    at, pos = _decode_position(record, pos)
    written_at, pos = read_long(record, pos)
    return Heartbeat(at, written_at), pos


def _decode_sequences(record: bytes, pos: int) -> tuple[Sequences, int]:
    at, pos = _decode_position(record, pos)
    count, pos = read_count(record, pos)
    values = []
    for _ in range(count):
        value, pos = _decode_sequence(record, pos)
        values.append(value)
    pos = read_end(record, pos)
    written_at, pos = read_long(record, pos)
    return Sequences(at, tuple(values), written_at), pos


def _decode_sequence(record: bytes, pos: int) -> tuple[SequenceValue, int]:
    schema, pos = read_bytes(record, pos)
    name, pos = read_bytes(record, pos)
    ascending, pos = read_flag(record, pos)
    last_value, pos = read_long(record, pos)
    is_called, pos = read_flag(record, pos)
    back_from: int | None = None
    present, pos = read_optional_branch(record, pos)
    if present:
        back_from, pos = read_long(record, pos)
    return SequenceValue(schema.decode(), name.decode(), ascending, last_value, is_called, back_from), pos


def _decode_position(record: bytes, pos: int) -> tuple[Position, int]:
    lsn, pos = read_long(record, pos)
    xid, pos = read_long(record, pos)
    commit_time, pos = read_long(record, pos)
    return Position(Lsn(lsn), xid, commit_time), pos


_BODIES = (
    _decode_transactions,
    _decode_part,
    _decode_capture_start,
    _decode_anchor,
    _decode_heartbeat,
    _decode_sequences,
)
