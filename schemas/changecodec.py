"""The bytes of one change (record `Change` of avsc/frame.avsc), written and read by hand.

Changes are the bulk of the log, so capture builds them from constant pieces around rows that are
already Avro bytes, and readers walk them without a schema; in C where there is such (docs/decisions/007).
tests compare with fastavro, and the two with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas.change import AddedColumn, Change, ColumnsAdded, Message, Operation, Truncate
from schemas.compiled import find_compiled
from schemas.primitives import (
    LONGS,
    encode_long,
    encode_optional_text,
    read_bytes,
    read_long,
    read_optional_text,
)

encode_row_change: Callable[[Change], bytes] | None = find_compiled(
    "schemas._changecode", "encode_row_change"
)
walk_changes: Callable[..., list[Change]] | None = find_compiled("schemas._changecode", "decode_changes")

_OPERATIONS = tuple(Operation)
_NO_TABLE = bytes(8)
_TAIL = b"\0\0"  # nothing absent, no payload


def encode_change(change: Change) -> bytes:
    """One encoded change."""
    if change.payload is not None:
        return _encode_payload_change(change)
    if encode_row_change is not None:
        return encode_row_change(change)
    pieces = [LONGS[change.operation], change.table]
    if change.old_key is not None:
        pieces += (b"\2", encode_long(len(change.old_key)), change.old_key)
    elif change.old_row is not None:
        pieces += (b"\4", encode_long(len(change.old_row)), change.old_row)
    else:
        pieces.append(b"\0")
    if change.row is not None:
        pieces += (b"\2", encode_long(len(change.row)), change.row)
    else:
        pieces.append(b"\0")
    if change.absent:
        pieces += (encode_long(len(change.absent)), *map(encode_long, change.absent), b"\0\0")
    else:
        pieces.append(_TAIL)
    return b"".join(pieces)


def encode_array(changes: list[bytes]) -> bytes:
    """An Avro array of encoded changes, in one block with its size, so that readers can skip it."""
    if not changes:
        return b"\0"
    block = b"".join(changes)
    return b"".join((encode_long(-len(changes)), encode_long(len(block)), block, b"\0"))


def _encode_payload_change(change: Change) -> bytes:
    payload = change.payload
    head = LONGS[change.operation] + (change.table or _NO_TABLE) + b"\0\0\0"
    if isinstance(payload, Truncate):
        tables = encode_long(len(payload.tables)) + b"".join(payload.tables) + b"\0"
        return head + b"\2" + tables + _flag(payload.cascade) + _flag(payload.restart_identity)
    if isinstance(payload, Message):
        prefix = payload.prefix.encode()
        return b"".join(
            (
                head,
                b"\4",
                _flag(payload.transactional),
                encode_long(len(prefix)),
                prefix,
                encode_long(len(payload.content)),
                payload.content,
            )
        )
    assert isinstance(payload, ColumnsAdded)
    columns = b"".join(map(_encode_added_column, payload.columns))
    return head + b"\6" + payload.previous + encode_long(len(payload.columns)) + columns + b"\0"


def _encode_added_column(column: AddedColumn) -> bytes:
    return b"".join(
        (
            encode_optional_text(column.name)[1:],
            encode_optional_text(column.type_name)[1:],
            _flag(column.not_null),
            encode_optional_text(column.default),
            encode_optional_text(column.missing),
        )
    )


def _flag(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def decode_changes(block: bytes) -> Sequence[Change]:
    """The changes that stand back to back in `block`. Raises ValueError or IndexError for anything else."""
    if walk_changes is not None:
        return walk_changes(block, Change, _OPERATIONS, _read_payload)
    changes = []
    pos, end = 0, len(block)
    while pos < end:
        change, pos = _decode(block, pos)
        changes.append(change)
    return changes


def decode_change(encoded: bytes) -> Change:
    """One change that fills `encoded`. Raises ValueError or IndexError for anything else."""
    change, pos = _decode(encoded, 0)
    if pos != len(encoded):
        raise ValueError("bytes left over after a change")
    return change


def _decode(block: bytes, pos: int) -> tuple[Change, int]:
    if block[pos] & 1:
        raise ValueError("a negative operation")
    operation = _OPERATIONS[block[pos] >> 1]
    table = block[pos + 1 : pos + 9]
    old_branch = block[pos + 9]
    pos += 10
    old_key = old_row = row = None
    if old_branch == 2:
        old_key, pos = read_bytes(block, pos)
    elif old_branch == 4:
        old_row, pos = read_bytes(block, pos)
    elif old_branch:
        raise ValueError("a union has no such branch")
    if block[pos] == 2:
        row, pos = read_bytes(block, pos + 1)
    elif block[pos]:
        raise ValueError("a union has no such branch")
    else:
        pos += 1
    absent: tuple[int, ...] = ()
    if block[pos]:
        absent, pos = _read_absent(block, pos)
    else:
        pos += 1
    if not block[pos]:
        return Change(operation, table, old_key, old_row, row, absent), pos + 1
    payload, pos = _read_payload(block, pos)
    return Change(operation, table, old_key, old_row, row, absent, payload), pos


def _read_absent(block: bytes, pos: int) -> tuple[tuple[int, ...], int]:
    count, pos = read_long(block, pos)
    absent = []
    for _ in range(count):
        index, pos = read_long(block, pos)
        absent.append(index)
    if block[pos]:
        raise ValueError("an array in more than one block")
    return tuple(absent), pos + 1


def _read_payload(block: bytes, pos: int) -> tuple[Truncate | Message | ColumnsAdded, int]:
    branch, pos = read_long(block, pos)
    return (_read_truncate, _read_message, _read_columns_added)[branch - 1](block, pos)


def _read_truncate(block: bytes, pos: int) -> tuple[Truncate, int]:
    count, pos = read_long(block, pos)
    end = pos + 8 * count
    tables = tuple(block[at : at + 8] for at in range(pos, end, 8))
    if block[end] != 0:
        raise ValueError("an array in more than one block")
    return Truncate(tables, block[end + 1] == 1, block[end + 2] == 1), end + 3


def _read_message(block: bytes, pos: int) -> tuple[Message, int]:
    transactional = block[pos] == 1
    prefix, pos = read_bytes(block, pos + 1)
    content, pos = read_bytes(block, pos)
    return Message(transactional, prefix.decode(), content), pos


def _read_columns_added(block: bytes, pos: int) -> tuple[ColumnsAdded, int]:
    previous = block[pos : pos + 8]
    count, pos = read_long(block, pos + 8)
    columns = []
    for _ in range(count):
        column, pos = _read_added_column(block, pos)
        columns.append(column)
    if block[pos] != 0:
        raise ValueError("an array in more than one block")
    return ColumnsAdded(previous, tuple(columns)), pos + 1


def _read_added_column(block: bytes, pos: int) -> tuple[AddedColumn, int]:
    name, pos = read_bytes(block, pos)
    type_name, pos = read_bytes(block, pos)
    not_null, pos = block[pos] == 1, pos + 1
    default, pos = read_optional_text(block, pos)
    missing, pos = read_optional_text(block, pos)
    return AddedColumn(name.decode(), type_name.decode(), not_null, default, missing), pos
