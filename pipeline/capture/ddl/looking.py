"""The catalog of now beside what the log knows, while schema messages are tracked.

The catalog may be ahead of the stream: of DDL whose message is still to come, and of a restart in between. So
what differs here is no verdict: it is put off until the stream has passed the look (`tracking`). Only what no
message could explain raises at once: a publication that somebody else altered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Final

from connectors.postgres.catalog import publication as publications
from connectors.postgres.catalog.publication import ListedTable, PublishedTable, TableName
from connectors.postgres.catalog.shape import Shape, UsedType, read_shapes, read_used_types
from connectors.postgres.copy.visibility import wait_until_transaction_visible
from connectors.postgres.ddl.tracking import triggers_act
from connectors.postgres.partitions.tree import Member, read_locked, read_members
from connectors.postgres.partitions.truncates import Truncate, read_rewritten, read_truncates
from connectors.postgres.session import Session, wrapped
from pipeline.capture.ddl.judging import taken_out
from pipeline.capture.entries.announcements import (
    JOINS,
    LEAVES,
    Leave,
    after_promotion,
    leaves_still,
    read_outcomes,
)
from pipeline.capture.entries.limitednames import limited_now
from pipeline.capture.entries.names import NAMES, TABLE_ROWS, KnownName, catalog_rows, named_tables
from pipeline.capture.entries.partitions import (
    MEMBERS,
    known_partitions,
    newly_attached,
    not_streamed,
    truncated,
    untold,
    with_other_files,
    written_anew,
)
from pipeline.capture.entries.schemachange import refuse_change
from pipeline.capture.entries.shapes import (
    SHAPES,
    TYPES,
    KnownShape,
    KnownType,
    check_shape,
    check_types,
    first_shape,
    next_shape,
)
from pipeline.capture.entries.told import SCHEMAS, TOLD, TRACKED, TRACKING, UNSEEN, Told, is_tracked
from pipeline.capture.history.publication import announced_now, check_published, publication_changed, renamed
from schemas.entries import Entries
from schemas.errors import HistoryBroken, KeepstreamError, RefusedData
from schemas.identifiers import qualified

logger = logging.getLogger("keepstream.capture")

Differences = Mapping[object, KeepstreamError]
"""By the OID of what differs: what is raised if no message tells of it."""

VISIBLE_LIMIT_S: Final = 10.0
"""How long a transaction that altered something may stay invisible before capture begins again."""
UNTRACKED: Final = "what is not tracked yet"
_TO_TELL: Final = (
    "It takes PostgreSQL's output plugin test_decoding, a replication slot to spare (max_replication_slots)"
    " and the REPLICATION attribute; `keepstream check` names what is missing. Run `keepstream verify`."
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the next ANCHOR says, and what differs. triggers_act: False where tracking lacks its event
    triggers. locked: by OID, partitions of which nobody sees now what was done to them, and who has them."""

    entries: Entries
    differences: Differences
    triggers_act: bool = True
    locked: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_clear(self) -> bool:
        """Whether the catalog shows all that the stream had before, and nothing of that differs."""
        return not self.differences and not self.locked


Reading = Callable[[Session, Sequence[str]], AbstractContextManager[None]]
"""Around each reading of the WAL, with the names of the partitions that it is read for."""


