"""Changes and transactions as values. Rows inside are Avro bytes; `schemas.avro` turns them into
PostgreSQL's text and back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, NamedTuple


class Unchanged(Enum):
    """The type of UNCHANGED."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""A TOAST value that pgoutput did not send because it did not change. Never NULL, never data."""

TextValue = bytes | None | Unchanged
"""One column of a row in PostgreSQL's text form, UTF-8; None is NULL."""


class Operation(IntEnum):
    """The kinds of change; the numbers are the Avro enum's symbols in frame.avsc."""

    INSERT = 0
    UPDATE = 1
    DELETE = 2
    TRUNCATE = 3
    MESSAGE = 4
    DDL = 5


class Change(NamedTuple):
    """One change inside a transaction, named by its ordinal there. (A tuple: one is made for every row.)

    table: TableSchema.id (8 bytes); zeros for TRUNCATE and MESSAGE.
    old_key: Avro key record, when the replica identity's old values came (`K`).
    old_row: Avro row record, when the whole old row came (`O`, REPLICA IDENTITY FULL).
    row: Avro row record after INSERT or UPDATE.
    absent: indexes of columns in `row` that pgoutput did not send (encoded there as null).
    payload: the Truncate, Message or ColumnsAdded of the other operations.
    """

    operation: Operation
    table: bytes
    old_key: bytes | None = None
    old_row: bytes | None = None
    row: bytes | None = None
    absent: tuple[int, ...] = ()
    payload: Truncate | Message | ColumnsAdded | None = None


@dataclass(frozen=True, slots=True)
class Truncate:
    """One TRUNCATE statement: all its tables at once, with its options."""

    tables: tuple[bytes, ...]
    cascade: bool
    restart_identity: bool


@dataclass(frozen=True, slots=True)
class Message:
    """pg_logical_emit_message(transactional, prefix, content)."""

    transactional: bool
    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class AddedColumn:
    """A column that ADD COLUMN made. `type_name` is SQL: its type, be it a domain, and its collation where
    that is not its type's. `missing` is PostgreSQL's text of the value that existing rows have (None:
    NULL); `default` is the default's SQL expression, if there is one."""

    name: str
    type_name: str
    not_null: bool
    default: str | None
    missing: str | None


@dataclass(frozen=True, slots=True)
class ColumnsAdded:
    """ADD COLUMN, at its place in the log: table version `previous` became `Change.table`."""

    previous: bytes
    columns: tuple[AddedColumn, ...]
