"""What the log knows after a schema message: an ANCHOR's entries before it and after it. Pure.

A message tells of objects as they are at its place in the stream. So names, columns, shapes and members of
types come from there, and what the catalog of now says is only compared with it (`looking`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from connectors.postgres.catalog.shape import UsedType
from pipeline.capture.ddl.begun import begun
from pipeline.capture.entries.ended import ENDED
from pipeline.capture.entries.limitednames import with_limited_name, without_limited_oid
from pipeline.capture.entries.names import NAMES, TABLE_ROWS, KnownName, left_tables
from pipeline.capture.entries.partitions import MEMBERS, KnownMember, partition_unlogged
from pipeline.capture.entries.schemachange import refuse_change
from pipeline.capture.entries.shapes import SHAPES, TYPES, KnownType, check_rows, first_shape, listed_columns
from pipeline.capture.entries.told import (
    SCHEMAS,
    TOLD,
    TRACKED,
    TRACKING,
    UNSEEN,
    SchemaName,
    Told,
    is_tracked,
    shape_of_state,
    with_unseen,
)
from schemas.ddl.message import SENT, TOO_LARGE, ObjectChange, SchemaMessage, State
from schemas.entries import Entries
from schemas.errors import IF_MEANT, HistoryBroken

Name = tuple[str, str]


def after_message(entries: Entries, message: SchemaMessage, publication: str) -> Entries:
    """The entries behind a genuine message. Raises HistoryBroken (`publication-changed`) where it tells that
    a table left the publication by somebody else's hand; KeyError, TypeError or ValueError where a state has
    another form."""
    if message.installed:
        entries = begun(entries, message).without(ENDED)
        return entries if is_tracked(entries) else entries.put(TRACKING, TRACKED)
    if not is_tracked(entries):
        return entries.without(ENDED) if message.removed else entries
    if message.removed:
        return without_tracking(entries)
    for change in sorted(message.changes, key=_depths(message.changes)):
        entries = _after_change(entries, change, publication, int(message.xid) % (1 << 32))
    return with_unseen(entries, int(message.xid)) if message.changes else entries


def _depths(changes: Sequence[ObjectChange]) -> Callable[[ObjectChange], int]:
    """How many of the tables that one is a partition of, however far above, are among the changes, too."""
    states = [change.after for change in changes if change.class_ == "table" and change.after is not None]
    parents: dict[tuple[str, ...], tuple[str, ...]] = {
        _name(state): tuple(state["partition_of"] or ()) for state in states
    }

    def depth(change: ObjectChange) -> int:
        if change.class_ != "table" or change.after is None:
            return 0
        above, found = parents[_name(change.after)], 0
        while above in parents:
            above, found = parents[above], found + 1
        return found

    return depth


def without_tracking(entries: Entries) -> Entries:
    """From here on the catalog says what became of tables, as without event triggers."""
    return entries.without(TRACKING, TOLD, UNSEEN, SCHEMAS)


def after_join(entries: Entries, schema: str, table: str) -> Entries:
    """Behind the message by which a table joins: from here on its rows are in the log."""
    name = schema, table
    joining = [told for told in entries.of(TOLD).values() if told.joining and told.name == name]
    return entries.put(TOLD, *(replace(told, joining=False) for told in joining))


def renamed_tables(before: Entries, after: Entries) -> dict[Name, Name | None]:
    """Of tables in the log that a message gave another name: by the old one, the new one; None: dropped."""
    if before is after:
        return {}
    then, now = before.of(TOLD), after.of(TOLD)
    left = left_tables(before)
    named = sorted(then.items(), key=lambda item: item[0] not in left)  # another may have its name by now
    names = {told.name: now[oid].name if oid in now else None for oid, told in named}
    return {old: new for old, new in names.items() if old != new} if is_tracked(after) else {}


def renamed_oids(before: Entries, after: Entries) -> list[int]:
    """Of tables that are still there."""
    if before is after or not is_tracked(after):
        return []
    then, now = before.of(TOLD), after.of(TOLD)
    return [oid for oid, told in now.items() if oid in then and then[oid].name != told.name]


def _after_change(entries: Entries, change: ObjectChange, publication: str, xid: int) -> Entries:
    if change.class_ == "table":
        return _after_table(entries, change, publication, xid)
    if change.class_ == "schema":
        return _after_schema(entries, change)
    if change.class_ in ("enum", "composite"):
        return _after_type(entries, change)
    return entries


def _after_table(entries: Entries, change: ObjectChange, publication: str, xid: int) -> Entries:
    """Only what the command changed counts: the rest is as its session saw it, and may be older than what
    another one has committed by the message's place."""
    told = entries.of(TOLD).get(change.oid)
    if told is None:
        return _after_new_partition(entries, change)
    if change.after is None:
        return _without_table(entries, told).drop(MEMBERS, told.oid)
    _require_streamed(entries, change, told)
    before, state = change.before, change.after
    if before is None or publication in before["published"]:
        _require_published(entries, told, state, publication)
    if before is not None and change.hidden and not change.rewritten:
        listed = listed_columns(entries, told.oid)
        then = shape_of_state(told.oid, before).only(listed)
        now = shape_of_state(told.oid, state).only(listed)
        check_rows(told.qualified_name, then, now, xid)
    is_anew = change.rewritten in (SENT, TOO_LARGE)  # in another file, be its columns the same
    if before is None or is_anew or before["shape"]["columns"] != state["shape"]["columns"]:
        shape = shape_of_state(told.oid, state).only(listed_columns(entries, told.oid))
        told = told.like(shape, *told.name)
        entries = entries.put(SHAPES, first_shape(shape))
    if before is None or _name(before) != _name(state):
        told = replace(told, schema=state["schema"], table=state["name"])
        entries = with_limited_name(entries, told.oid, told.name)
    entries = _with_told(entries, told)
    if _whole_of(entries, told.oid, state) is not None:
        _require_told(change, state)
    return _after_partition(entries, told, state)