def unread(_session: Session, _tables: Sequence[str]) -> AbstractContextManager[None]:
    """Nobody is told, and nothing ends it."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class _Wal:
    """Behind what our slot was confirmed to."""

    slot: str
    reading: Reading


@dataclass(frozen=True, slots=True)
class _Catalog:
    """In one snapshot. existing: OIDs of those that the log knows and that are still there."""

    identity: frozenset[str]
    listed: Mapping[int, ListedTable]
    published: tuple[PublishedTable, ...]
    existing: frozenset[int]
    shapes: Mapping[int, Shape]
    types: tuple[UsedType, ...]
    triggers_act: bool
    members: tuple[Member, ...]


def look(
    session: Session,
    publication: str,
    entries: Entries,
    *,
    promoted: bool = False,
    slot: str | None = None,
    reading: Reading = unread,
) -> Seen:
    """As `check_published`, which it is where nothing is tracked. The session must be in autocommit. `slot`:
    ours, which was confirmed no further than the last look that was clear.

    It waits until the session sees all that messages told: that would look as if it had been undone, and no
    later message would explain it. For a partition that somebody has locked it does not wait: then it is not
    clear. Raises RetryLater (`commit-not-visible`), HistoryBroken (`publication-changed`), what `reading`
    does; where nothing is tracked, also what `check_published` does.
    """
    for xid in entries.of(UNSEEN):
        wait_until_transaction_visible(session, xid, limit_s=VISIBLE_LIMIT_S)
    # First of all: whoever lets go of a table later has done nothing to it that the stream has by now.
    members = read_members(session, publication) if MEMBERS in entries else ()
    held = read_locked(session, [member.oid for member in members])
    wal = None if slot is None else _Wal(slot, reading)
    look_at = _look_tracked if is_tracked(entries) else _look_untracked
    seen = look_at(session, publication, entries, promoted=promoted, wal=wal)
    hidden = newly_attached(seen.entries, members) if not is_tracked(entries) else set()
    locked = {
        member.oid: f"{member.name} ({held.get(member.oid, 'somebody')})"
        for member in members
        if member.oid in held or (member.oid in hidden and UNTRACKED not in seen.differences)
    }
    kept = seen.entries
    for oid in known_partitions(kept).keys() & held.keys() - entries.of(SHAPES).keys():
        kept = kept.drop(SHAPES, oid)  # its file may be the one from before a TRUNCATE of the whole
    return replace(seen, entries=kept, locked=locked)


def _look_tracked(
    session: Session, publication: str, entries: Entries, *, promoted: bool, wal: _Wal | None
) -> Seen:
    catalog = _read(session, publication, entries)
    leaves = entries.of(LEAVES).values()
    outcomes = read_outcomes(session, leaves)
    if promoted:
        outcomes = after_promotion(leaves, outcomes, catalog.identity)
    gone = {leave.entry for leave in leaves if outcomes[leave.xid] == "committed"}
    told = _with_rows(entries, catalog, gone)
    missing = _missing(publication, entries, catalog, told, gone)
    names = _names(entries, catalog, told, gone)
    listed = {oid: table for oid, table in told.items() if oid in names}
    leaving = leaves_still(leaves, outcomes, catalog.identity, listed.keys())
    parts = {oid: told[oid] for oid in known_partitions(entries) if oid in told}
    kept = _kept(entries, told, {**listed, **parts}, leaving)
    partitions = untold(entries, catalog.members, _truncates(session, wal, entries, catalog.members))
    compared = {oid: table for oid, table in {**listed, **parts}.items() if oid not in partitions}
    shapes, shape_differences = _shapes(entries, catalog, compared, kept)
    types, type_differences = _types(entries, catalog.types)
    current = (
        entries.only(JOINS, TRACKING, SCHEMAS, MEMBERS)
        .put(NAMES, *(KnownName(oid, table) for oid, table in sorted(names.items())))
        .put(SHAPES, *shapes)
        .put(TYPES, *types)
        .put(TOLD, *kept.values())
        .put(LEAVES, *leaving)
    )
    current |= _identity(entries, catalog, gone)
    current |= limited_now(entries, catalog.published, {oid: table.name for oid, table in told.items()})
    renames = _renames(catalog, listed)
    differences: dict[object, KeepstreamError] = {**missing, **renames, **shape_differences}
    differences |= type_differences
    differences.update(partitions.items())
    return Seen(current, differences, catalog.triggers_act)


def _look_untracked(
    session: Session, publication: str, entries: Entries, *, promoted: bool, wal: _Wal | None
) -> Seen:
    """Where the event triggers are there by now, the stream may be about to come to their installation, and
    to messages about what is found here."""
    is_ahead = triggers_act(session)
    try:
        current = check_published(session, publication, entries, promoted=promoted)
        current = _with_shapes_of(entries, current) if is_ahead else current
        return _with_truncated(session, publication, entries, current, wal)
    except (HistoryBroken, RefusedData) as error:
        if not is_ahead:
            raise
        if isinstance(error, HistoryBroken) and not _lacks_dropped(session, publication, entries):
            raise
        return Seen(entries, {UNTRACKED: error})


def _with_truncated(
    session: Session,
    publication: str,
    entries: Entries,
    current: Entries,
    wal: _Wal | None,
) -> Seen:
    """A partition that is as a TRUNCATE leaves it stays as it was known until the stream has told of that,
    and so does one whose rows were not in the WAL."""
    if not known_partitions(entries):
        return Seen(current, {})
    members = read_members(session, publication)
    differences = truncated(entries, members, _truncates(session, wal, entries, members))
    changed = [member.name for member in with_other_files(entries, members)]
    if wal is not None and changed:
        with wal.reading(session, changed):
            rewritten = read_rewritten(session, wal.slot)
        differences |= written_anew(entries, current, members, rewritten or ())
    differences |= not_streamed(entries, members)
    current = current.drop(SHAPES, *differences).drop(MEMBERS, *differences)
    shapes, known = entries.of(SHAPES), known_partitions(entries)
    current = current.put(SHAPES, *(shapes[oid] for oid in differences if oid in shapes))
    current = current.put(MEMBERS, *(known[oid] for oid in differences if oid in known))
    return Seen(current, dict(differences.items()))


def _truncates(
    session: Session, wal: _Wal | None, entries: Entries, members: Sequence[Member]
) -> list[Truncate]:
    changed = [member.name for member in with_other_files(entries, members)]
    if wal is None or not changed:
        return []
    with wal.reading(session, changed):
        found = read_truncates(session, wal.slot)
    if found is None:
        logger.warning(
            "partitions have other files, and the source cannot tell whether TRUNCATE emptied them",
            extra={"tables": ", ".join(changed), "hint": _TO_TELL},
        )
    return found or []


def _with_shapes_of(entries: Entries, current: Entries) -> Entries:
    """What was seen, but of known tables the shapes as they were known: they may be those of later DDL."""
    seen = current.of(SHAPES)
    return current.put(SHAPES, *(shape for oid, shape in entries.of(SHAPES).items() if oid in seen))


def _lacks_dropped(session: Session, publication: str, entries: Entries) -> bool:
    """Whether the publication differs by tables alone that are not there any more."""
    lost, added = announced_now(session, publication, entries)
    known = entries.of(NAMES)
    gone = len(known) - len(publications.existing_tables(session, known))
    return not added and len(lost) <= gone


@contextmanager
def _one_snapshot(session: Session) -> Iterator[None]:
    with session.transaction():
        session.execute("set transaction isolation level repeatable read, read only")
        yield


def _read(session: Session, publication: str, entries: Entries) -> _Catalog:
    with wrapped(f"comparing publication {publication}"), _one_snapshot(session):
        known = {*entries.of(TOLD), *entries.of(NAMES)}
        listed = publications.listed_tables(session, publication)
        found = publications.read_publication(session, publication)
        return _Catalog(
            frozenset(publications.publication_identity(session, publication)),
            {table.oid: table for table in listed},
            found.tables if found is not None else (),
            publications.existing_tables(session, known),
            {shape.oid: shape for shape in read_shapes(session, publication)},
            read_used_types(session, publication),
            triggers_act(session),
            read_members(session, publication),
        )


def _with_rows(entries: Entries, catalog: _Catalog, gone: set[str]) -> dict[int, Told]:
    """What was told of each table, with its catalog row in the publication. One that was dropped before that
    was seen has one of those that nobody else has."""
    tables = {
        oid: replace(table, entry=catalog.listed[oid].entry) if oid in catalog.listed else table
        for oid, table in entries.of(TOLD).items()
    }
    owned = {table.entry for table in tables.values()}
    lost = set(entries.only(TABLE_ROWS).encode()) - owned
    orphans = iter(sorted(lost - catalog.identity - gone))
    named = entries.of(NAMES)
    for oid, table in tables.items():
        if not table.entry and oid in named and oid not in catalog.existing:
            tables[oid] = replace(table, entry=next(orphans, ""))
    return tables


def _identity(entries: Entries, catalog: _Catalog, gone: set[str]) -> Entries:
    """The catalog rows as of the stream: those of dropped tables stay until their message."""
    return Entries.parse(sorted((catalog_rows(entries) - gone) | catalog.identity))


def _missing(
    publication: str, entries: Entries, catalog: _Catalog, told: Mapping[int, Told], gone: set[str]
) -> Differences:
    """Of tables that are not there any more. Raises HistoryBroken (P11)."""
    expected, announced = catalog_rows(entries), entries.of(JOINS)
    lost = expected - catalog.identity - gone
    added = [e for e in catalog.identity - expected if e.rpartition(":")[2] not in announced]
    owners = {table.entry: table for table in told.values()}
    unowned = [entry for entry in lost if entry not in owners]
    if added or unowned:
        raise publication_changed(publication, lost=len(lost), added=len(added))
    for entry in lost:
        if owners[entry].oid in catalog.existing:
            raise taken_out(publication, owners[entry].qualified_name)
    return {owners[e].oid: publication_changed(publication, lost=len(lost), added=0) for e in lost}


def _names(entries: Entries, catalog: _Catalog, told: Mapping[int, Told], gone: set[str]) -> dict[int, str]:
    """Of the tables in the log: as of the stream, and those that have joined."""
    known = named_tables(entries)
    left = {leave.oid for leave in entries.of(LEAVES).values() if leave.entry in gone}
    stay = {oid: table for oid, table in known.items() if oid in catalog.listed or oid not in left}
    joined = {oid: told[oid].qualified_name for oid in catalog.listed if oid in told and oid not in known}
    return {**stay, **joined}


def _kept(
    entries: Entries, told: Mapping[int, Told], listed: Mapping[int, Told], leaving: Iterable[Leave]
) -> dict[int, Told]:
    """Those that are still needed: a table that joined and was dropped at once has rows in the stream."""
    if JOINS in entries:
        return dict(told)
    left = {leave.oid for leave in leaving}
    return {oid: table for oid, table in told.items() if oid in listed or oid in left}


def _shapes(
    entries: Entries, catalog: _Catalog, listed: Mapping[int, Told], kept: Mapping[int, Told]
) -> tuple[list[KnownShape], Differences]:
    anchored = entries.of(SHAPES)
    members = {member.oid for member in catalog.members}
    found: dict[object, KeepstreamError] = {}
    shapes = {oid: entry for oid, entry in anchored.items() if oid in kept}
    for oid, table in listed.items():
        now, entry = catalog.shapes.get(oid), anchored.get(oid)
        if now is not None and entry is None and oid in members:
            shapes[oid] = first_shape(now)  # TRUNCATE of the whole has given it another file
        if now is None or entry is None:
            continue
        error = shape_difference(table.qualified_name, entry, now)
        if error is None:
            shapes[oid] = next_shape(now, entry)
        else:
            found[oid] = error
    return list(shapes.values()), found


def shape_difference(table: str, anchored: KnownShape, now: Shape) -> RefusedData | None:
    """What the catalog has of the table that no message told."""
    try:
        check_shape(table, anchored, now)
    except RefusedData as error:
        return error
    if now.last_number > anchored.last_number:
        return refuse_change(table, "a column was added, and no schema message told of it")
    return None


def _types(entries: Entries, now: tuple[UsedType, ...]) -> tuple[list[KnownType], Differences]:
    anchored = entries.of(TYPES)
    found: dict[object, KeepstreamError] = {}
    types = []
    for used in now:
        try:
            check_types(entries, [used])
            types.append(KnownType.of(used))
        except RefusedData as error:
            found[used.oid] = error
            types.append(anchored[used.oid])
    return types, found


def _renames(catalog: _Catalog, listed: Mapping[int, Told]) -> Differences:
    return {
        oid: renamed(table.qualified_name, qualified(*_name(catalog, oid)))
        for oid, table in listed.items()
        if oid in catalog.listed and _name(catalog, oid) != table.name
    }


def _name(catalog: _Catalog, oid: int) -> TableName:
    listed = catalog.listed[oid]
    return listed.schema, listed.name


def first_told(session: Session, publication: str) -> Entries:
    """What the log's first ANCHOR says of schema messages, in the session's snapshot: nothing where the event
    triggers are not there."""
    if not triggers_act(session):
        return Entries()
    shapes = {shape.oid: shape for shape in read_shapes(session, publication)}
    members = read_members(session, publication)
    told = [
        *(
            Told.of_shape(shapes[each.oid], each.schema, each.table)
            for each in members
            if each.oid != each.root
        ),
        *(
            replace(Told.of_shape(shapes[table.oid], table.schema, table.name), entry=table.entry)
            for table in publications.listed_tables(session, publication)
            if table.oid in shapes
        ),
    ]
    return Entries().put(TOLD, *told).put(TRACKING, TRACKED)
