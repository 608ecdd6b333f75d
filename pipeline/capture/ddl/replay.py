"""What the log's own schema messages tell behind its newest ANCHOR: a capture that continues begins with
that.

A capture may be killed between the frame that holds a message and the ANCHOR that says what follows from it;
and the slot may be past that frame, so that it does not come again. They are collected while the log's end is
looked for: to read it again may wait for seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pipeline.capture.ddl.judging import after_join, after_message
from pipeline.capture.entries.told import TOLD, is_tracked
from pipeline.follow import Followed, Follower
from schemas.change import Change, Message
from schemas.ddl.message import DDL_PREFIX, SchemaMessage
from schemas.entries import Entries
from schemas.frame import Anchor, CaptureStart, Part, PartChanges, Transactions
from schemas.join import DEFINING, Join
from schemas.table import TableSchema

_MARK: Final = b"keepstream."


@dataclass(frozen=True, slots=True)
class Known:
    """At the log's tail: an ANCHOR's entries, and the live table versions."""

    entries: Entries
    live_tables: tuple[TableSchema, ...]


class Behind:
    """What a reading of the log finds behind its newest ANCHOR. `see` takes each valid frame in order; a
    reading that is begun again further back comes to an ANCHOR first."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._parts = PartChanges()
        self._opened: list[Message] = []

    def see(self, followed: Followed) -> None:
        body = followed.frame.body
        if isinstance(body, Anchor):
            self._messages, self._parts, self._opened = [], PartChanges(), []
        elif isinstance(body, CaptureStart):
            self._parts, self._opened = PartChanges(), []
        elif isinstance(body, Part):
            self._opened += _of_part(self._parts, body)
            if body.commit is not None:
                self._messages += self._opened
                self._opened = []
        elif isinstance(body, Transactions):
            self._messages += _of_whole(body)

    def known(self, tail: Follower, publication: str) -> Known:
        """`tail` has read the log to its end, and found an ANCHOR."""
        assert tail.last_anchor is not None
        entries = Entries.parse(tail.last_anchor.publication)
        for message in self._messages:
            entries = _after(entries, message, publication)
        return Known(entries, _still_live(tail.live_tables, entries))


def _still_live(tables: tuple[TableSchema, ...], entries: Entries) -> tuple[TableSchema, ...]:
    """Without those of names that no table has any more: a renamed table's version came under its new one."""
    if not is_tracked(entries):
        return tables
    names = {told.name for told in entries.of(TOLD).values()}
    return tuple(table for table in tables if (table.schema, table.name) in names)


def _after(entries: Entries, message: Message, publication: str) -> Entries:
    if message.prefix == DDL_PREFIX:
        return after_message(entries, SchemaMessage.from_json(message.content), publication)
    if message.prefix in DEFINING:
        join = Join.from_json(message.content)
        return after_join(entries, join.schema, join.table)
    return entries


def _of_whole(body: Transactions) -> Iterator[Message]:
    for transaction in body.transactions:
        if _MARK in transaction.changes:
            yield from _ours(transaction.iter_changes())


def _of_part(parts: PartChanges, part: Part) -> list[Message]:
    if part.fragment is None and _MARK not in part.changes:
        return []
    return list(_ours(parts.feed(part)))


def _ours(changes: Iterable[Change]) -> Iterator[Message]:
    """Those that may be."""
    for change in changes:
        payload = change.payload
        if isinstance(payload, Message) and payload.prefix in (DDL_PREFIX, *DEFINING):
            yield payload
