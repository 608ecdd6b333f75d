"""Following the log for events: whole transactions only, in commit order.

A transaction's `end_lsn` is known only after its last part, so the changes of one that is too big for
a frame wait in a spool until then. A run of parts that a new epoch
left unfinished never becomes an event: it comes again from its first part (P7).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from connectors.interfaces import ChangeLog
from pipeline.events.event import Committed, EventEncoder
from pipeline.events.spool import PartSpool
from pipeline.follow import Followed, Follower, find_tail, follow_from_start
from pipeline.logreading import EndGuard
from pipeline.reentry import follow_from
from schemas.change import Change
from schemas.errors import PlaceTrimmed
from schemas.frame import Part, Transactions
from schemas.lsn import ZERO, Lsn, Position

_READ_S = 0.25


@dataclass(frozen=True, slots=True)
class Beginning:
    """Events of transactions that position `lsn` does not hold yet (P1) and that were committed at or
    after `time` (µs). `now`: only what comes after all that the log holds."""

    lsn: Lsn = ZERO
    time: int = 0
    now: bool = False

    def wants(self, committed: Committed) -> bool:
        return committed.commit_lsn >= self.lsn and committed.commit_time >= self.time


class EventTail:
    """One reading of the log. Raises PlaceTrimmed (`log-trimmed`) if it does not reach back to the beginning,
    or is trimmed past what was not read yet."""

    def __init__(self, log: ChangeLog, beginning: Beginning) -> None:
        self._log = log
        with _without_a_replica():
            self._follower, self._beginning = _begin(log, beginning)
        self._encoder = EventEncoder(self._follower.tables)
        self._spool: PartSpool | None = None

    def events(
        self, stop: threading.Event, *, follow: bool, before_waiting: Callable[[], None]
    ) -> Iterator[dict[str, Any]]:
        """Every event, with what its transaction says. Without `follow` it ends where the log ends now.

        `before_waiting` is called whenever all that was read has been handed out. Raises RetryLater
        (`log-end-unread`) without `follow`.
        """
        end, guard = self._log.bounds().end, EndGuard(self._log)
        while not stop.is_set():
            if not follow:
                if self._follower.next_place >= end:
                    return
                guard.see(self._follower.next_place)
            with _without_a_replica():
                came = self._follower.read(_READ_S)
            for followed in came:
                yield from self._frame(followed)
            before_waiting()

    def close(self) -> None:
        self._follower.close()
        self._forget_parts()

    def _forget_parts(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _frame(self, followed: Followed) -> Iterator[dict[str, Any]]:
        if followed.started:
            self._forget_parts()
        body = followed.frame.body
        if isinstance(body, Transactions):
            for transaction in body.transactions:
                committed = Committed(
                    transaction.xid, transaction.commit_lsn, transaction.end_lsn, transaction.commit_time
                )
                yield from self._transaction(committed, transaction.iter_changes())
        elif isinstance(body, Part):
            yield from self._part(body)

    def _part(self, part: Part) -> Iterator[dict[str, Any]]:
        self._spool = self._spool or PartSpool()
        self._spool.add(part)
        if part.commit is not None:
            committed = Committed(part.xid, part.commit_lsn, part.commit.end_lsn, part.commit_time)
            yield from self._transaction(committed, self._spool.changes())
            self._forget_parts()

    def _transaction(self, committed: Committed, changes: Iterable[Change]) -> Iterator[dict[str, Any]]:
        if not self._beginning.wants(committed):
            return
        for ordinal, change in enumerate(changes):
            shared = committed.to_json(ordinal)
            for event in self._encoder.encode(change):
                yield event | shared


@contextlib.contextmanager
def _without_a_replica() -> Iterator[None]:
    """Whoever only looks has nothing to copy anew: the error says where reading can begin."""
    try:
        yield
    except PlaceTrimmed as error:
        there = f"an LSN from {error.begins_at} on" if error.begins_at else "a later LSN"
        hint = f"Begin where the log does, with `--from start`, or with {there}."
        raise PlaceTrimmed(error.message, code=error.code, hint=hint) from error


def _begin(log: ChangeLog, beginning: Beginning) -> tuple[Follower, Beginning]:
    """From the newest anchor if nothing that is wanted stands before it, else from the log's start.

    An anchor never stands inside a run of parts, so what is open at the log's end is read whole.
    """
    if not (beginning.now or beginning.lsn):
        return follow_from_start(log), beginning
    tail = find_tail(log)
    tail.close()
    if beginning.now:
        beginning = Beginning(lsn=tail.chain.tail.lsn)
    if tail.chain.stream is None:
        return follow_from_start(log), beginning
    hint = str(tail.anchor) if tail.anchor is not None else None
    position = Position(beginning.lsn)
    return follow_from(log, stream=tail.chain.stream, position=position, hint=hint), beginning
