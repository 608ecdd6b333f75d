"""What a change is that is more than one row: one judgement for all who plan, apply or show changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from schemas.change import Change, ColumnsAdded, Message, Truncate
from schemas.ddl.message import DDL_PREFIX, is_ddl
from schemas.errors import InternalError
from schemas.join import DEFINING, JOIN_EMPTY_PREFIX, JOIN_KEYS_PREFIX, JOIN_ROWS_PREFIX, is_join

IF_NEWER: Final = "If a newer Keepstream captures, upgrade this one to the same version; else report a bug."


@dataclass(frozen=True, slots=True)
class JoinMessage:
    """`keepstream.join` or `keepstream.join.empty`: `content` is a Join as JSON. empty: the table's rows are
    not in the log."""

    content: bytes
    empty: bool = False


@dataclass(frozen=True, slots=True)
class JoinRowsMessage:
    """`keepstream.join.rows`: `content` is rows in COPY's text form."""

    content: bytes


@dataclass(frozen=True, slots=True)
class JoinKeysMessage:
    """`keepstream.join.keys`: `content` is JoinKeys as JSON."""

    content: bytes


@dataclass(frozen=True, slots=True)
class DdlMessage:
    """`keepstream.ddl`: `content` is a SchemaMessage as JSON."""

    content: bytes


@dataclass(frozen=True, slots=True)
class UnknownMessage:
    """A message of a joining table or of a schema change that this Keepstream does not know; to leave it out
    would lose rows."""

    prefix: str

    def error(self, ref: object) -> InternalError:
        """`ref` names the change."""
        return InternalError(
            f"{ref}: nobody knows what a message {self.prefix!r} means",
            code="ddl-unknown" if is_ddl(self.prefix) else "join-unknown",
            hint=IF_NEWER,
        )


Barrier = (
    Truncate | ColumnsAdded | JoinMessage | JoinRowsMessage | JoinKeysMessage | DdlMessage | UnknownMessage
)


def barrier_of(change: Change) -> Barrier | None:
    """None for rows and for messages that say nothing about the replica's content: an application's, and
    Keepstream's own for waiting and verifying."""
    payload = change.payload
    match payload:
        case None:
            return None
        case Truncate() | ColumnsAdded():
            return payload
        case Message(prefix=prefix, content=content):
            return _of_message(prefix, content)
        case _:
            assert_never(payload)


def _of_message(prefix: str, content: bytes) -> Barrier | None:
    if prefix in DEFINING:
        return JoinMessage(content, prefix == JOIN_EMPTY_PREFIX)
    if prefix == JOIN_ROWS_PREFIX:
        return JoinRowsMessage(content)
    if prefix == JOIN_KEYS_PREFIX:
        return JoinKeysMessage(content)
    if prefix == DDL_PREFIX:
        return DdlMessage(content)
    return UnknownMessage(prefix) if is_join(prefix) or is_ddl(prefix) else None
