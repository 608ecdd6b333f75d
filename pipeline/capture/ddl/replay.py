"""What the log's own schema messages tell behind its newest ANCHOR: a capture that continues begins with
that.

A capture may be killed between the frame that holds a message and the ANCHOR that says what follows from it;
and the slot may be past that frame, so that it does not come again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from connectors.interfaces import ChangeLog
from pipeline.capture.ddl.judging import Entries, after_join, after_message
from pipeline.capture.ddl.told import is_tracked, told_tables
from pipeline.follow import Follower
from schemas.change import Change, Message
from schemas.ddl.message import DDL_PREFIX, SchemaMessage
from schemas.frame import CaptureStart, Frame, Part, PartChanges, Transactions
from schemas.join import JOIN_PREFIX, Join
from schemas.table import TableSchema
from schemas.validity import Chain

_MARK: Final = b"keepstream."


@dataclass(frozen=True, slots=True)
class Known:
    """At the log's tail: an ANCHOR's entries, and the live table versions."""

    entries: Entries
    live_tables: tuple[TableSchema, ...]


def known_at_tail(log: ChangeLog, tail: Follower, publication: str) -> Known:
    """`tail` has read the log to its end, and found an ANCHOR."""
    assert tail.last_anchor is not None
    assert tail.anchor is not None
    entries = tail.last_anchor.publication
    if tail.chain.number == tail.anchor.number:
        return Known(entries, _still_live(tail.live_tables, entries))  # no frame came behind it
    for change in _messages(log, tail.anchor.place, tail.next_place):
        payload = change.payload
        if isinstance(payload, Message):
            entries = _after(entries, payload, publication)
    return Known(entries, _still_live(tail.live_tables, entries))


def _still_live(tables: tuple[TableSchema, ...], entries: Entries) -> tuple[TableSchema, ...]:
    """Without those of names that no table has any more: a renamed table's version came under its new one."""
    if not is_tracked(entries):
        return tables
    names = {told.name for told in told_tables(entries).values()}
    return tuple(table for table in tables if (table.schema, table.name) in names)


def _after(entries: Entries, message: Message, publication: str) -> Entries:
    if message.prefix == DDL_PREFIX:
        return after_message(entries, SchemaMessage.from_json(message.content), publication)
    if message.prefix == JOIN_PREFIX:
        join = Join.from_json(message.content)
        return after_join(entries, join.schema, join.table)
    return entries


def _messages(log: ChangeLog, place: int, end: int) -> Iterator[Change]:
    """All of whole transactions from the ANCHOR at `place` on that may be ours."""
    follower = Follower(log, log.reader(place), Chain(), first_place=place, skip_to_anchor=True)
    with closing(follower):
        parts = PartChanges()
        opened: list[Change] = []
        for followed in (each for read in follower.read_to(end) for each in read):
            body = followed.frame.body
            if isinstance(body, CaptureStart):
                parts, opened = PartChanges(), []
            elif isinstance(body, Part):
                opened += _of_part(parts, body)
                if body.commit is not None:
                    yield from opened
                    opened = []
            else:
                yield from _of_whole(followed.frame)


def _of_whole(frame: Frame) -> Iterator[Change]:
    if isinstance(frame.body, Transactions):
        for transaction in frame.body.transactions:
            if _MARK in transaction.changes:
                yield from filter(_is_ours, transaction.iter_changes())


def _of_part(parts: PartChanges, part: Part) -> list[Change]:
    if part.fragment is None and _MARK not in part.changes:
        return []
    return [change for change in parts.feed(part) if _is_ours(change)]


def _is_ours(change: Change) -> bool:
    payload = change.payload
    return isinstance(payload, Message) and payload.prefix in (DDL_PREFIX, JOIN_PREFIX)
