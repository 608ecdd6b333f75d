"""What of a schema message has a place in the log: nothing of tables that are not replicated. Pure.

Rows of a rewritten table are there only if the log has the table's rows: those of one that is still to join
come with its joining.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pipeline.capture.ddl.limited import all_relaxed
from pipeline.capture.entries.told import Told
from schemas.ddl.message import UNPUBLISHED, ObjectChange, SchemaMessage, State


class Selects(Protocol):
    """`pipeline.config.model.Tables`."""

    def selects(self, schema: str, table: str) -> bool: ...


def for_log(
    message: SchemaMessage,
    known: Mapping[int, Told],
    tables: Selects,
    listed: Mapping[int, Sequence[int]],
    *,
    publication: str,
    wholes: Mapping[int, tuple[str, str]],
    new: Collection[int],
) -> SchemaMessage | None:
    """The part of it that replicas are told; None for nothing. `known`: by OID, tables of the log, before the
    message and behind it; without those that left it. `listed`: the numbers of their columns, of those with
    a column list. `wholes`: of the partitions among them, under which name their rows are there. `new`: those
    that are partitions since this message."""
    told = {oid: table for oid, table in known.items() if not table.joining}
    if message.rows is not None:
        if message.rows.oid not in told or message.rows.oid in listed:
            return None
        rows = replace(message.rows.sent_by(publication), whole=wholes.get(message.rows.oid, ()))
        return replace(message, rows=rows)
    message = replace(message, changes=all_relaxed(message.changes, listed))
    if message.installed or message.removed:
        own = tuple(change for change in message.changes if change.oid in told)
        return replace(message, changes=own)
    changes = (_change(change, told, tables, new) for change in message.changes)
    kept = tuple(replace(each, whole=wholes.get(each.oid, ())) for each in changes if each is not None)
    return replace(message, changes=kept) if kept else None


def _change(
    change: ObjectChange, told: dict[int, Told], tables: Selects, new: Collection[int]
) -> ObjectChange | None:
    if change.class_ != "table":
        return change
    if change.oid not in told and not _selected(change.after or change.before, tables):
        return None
    is_untold = change.oid not in told or change.oid in new
    is_new = change.after is not None and not _selected(change.before, tables) and is_untold
    if not is_new and _but_published(change.before) == _but_published(change.after):
        return None
    return _with_rows_told(replace(change, before=None) if is_new else change, told)


def _but_published(state: State | None) -> State | None:
    return None if state is None else {**state, "published": None}


def _selected(state: State | None, tables: Selects) -> bool:
    return state is not None and tables.selects(state["schema"], state["name"])


def _with_rows_told(change: ObjectChange, told: dict[int, Told]) -> ObjectChange:
    if not change.rewritten:
        return change
    if change.oid not in told or change.rewritten == UNPUBLISHED:
        return replace(change, rewritten=UNPUBLISHED)
    return change
