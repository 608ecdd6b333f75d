"""Following the log for events: whole transactions only, in commit order.

What a transaction's end says (`end_lsn`, `commit_time`) is known only after its last part, so the
changes of one that is too big for a frame wait in a temporary file until then.
"""

from __future__ import annotations

import pickle
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from connectors.interfaces import ChangeLog
from pipeline.events.event import Committed, EventEncoder
from pipeline.follow import Followed, Follower, follow_from_start
from schemas.change import Change
from schemas.frame import Part, PartChanges, Transactions

SPOOL_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Beginning:
    """Events of transactions that end after `lsn` and were committed at or after `time` (µs)."""

    lsn: int = 0
    time: int = 0

    def wants(self, committed: Committed) -> bool:
        return committed.end_lsn > self.lsn and committed.commit_time >= self.time


def _temporary_file() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)


@dataclass(slots=True)
class _Spool:
    """Changes of the transaction whose parts are coming in."""

    file: IO[bytes] = field(default_factory=_temporary_file)
    parts: PartChanges = field(default_factory=PartChanges)

    def add(self, part: Part) -> None:
        for change in self.parts.feed(part):
            pickle.dump(change, self.file)

    def changes(self) -> Iterator[Change]:
        """Only what `add` wrote is ever read here."""
        self.file.seek(0)
        while True:
            try:
                yield pickle.load(self.file)  # noqa: S301 - our own private temporary file
            except EOFError:
                return


class EventTail:
    """Reads the log from its oldest record on."""

    def __init__(self, log: ChangeLog, beginning: Beginning) -> None:
        self._log = log
        self._beginning = beginning
        self._follower: Follower = follow_from_start(log)
        self._encoder = EventEncoder(self._follower.tables)
        self._spool: _Spool | None = None

    def events(self, stop: threading.Event, *, follow: bool) -> Iterator[dict[str, Any]]:
        """Every event, with what its transaction says. Without `follow` it ends where the log ends now."""
        end = self._log.bounds().end
        while not stop.is_set():
            if not follow and self._follower.next_place >= end:
                return
            for followed in self._follower.read(0.25):
                yield from self._frame(followed)

    def close(self) -> None:
        self._follower.close()

    def _frame(self, followed: Followed) -> Iterator[dict[str, Any]]:
        if followed.started:
            self._spool = None  # a new epoch: the unfinished transaction comes again
        body = followed.frame.body
        if isinstance(body, Transactions):
            for transaction in body.transactions:
                committed = Committed(
                    transaction.xid, transaction.commit_lsn, transaction.end_lsn, transaction.commit_time
                )
                yield from self._transaction(committed, transaction.iter_changes())
        elif isinstance(body, Part):
            self._spool = self._spool or _Spool()
            self._spool.add(body)
            if body.commit is not None:
                committed = Committed(body.xid, body.commit_lsn, body.commit.end_lsn, body.commit.commit_time)
                yield from self._transaction(committed, self._spool.changes())
                self._spool = None

    def _transaction(self, committed: Committed, changes: Iterator[Change]) -> Iterator[dict[str, Any]]:
        if not self._beginning.wants(committed):
            return
        for ordinal, change in enumerate(changes):
            shared = committed.to_json(ordinal)
            for event in self._encoder.encode(change):
                yield event | shared