def _after_new_partition(entries: Entries, change: ObjectChange) -> Entries:
    """A table that the log does not know becomes a partition of one that it knows as a whole."""
    state = change.after
    whole = _whole_of(entries, change.oid, state)
    if state is None or whole is None:
        return entries
    _require_told(change, state)
    shape = shape_of_state(change.oid, state)
    told = Told.of_shape(shape, *_name(state))
    member = KnownMember(told.oid, whole, told.qualified_name, _is_unlogged(state))
    return entries.put(TOLD, told).put(SHAPES, first_shape(shape)).put(MEMBERS, member)


def _require_told(change: ObjectChange, state: State) -> None:
    """Raises RefusedData (`schema-changed`) where event triggers of an earlier release told nothing of what
    is below the table."""
    before = change.before
    if before is not None and not before["partition_of"] and state["kind"] == "p" and not change.rewritten:
        raise refuse_change(change.name, "it was attached with partitions of its own")


def _after_partition(entries: Entries, told: Told, state: State) -> Entries:
    known, whole = entries.of(MEMBERS).get(told.oid), _whole_of(entries, told.oid, state)
    if known is not None and known.root == told.oid and whole is None:
        return entries.put(MEMBERS, _as_whole(told))
    if whole is not None:
        unlogged = _is_unlogged(state) if known is None or known.root == told.oid else known.unlogged
        return entries.put(MEMBERS, KnownMember(told.oid, whole, told.qualified_name, unlogged))
    if known is None:
        return entries
    entries = entries.drop(MEMBERS, told.oid)
    if told.oid not in entries.of(NAMES):
        return _without_table(entries, told)
    return entries.put(MEMBERS, _as_whole(told)) if state["kind"] == "p" else entries


def _is_unlogged(state: State) -> bool:
    return bool(state["kind"] == "r" and state["persistence"] == "u")


