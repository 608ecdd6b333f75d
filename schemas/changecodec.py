"""The bytes of one change (record `Change` of avsc/frame.avsc), written and read by hand.

Changes are the bulk of the log, so capture builds them from constant pieces around rows that are
already Avro bytes, and readers walk them without a schema; in C where there is such (docs/decisions/007).
tests compare with fastavro, and the two with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas.change import AddedColumn, Change, ColumnsAdded, Message, Operation, Truncate
from schemas.compiled import find_compiled
from schemas.errors import RefusedData
from schemas.primitives import (
    LONGS,
    encode_long,
    encode_optional_text,
    read_bytes,
    read_count,
    read_end,
    read_flag,
    read_long,
    read_optional_text,
)

encode_row_change: Callable[[Change], bytes] | None = find_compiled(
    "schemas._changecode", "encode_row_change"
)
walk_changes: Callable[..., list[Change]] | None = find_compiled("schemas._changecode", "decode_changes")
are_rows: Callable[[bytes, int], bool] | None = find_compiled("schemas._changecode", "are_rows")
"""(block, count): whether that many changes stand in it, each of one row. None where there is no C."""
split_by_table: Callable[[Sequence[bytes | None]], dict[bytes, tuple[int, bytes, int]]] | None = (
    find_compiled("schemas._changecode", "split_by_table")
)
"""Blocks of changes of one row each → of each table how many they are, a block of its own, and the size of
the largest one."""

_OPERATIONS = tuple(Operation)
_PAYLOAD_BRANCHES = (0, 0, 0, 2, 4, 6)
"""The encoded branch of each operation's payload."""
_NO_ROWS = b"\0\0\0"
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


def encode_array(changes: list[bytes], count: int | None = None) -> bytes:
    """An Avro array of encoded changes, in one block with its size, so that readers can skip it.
    count: how many they are, unless each stands for itself."""
    if not changes:
        return b"\0"
    block = b"".join(changes)
    counted = len(changes) if count is None else count
    return b"".join((encode_long(-counted), encode_long(len(block)), block, b"\0"))


def _encode_payload_change(change: Change) -> bytes:
    payload = change.payload
    head = LONGS[change.operation] + (change.table or _NO_TABLE) + _NO_ROWS
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


def decode_changes(block: bytes, count: int) -> Sequence[Change]:
    """The `count` changes that stand back to back in `block`. Raises RefusedData (`frame-format`)."""
    try:
        changes = _decode_all(block)
        if len(changes) != count:
            raise ValueError("not as many changes as were counted")
    except (LookupError, ValueError) as error:
        raise wrong_form(error) from error
    return changes


def decode_change(encoded: bytes) -> Change:
    """One change that fills `encoded`. Raises RefusedData (`frame-format`) for anything else."""
    (change,) = decode_changes(encoded, 1)
    return change


def wrong_form(error: Exception) -> RefusedData:
    """A frame is whole, as its digest says, and does not follow avsc/frame.avsc."""
    return RefusedData(
        f"a log record has a right digest and a wrong form ({type(error).__name__})",
        code="frame-format",
        hint="It was written by a different version: upgrade this Keepstream to the writer's version.",
    )


def _decode_all(block: bytes) -> Sequence[Change]:
    """Strict: whatever `encode_change` does not write raises LookupError or ValueError."""
    if walk_changes is not None:
        return walk_changes(block, Change, _OPERATIONS, _read_payload)
    changes = []
    pos, end = 0, len(block)
    while pos < end:
        change, pos = _decode(block, pos)
        changes.append(change)
    return changes


def _decode(block: bytes, pos: int) -> tuple[Change, int]:
    if block[pos] & 1:
        raise ValueError("a negative operation")
    operation = _OPERATIONS[block[pos] >> 1]
    table = block[pos + 1 : pos + 9]
    start_of_rows = pos + 9
    old_branch = block[start_of_rows]
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
    if block[pos] != _PAYLOAD_BRANCHES[operation]:
        raise ValueError("a payload that does not belong to its operation")
    if not block[pos]:
        return Change(operation, table, old_key, old_row, row, absent), pos + 1
    if pos - start_of_rows != len(_NO_ROWS):
        raise ValueError("a row beside what is not one row")
    payload, pos = _read_payload(block, pos)
    return Change(operation, table, None, None, None, (), payload), pos


def _read_absent(block: bytes, pos: int) -> tuple[tuple[int, ...], int]:
    count, pos = read_count(block, pos)
    absent = []
    for _ in range(count):
        index, pos = read_long(block, pos)
        if index < 0:
            raise ValueError("a column's index below zero")
        absent.append(index)
    return tuple(absent), read_end(block, pos)


def _read_payload(block: bytes, pos: int) -> tuple[Truncate | Message | ColumnsAdded, int]:
    branch, pos = read_long(block, pos)
    return (_read_truncate, _read_message, _read_columns_added)[branch - 1](block, pos)


def _read_truncate(block: bytes, pos: int) -> tuple[Truncate, int]:
    count, pos = read_count(block, pos)
    end = pos + 8 * count
    if end > len(block):
        raise ValueError("tables end past the change")
    tables = tuple(block[at : at + 8] for at in range(pos, end, 8))
    cascade, pos = read_flag(block, read_end(block, end))
    restart_identity, pos = read_flag(block, pos)
    return Truncate(tables, cascade, restart_identity), pos


def _read_message(block: bytes, pos: int) -> tuple[Message, int]:
    transactional, pos = read_flag(block, pos)
    prefix, pos = read_bytes(block, pos)
    content, pos = read_bytes(block, pos)
    return Message(transactional, prefix.decode(), content), pos


def _read_columns_added(block: bytes, pos: int) -> tuple[ColumnsAdded, int]:
    previous = block[pos : pos + 8]
    count, pos = read_count(block, pos + 8)
    columns = []
    for _ in range(count):
        column, pos = _read_added_column(block, pos)
        columns.append(column)
    return ColumnsAdded(previous, tuple(columns)), read_end(block, pos)


def _read_added_column(block: bytes, pos: int) -> tuple[AddedColumn, int]:
    name, pos = read_bytes(block, pos)
    type_name, pos = read_bytes(block, pos)
    not_null, pos = read_flag(block, pos)
    default, pos = read_optional_text(block, pos)
    missing, pos = read_optional_text(block, pos)
    return AddedColumn(name.decode(), type_name.decode(), not_null, default, missing), pos
