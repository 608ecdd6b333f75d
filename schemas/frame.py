"""The log's frames as values (avsc/frame.avsc, docs/frame-format.md).

`schemas.framecodec` turns them into bytes and back. Changes, the bulk of the log, stay bytes inside
`Transaction` and `Part` until somebody iterates.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from schemas.change import Change
from schemas.changecodec import are_rows, decode_change, decode_changes, wrong_form
from schemas.lsn import Lsn, Position
from schemas.sequence import SequenceValue
from schemas.table import TableSchema

NO_DIGEST = bytes(32)
FRAME_TARGET_BYTES = 512 * 1024
"""Frames are closed at about this size; one larger change is cut into fragments (P3)."""


class Transaction(NamedTuple):
    """A whole source transaction. `changes` holds `change_count` encoded changes, back to back. (A tuple: a
    frame has thousands.)"""

    xid: int
    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time: int
    origin: str | None
    change_count: int
    changes: bytes

    def iter_changes(self) -> Sequence[Change]:
        """The changes in source order; a change's ordinal is its index here.

        Raises RefusedData (`frame-format`) where they are not of this format.
        """
        return decode_changes(self.changes, self.change_count)

    @property
    def position(self) -> Position:
        """The position after this transaction (P1)."""
        return Position(self.end_lsn, self.xid, self.commit_time)


@dataclass(frozen=True, slots=True)
class Transactions:
    """Body of a frame that holds whole transactions, in commit order."""

    transactions: tuple[Transaction, ...]


@dataclass(frozen=True, slots=True)
class Fragment:
    """A slice of one encoded change too big for a part; `last` ends the change."""

    content: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """How a transaction ended; stands in its last part."""

    end_lsn: Lsn
    origin: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a transaction too big for a frame (P3): first `changes`, then `fragment`."""

    xid: int
    commit_lsn: Lsn
    commit_time: int
    part: int
    change_count: int
    changes: bytes
    fragment: Fragment | None = None
    commit: Commit | None = None

    @property
    def position(self) -> Position | None:
        """The position after the transaction, in its last part."""
        if self.commit is None:
            return None
        return Position(self.commit.end_lsn, self.xid, self.commit_time)


class PartChanges:
    """Puts the changes of consecutive parts together; holds at most one oversized change."""

    def __init__(self) -> None:
        self._fragments = io.BytesIO()  # one growing piece: many would leave holes in the heap

    def are_rows_in(self, part: Part) -> bool:
        """Whether its `changes` are all that it completes, and each is one row. False where that cannot be
        told without decoding them."""
        whole = not self._fragments.tell() and part.fragment is None
        return whole and are_rows is not None and are_rows(part.changes, part.change_count)

    def feed(self, part: Part) -> Iterator[Change]:
        """The changes that this part completes, in source order. Raises RefusedData (`frame-format`)."""
        if self._fragments.tell() and (part.change_count or part.fragment is None):
            raise wrong_form(ValueError("a change ends in the middle"))
        yield from decode_changes(part.changes, part.change_count)
        if part.fragment is not None:
            if not part.fragment.content:
                raise wrong_form(ValueError("a fragment of nothing"))
            self._fragments.write(part.fragment.content)
            if part.fragment.last:
                yield self._join()
        if self._fragments.tell() and part.commit is not None:
            raise wrong_form(ValueError("a transaction ends inside of a change"))

    def _join(self) -> Change:
        """Nothing but the change itself is held when it returns."""
        fragments, self._fragments = self._fragments, io.BytesIO()
        encoded = fragments.getvalue()
        del fragments
        return decode_change(encoded)


@dataclass(frozen=True, slots=True)
class CaptureStart:
    """Begins an epoch; outside of the chain (P5). Times are µs since 1970 UTC."""

    nonce: bytes
    system_id: str
    timeline: int
    written_at: int


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place at which a reader can begin (P6); the frame's `tables` hold all live table versions."""

    at: Position
    system_id: str
    timeline: int
    publication: tuple[str, ...]
    written_at: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing was committed on published tables between the tail and `at` (P9)."""

    at: Position
    written_at: int


@dataclass(frozen=True, slots=True)
class Sequences:
    """Where sequences of the source stand that moved since the last such frame of the epoch (P23): read after
    all had committed that the log held then. `at` is the tail's position, which they do not move."""

    at: Position
    values: tuple[SequenceValue, ...]
    written_at: int


Body = Transactions | Part | CaptureStart | Anchor | Heartbeat | Sequences


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame. `position`: where the log stands after it, None inside a transaction."""

    stream: bytes
    epoch: int
    number: int
    previous_digest: bytes
    max_commit_time: int
    tables: tuple[TableSchema, ...]
    body: Body
    digest: bytes

    @property
    def position(self) -> Position | None:
        body = self.body
        if isinstance(body, Transactions):
            return body.transactions[-1].position
        if isinstance(body, (Anchor, Heartbeat, Sequences)):
            return body.at
        return body.position if isinstance(body, Part) else None
