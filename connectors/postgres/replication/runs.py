"""Runs of pgoutput messages that need no look, encoded for the log at once, in C where there is such.

Most of a stream is rows of tables that everybody knows. What `connectors.postgres.replication.pgoutput`,
`schemas.changecodec` and `schemas.framecodec` do with each of their messages, `_runs.c` beside this does with
all of them in one call (docs/decisions/007). It stops before whatever is not plainly that: another
kind of message, a table that `know` was not told of, anything malformed. That is left to those three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from schemas.avro import row_code
from schemas.compiled import find_compiled
from schemas.table import TableSchema

_encode_changes: Callable[..., tuple[int, bytes, int]] | None = find_compiled(
    "connectors.postgres.replication._runs", "encode_changes"
)
_encode_transactions: Callable[..., tuple[int, bytes, int, int, bool, int, int, int, int]] | None = (
    find_compiled("connectors.postgres.replication._runs", "encode_transactions")
)


class WholeTransactions(NamedTuple):
    """`after`: the index of the first message that is not among them. The last four are of the last one."""

    after: int
    encoded: bytes
    transactions: int
    changes: int
    is_full: bool
    xid: int
    commit_lsn: int
    end_lsn: int
    commit_time: int


class Runs:
    """Encodes runs of rows of the tables that it knows; without C, none."""

    def __init__(self) -> None:
        self._relations: dict[int, tuple[bytes, bytes, bytes, tuple[Callable[[bytes], bytes], ...]]] = {}

    def know(self, oid: int, table: TableSchema, skipped: tuple[int, ...] = ()) -> None:
        """Rows of this relation have this version from here on, and nobody need look at them. `skipped`: as
        the decoder's `leave_out` has it."""
        if oid not in self._relations:
            self._relations[oid] = (table.id, *row_code(table, skipped))

    def forget(self, oid: int) -> None:
        """Rows of this relation are to be looked at again."""
        self._relations.pop(oid, None)

    def transactions(
        self, messages: list[bytes], index: int, *, held_bytes: int, target_bytes: int
    ) -> WholeTransactions | None:
        """Whole transactions from `messages[index]` on, beside what a frame holds: as many as its target
        takes, or one into an empty frame. `is_full`: it took no more. None where none begins here."""
        if _encode_transactions is None or not self._relations:
            return None
        found = WholeTransactions(
            *_encode_transactions(messages, index, self._relations, held_bytes, target_bytes)
        )
        return found if found.transactions or found.is_full else None

    def changes(self, messages: list[bytes], index: int, *, room_bytes: int) -> tuple[int, bytes, int] | None:
        """Changes of the open transaction from `messages[index]` on, of at most so many bytes: (index after
        them, encoded, how many). None where no such thing begins here."""
        if _encode_changes is None or not self._relations:
            return None
        found = _encode_changes(messages, index, self._relations, room_bytes)
        return found if found[2] else None
