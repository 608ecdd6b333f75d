"""What was read from the log and is not applied yet, in log order. Sans-I/O: frames in, items out.

Transactions that the position holds already are skipped here (P1) and prove on the way that the log
is the one in which the position was taken (P2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile

from pipeline.follow import AnchorHint, Followed, SameHistory
from schemas.change import Change
from schemas.changecodec import are_rows
from schemas.frame import (
    Anchor,
    CaptureStart,
    Commit,
    Heartbeat,
    Part,
    Sequences,
    Transaction,
    Transactions,
)
from schemas.lsn import Position
from schemas.sequence import SequenceValue

JOINED_BYTES = 1024 * 1024
JOINED_CHANGES = 16_000
"""A larger transaction is applied part by part. A smaller one that has come to its end is like any other: it
shares a target transaction, and is made ready while the one before is written."""
_JOINED_PARTS = 8


@dataclass(slots=True)
class Whole:
    """A whole transaction. Its changes are decoded when they are first wanted."""

    transaction: Transaction
    _plain: bool | None = None
    _changes: Sequence[Change] | None = None

    @property
    def plain(self) -> bool:
        """Whether each change is one row. Raises RefusedData (`frame-format`)."""
        if self._plain is None:
            transaction = self.transaction
            self._plain = are_rows is not None and are_rows(transaction.changes, transaction.change_count)
            if not self._plain:
                self._plain = all(change.payload is None for change in self.changes)
        return self._plain

    @property
    def block(self) -> bytes:
        """Its changes, encoded."""
        return self.transaction.changes

    @property
    def changes(self) -> Sequence[Change]:
        """In source order. Raises RefusedData (`frame-format`)."""
        if self._changes is None:
            self._changes = self.transaction.iter_changes()
        return self._changes


@dataclass(frozen=True, slots=True)
class PartOf:
    """One part of a transaction too big for a frame."""

    part: Part


@dataclass(frozen=True, slots=True)
class Standing:
    """The log says that nothing was committed between what came before and `at`. `hint`: an anchor.
    `sequences`: where the source's stand there."""

    at: Position
    hint: str | None
    sequences: tuple[SequenceValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Aborted:
    """A new epoch: an unfinished run of parts is void and will come again from part 1 (P7)."""


Item = Whole | PartOf | Standing | Aborted


class Backlog:
    """A queue of items. `size_bytes` is what its changes take."""

    def __init__(self, position: Position) -> None:
        self.items: deque[Item] = deque()
        self.size_bytes = 0
        self._position = position
        self._history = SameHistory(position)

    def feed(self, followed: Followed) -> None:
        """Take a valid frame. Raises HistoryBroken (`other-history`)."""
        body = followed.frame.body
        if isinstance(body, Transactions):
            self._feed_wholes(body.transactions)
        elif isinstance(body, Part):
            self._feed_part(body)
        elif isinstance(body, CaptureStart):
            self.items.append(Aborted())
        elif isinstance(body, Anchor):
            self._history.see_anchor(body.at, body.timeline)
            frame = followed.frame
            self._stand(body.at, str(AnchorHint(followed.place, frame.number, frame.digest)))
        elif isinstance(body, Heartbeat):
            self._stand(body.at, None)
        elif isinstance(body, Sequences):
            self._stand(body.at, None, body.values)

    def pop(self) -> Item:
        """Remove the first item."""
        item = self.items.popleft()
        self.size_bytes -= _size_bytes(item)
        return item

    def drop(self, wholes: int, size_bytes: int) -> Standing | None:
        """Remove so many whole transactions, whose changes take `size_bytes`, and what stands between them.
        Returns the newest anchor of that."""
        anchor = None
        while wholes:
            item = self.items.popleft()
            if isinstance(item, Whole):
                wholes -= 1
            elif isinstance(item, Standing) and item.hint is not None:
                anchor = item
        self.size_bytes -= size_bytes
        return anchor

    def oldest_commit_time(self) -> int | None:
        """When the oldest transaction in it was committed (µs); None if it has none. May be called from
        any thread."""
        for item in list(self.items):
            if isinstance(item, Whole):
                return item.transaction.commit_time
            if isinstance(item, PartOf):
                return item.part.commit_time
        return None

    def _feed_wholes(self, transactions: Sequence[Transaction]) -> None:
        """They are in commit order: after the first that the position does not hold, it holds none."""
        fresh = list(dropwhile(self._is_held, transactions))
        self.items.extend(map(Whole, fresh))
        self.size_bytes += sum([len(transaction.changes) for transaction in fresh])

    def _is_held(self, transaction: Transaction) -> bool:
        return self._history.see(
            commit_lsn=transaction.commit_lsn, xid=transaction.xid, commit_time=transaction.commit_time
        )

    def _feed_part(self, part: Part) -> None:
        if not self._position.holds(part.commit_lsn):
            self._history.prove()
            self._push(PartOf(part))
            if part.commit is not None:
                self._join(part, part.commit)
        elif part.commit is not None:
            self._history.see(commit_lsn=part.commit_lsn, xid=part.xid, commit_time=part.commit_time)

    def _join(self, last: Part, commit: Commit) -> None:
        """Make a whole of a transaction's parts, if all are still here and it is small. Never of the first
        item: that may be under way."""
        if last.part > min(_JOINED_PARTS, len(self.items) - 1):
            return
        found = [self.items[place] for place in range(-last.part, 0)]
        parts = [item.part for item in found if isinstance(item, PartOf) and item.part.fragment is None]
        changes = b"".join(part.changes for part in parts)
        count = sum(part.change_count for part in parts)
        if [part.part for part in parts] != list(range(1, last.part + 1)) or (
            len(changes) > JOINED_BYTES or count > JOINED_CHANGES
        ):
            return
        for _ in parts:
            self.size_bytes -= _size_bytes(self.items.pop())
        xid, commit_lsn, time = last.xid, last.commit_lsn, last.commit_time
        self._push(Whole(Transaction(xid, commit_lsn, commit.end_lsn, time, commit.origin, count, changes)))

    def _stand(self, at: Position, hint: str | None, sequences: tuple[SequenceValue, ...] = ()) -> None:
        if at.lsn >= self._position.lsn:
            self._history.prove()
        self._push(Standing(at, hint, sequences))

    def _push(self, item: Item) -> None:
        self.items.append(item)
        self.size_bytes += _size_bytes(item)


def _size_bytes(item: Item) -> int:
    if isinstance(item, Whole):
        return len(item.transaction.changes)
    if isinstance(item, PartOf):
        return len(item.part.changes) + (len(item.part.fragment.content) if item.part.fragment else 0)
    return 0
