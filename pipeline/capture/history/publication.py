"""P11: whether the publication is the one whose history the log holds, where no schema messages tell of it.

What raises says what was expected, what was seen, and what to do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from connectors.postgres.catalog import publication as publications
from connectors.postgres.catalog.shape import Shape, UsedType, read_shapes, read_used_types
from connectors.postgres.partitions.tree import Member, read_members, read_written
from connectors.postgres.session import Session
from pipeline.capture.entries.announcements import JOINS, LEAVES, after_promotion, leaves_still, read_outcomes
from pipeline.capture.entries.ended import ENDED
from pipeline.capture.entries.limitednames import limited_now
from pipeline.capture.entries.names import NAMES, KnownName, catalog_rows, named_tables
from pipeline.capture.entries.partitions import MEMBERS, KnownMember, check_members, newly_attached
from pipeline.capture.entries.shapes import (
    SHAPES,
    TYPES,
    KnownType,
    check_shape,
    check_types,
    first_shape,
    next_shape,
)
from pipeline.capture.entries.told import TOLD
from schemas.entries import Entries
from schemas.errors import IF_MEANT, HistoryBroken, RefusedData


def published_now(session: Session, publication: str) -> Entries:
    """What an ANCHOR says of the publication: the catalog rows that make it up, the shapes of its tables
    and their types, and which table bears which name. A rename changes none of those rows, but rows of two
    tables that swap their names would be taken for each other's."""
    shapes, types = read_shapes(session, publication), read_used_types(session, publication)
    members = map(KnownMember.of, read_members(session, publication))
    listed = _listed_now(session, publication, Entries())
    shaped = listed.put(SHAPES, *map(first_shape, shapes)).put(TYPES, *map(KnownType.of, types))
    return shaped.put(MEMBERS, *members)


def _listed_now(session: Session, publication: str, anchored: Entries) -> Entries:
    found = publications.read_publication(session, publication)
    tables = found.tables if found else ()
    rows = Entries.parse(publications.publication_identity(session, publication))
    named = sorted(tables, key=lambda table: table.oid)
    names = (KnownName(table.oid, table.qualified_name) for table in named)
    return rows.put(NAMES, *names) | limited_now(anchored, tables, {})


def check_published(
    session: Session, publication: str, anchored: Entries, *, promoted: bool = False
) -> Entries:
    """P11: the publication is as the anchor says, and no published table was rewritten in a way that
    the stream does not tell. Returns what the next ANCHOR says, with the announcements as they were.
    `promoted`: the source is a standby that was promoted since `anchored` was written. A table that became a
    partition and that nobody can look into is none yet.

    Raises HistoryBroken (`publication-changed`), RefusedData (`schema-changed`, `table-renamed`,
    `partition-attached`, `partition-gone`).
    """
    members = read_members(session, publication)
    attached = newly_attached(anchored, members)
    written = read_written(session, attached)
    hidden = attached - written.keys()
    seen = _Seen(
        [member for member in members if member.oid not in hidden],
        [shape for shape in read_shapes(session, publication) if shape.oid not in hidden],
        read_used_types(session, publication),
    )
    _check_rows(anchored, seen)
    current = _listed_now(session, publication, anchored)
    rows, leaves = catalog_rows(current), anchored.of(LEAVES).values()
    outcomes = read_outcomes(session, leaves)
    if promoted:
        outcomes = after_promotion(leaves, outcomes, rows)
    gone = {leave.entry for leave in leaves if outcomes[leave.xid] == "committed"}
    check_publication(publication, anchored, current, gone)
    listed = current.of(NAMES).keys()
    check_members(anchored, seen.members, listed, {oid for oid, has_rows in written.items() if has_rows})
    leaving = leaves_still(leaves, outcomes, rows, listed)
    left = {leave.oid for leave in leaving} - listed
    announced = anchored.only(JOINS).put(LEAVES, *leaving)
    return current | _entries_of_rows(anchored, seen, left) | announced | anchored.only(ENDED)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the catalog says of published rows now."""

    members: Sequence[Member]
    shapes: Sequence[Shape]
    types: Sequence[UsedType]


def _check_rows(anchored: Entries, seen: _Seen) -> None:
    """Raises RefusedData (`schema-changed`)."""
    names = {member.oid: member.name for member in seen.members} | named_tables(anchored)
    shapes = anchored.of(SHAPES)
    for shape in seen.shapes:
        if shape.oid in shapes:
            check_shape(names.get(shape.oid, str(shape.oid)), shapes[shape.oid], shape)
    check_types(anchored, seen.types)


def _entries_of_rows(anchored: Entries, seen: _Seen, left: Collection[int]) -> Entries:
    """Of what was compared, and as they were of tables that `left`, whose rows may still come."""
    shapes = anchored.of(SHAPES)
    partitions = {member.oid for member in seen.members if member.oid != member.root}
    now = [
        first_shape(shape)
        if shape.oid in partitions and shape.oid not in shapes
        else next_shape(shape, shapes.get(shape.oid))
        for shape in seen.shapes
    ]
    told = anchored.only(TOLD) if JOINS in anchored else Entries()
    of_left = [shape for oid, shape in shapes.items() if oid in left]
    members_of_left = [known for known in anchored.of(MEMBERS).values() if known.root in left]
    shaped = told.put(SHAPES, *now, *of_left).put(TYPES, *map(KnownType.of, seen.types))
    return shaped.put(MEMBERS, *map(KnownMember.of, seen.members), *members_of_left)


def check_publication(name: str, anchored: Entries, current: Entries, gone: Collection[str] = ()) -> None:
    """The publication is as the anchor says, but for what Keepstream announced there. `gone`: entries that
    committed transactions of ours took out.

    Entries are `catalog:oid:xmin` and `table:oid:name`; those about shapes and types are not compared here.
    """
    now = named_tables(current)
    for oid, table in named_tables(anchored).items():
        if now.get(oid, table) != table:
            raise renamed(table, now[oid])
    lost, added = _compared(anchored, catalog_rows(current))
    lost -= set(gone)
    if not lost and not added:
        return
    raise publication_changed(name, lost=len(lost), added=len(added))


def _compared(anchored: Entries, now: Collection[str]) -> tuple[set[str], set[str]]:
    """Catalog rows that are gone, and those that nobody announced."""
    expected, announced = catalog_rows(anchored), anchored.of(JOINS)
    added = set(now) - expected
    return expected.difference(now), {row for row in added if row.rpartition(":")[2] not in announced}


def announced_now(session: Session, publication: str, anchored: Entries) -> tuple[set[str], set[str]]:
    """The publication's catalog rows that are gone by now, and those that nobody announced."""
    return _compared(anchored, publications.publication_identity(session, publication))


def publication_changed(name: str, *, lost: int, added: int) -> HistoryBroken:
    """By somebody else. `lost`, `added`: catalog rows."""
    return HistoryBroken(
        f"publication {name} was changed by somebody else: {lost} entries gone, {added} new",
        code="publication-changed",
        hint="Changes on its tables may have been missed meanwhile, which nothing can prove or mend."
        " Tables are chosen in keepstream.yaml (source.tables), never with ALTER PUBLICATION; another column"
        " list or row filter means other rows on replicas; dropping a replicated table is followed only after"
        f" `keepstream schema install`. {IF_MEANT}",
    )


def renamed(old: str, new: str) -> RefusedData:
    """What a published table's new name means."""
    return RefusedData(
        f"table {old} was renamed to {new}",
        code="table-renamed",
        hint="Renaming a replicated table is followed only after `keepstream schema install`. Rename it back"
        f" before anything is written to it. {IF_MEANT}",
    )