def _require_streamed(entries: Entries, change: ObjectChange, told: Told) -> None:
    """Raises RefusedData (`partition-unlogged`)."""
    before, after = change.before, change.after
    known = entries.of(MEMBERS).get(told.oid)
    if known is None or known.root == told.oid or before is None or after is None:
        return
    if _is_unlogged(before) != _is_unlogged(after):
        raise partition_unlogged(told.qualified_name)


def _as_whole(told: Told) -> KnownMember:
    return KnownMember(told.oid, told.oid, told.qualified_name)


def _whole_of(entries: Entries, oid: int, state: State | None) -> int | None:
    """The OID of the table at the top, under whose name the rows of this one are in the log."""
    if state is None or not state["partition_of"]:
        return None
    told, members, parent = entries.of(TOLD), entries.of(MEMBERS), tuple(state["partition_of"])
    likely = members[oid].root if oid in members else 0  # of most it is that, however many there are
    above = (each for each in chain((likely,), members) if each in told and told[each].name == parent)
    return next((members[each].root for each in above if each in members), None)


def _require_published(entries: Entries, told: Told, state: State, publication: str) -> None:
    if told.joining or told.oid not in entries.of(NAMES) or publication in state["published"]:
        return
    raise taken_out(publication, told.qualified_name)


def taken_out(publication: str, table: str) -> HistoryBroken:
    """Somebody else took a table that is still there out of the publication."""
    return HistoryBroken(
        f"publication {publication} was changed by somebody else: table {table} was taken out",
        code="publication-changed",
        hint="Changes of it are missing from then on, which nothing can mend. Tables are chosen in"
        f" keepstream.yaml (source.tables), never with ALTER PUBLICATION. {IF_MEANT}",
    )


def _after_schema(entries: Entries, change: ObjectChange) -> Entries:
    if change.before is None:
        return entries
    if change.after is None:
        return entries.drop(SCHEMAS, change.oid)
    old, new = change.before["name"], change.after["name"]
    if old == new:
        return entries
    entries = entries.put(SCHEMAS, SchemaName(change.oid, new))
    for told in entries.of(TOLD).values():
        if told.schema == old:
            entries = with_limited_name(entries, told.oid, (new, told.table))
            entries = _with_told(entries, replace(told, schema=new))
    return entries


def _with_told(entries: Entries, told: Told) -> Entries:
    """And the entry of its name, if it has one yet."""
    entries = entries.put(TOLD, told)
    if told.oid not in entries.of(NAMES):
        return entries
    return entries.put(NAMES, KnownName(told.oid, told.qualified_name))


def _without_table(entries: Entries, told: Told) -> Entries:
    row = told.entry.removeprefix(f"{TABLE_ROWS.name}:")
    entries = entries.drop(TOLD, told.oid).drop(NAMES, told.oid).drop(SHAPES, told.oid)
    return without_limited_oid(entries.drop(TABLE_ROWS, row), told.oid)


def _after_type(entries: Entries, change: ObjectChange) -> Entries:
    """Only of types that published tables use: of those an entry is there."""
    if change.oid not in entries.of(TYPES):
        return entries
    if change.after is None:
        return entries.drop(TYPES, change.oid)
    return entries.put(TYPES, KnownType.of(_used_type(change.oid, change.after)))


def _used_type(oid: int, state: State) -> UsedType:
    """As `read_used_types` reads it."""
    if "labels" in state:
        labels: list[list[Any]] = state["labels"]
        return UsedType(oid, state["name"], 0, tuple(sorted((int(label), text) for label, text in labels)))
    members = ((a["num"], f"{a['type_oid']} {a['typmod']} {a['name']}") for a in state["attributes"])
    return UsedType(oid, state["name"], int(state["natts"]), tuple(sorted(members)))


def _name(state: State) -> Name:
    return state["schema"], state["name"]
