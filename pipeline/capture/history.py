"""P10 and P11: whether source, slot and publication are the ones whose history the log holds.

Comparisons; each raises HistoryBroken and says what was expected, what was seen, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from connectors.postgres.catalog import publication as publications
from connectors.postgres.catalog.shape import Shape, UsedType, read_shapes, read_used_types
from connectors.postgres.partitions.tree import Member, read_members, read_written
from connectors.postgres.replication.slot import SlotState
from connectors.postgres.replication.walsender import SystemIdentity, Walsender
from connectors.postgres.session import Session
from pipeline.capture.announcements import (
    JOINS,
    LEAVES,
    Leave,
    after_promotion,
    leaves_still,
    read_outcomes,
)
from pipeline.capture.ddl.ended import ENDED
from pipeline.capture.ddl.told import TOLD
from pipeline.capture.limitednames import limited_now
from pipeline.capture.partitions import MEMBERS, KnownMember, check_members, newly_attached
from pipeline.capture.shapes import (
    SHAPES,
    TYPES,
    KnownType,
    check_shape,
    check_types,
    first_shape,
    next_shape,
)
from pipeline.capture.timelines import MAKE_IT_PRIMARY, check_timeline, require_cluster
from pipeline.capture.witnesses import Witnesses
from schemas.entries import Entries, Kind, text_kind
from schemas.errors import BEGIN_ANEW, HistoryBroken, RefusedData
from schemas.frame import Anchor
from schemas.lsn import Position, format_lsn

IF_MEANT = f"If that was meant, {BEGIN_ANEW}."


@dataclass(frozen=True, slots=True)
class KnownName:
    """The qualified name of a published table."""

    oid: int
    name: str

    @classmethod
    def from_text(cls, text: str) -> KnownName:
        """`oid:schema.name`. Raises ValueError."""
        oid, name = text.split(":", 1)
        return cls(int(oid), name)

    def to_text(self) -> str:
        return f"{self.oid}:{self.name}"


NAMES: Final[Kind[int, KnownName]] = Kind(
    "table", "a table's name", lambda known: known.oid, KnownName.from_text, KnownName.to_text
)
TABLE_ROWS: Final = text_kind("pg_publication_rel", "a table of the publication")
_ROWS: Final = (
    text_kind("pg_publication", "the publication"),
    TABLE_ROWS,
    text_kind("pg_publication_namespace", "a schema of the publication"),
)


def check_cluster(walsender: Walsender, anchor: Anchor, tail: Position) -> SystemIdentity:
    """P10: this is the cluster that the log came from, on a timeline that holds all that the log does."""
    system = walsender.identify_system()
    if system.system_id == anchor.system_id and system.timeline != anchor.timeline:
        check_timeline(anchor, tail, system.timeline, walsender.timeline_history(system.timeline))
    check_system(anchor, tail, system)
    return system


def check_system(anchor: Anchor, tail: Position, seen: SystemIdentity) -> None:
    """The cluster is the one that the log came from and has all that the log has."""
    require_cluster(anchor.system_id, seen)
    if seen.xlogpos < tail.lsn:
        raise HistoryBroken(
            f"the source's WAL ends at {format_lsn(seen.xlogpos)}, the log already holds it up to {tail}",
            code="source-went-back",
            hint="The source was rolled back to an earlier state; replicas may hold more than it does."
            f" {IF_MEANT}",
        )


def check_slot(
    name: str,
    slot: SlotState | None,
    *,
    tail: Position | None,
    witnesses: Callable[[], Witnesses] = dict,
    promoted: bool = False,
) -> None:
    """The slot is ours, alive, and not past the log's tail: START_REPLICATION would skip silently.

    `tail` None: its position is not compared, because another capture may be moving it. `witnesses`: asked
    only where the slot is past the tail. `promoted`: the source is a standby that was promoted since.
    """
    if slot is None:
        raise slot_missing(name, promoted=promoted)
    if slot.foreign:
        raise slot_foreign(slot, promised=True)
    if slot.lost:
        copied = "'s copy on the promoted standby" if promoted else ""
        kept = " Both hold for a standby's copies of slots, too." if promoted else ""
        raise HistoryBroken(
            f"slot {name}{copied} was invalidated: {slot.invalidation_reason or 'its WAL was removed'}",
            code="slot-invalidated",
            hint="The source removed WAL that the log does not have. Raise max_slot_wal_keep_size and"
            f" idle_replication_slot_timeout on the source.{kept} {IF_MEANT}",
        )
    past_end = None if tail is None else slot_past_end(slot, tail, witnesses)
    if past_end is not None:
        raise past_end


def slot_missing(name: str, *, promoted: bool) -> HistoryBroken:
    """What it means that there is no slot beside a log that holds changes of it."""
    if not promoted:
        return HistoryBroken(
            f"slot {name} is missing and the log holds changes that came from it",
            code="slot-missing",
            hint=f"It was dropped, so changes since then are lost to the log. {IF_MEANT}",
        )
    return HistoryBroken(
        f"slot {name} is missing on the standby that was promoted",
        code="slot-missing",
        hint="It had no copy of the slot, or none that was ready, so what was committed since the log's end"
        f" cannot be decoded there. {MAKE_IT_PRIMARY} With `failover: true` under source (PostgreSQL 17 on)"
        " standbys have a copy; `keepstream check` names what else the servers need.",
    )


def check_leftover(slot: SlotState, log: str, *, begun: bool) -> None:
    """P6: a slot beside a log that has promised nothing is one that a capture made, which `begun` the log
    and was killed before its first ANCHOR."""
    if slot.foreign:
        raise slot_foreign(slot, promised=False)
    if not begun:
        raise HistoryBroken(
            f"slot {slot.name} exists and the log {log} is empty",
            code="slot-without-log",
            hint="The slot belongs to a log that is gone, or to another pipeline of this name. Bring the log"
            f" back; or, if it is gone, drop the slot (select pg_drop_replication_slot('{slot.name}');) and"
            f" {BEGIN_ANEW}.",
        )


def slot_foreign(slot: SlotState, *, promised: bool) -> HistoryBroken:
    """A slot that is not ours bears our name. `promised`: the log holds changes that came from ours."""
    temporary = ", temporary" if slot.temporary else ""
    of = f"plugin {slot.plugin}, database {slot.database}{temporary}" if slot.plugin else "a physical one"
    anew = f", and as ours is gone, {BEGIN_ANEW}" if promised else ""
    return HistoryBroken(
        f"slot {slot.name} is another one: {of}",
        code="slot-foreign",
        hint="Somebody else made a slot of this name. Rename one of the two pipelines (`name` in"
        " keepstream.yaml). Only if nobody needs that slot, drop it (select"
        f" pg_drop_replication_slot('{slot.name}');){anew}.",
    )


def slot_past_end(
    slot: SlotState, tail: Position, witnesses: Callable[[], Witnesses]
) -> HistoryBroken | None:
    """What it means that the slot stands past the log's tail; None if it does not. A witness that went by the
    log further than that proves that the log went further, too."""
    confirmed = slot.confirmed_flush_lsn
    if confirmed is None or confirmed <= tail.lsn:
        return None
    stands = f"slot {slot.name} stands at {format_lsn(confirmed)}"
    lost_by = "a broker without it became leader, or a disk was restored from an older copy"
    for who, lsn in witnesses().items():
        if lsn > tail.lsn:
            return HistoryBroken(
                f"{stands} and {who} at {format_lsn(lsn)}, but the log ends at {tail}",
                code="log-end-lost",
                hint=f"The log lost its end: {lost_by}. Bring back the copy of the log that has it. If there"
                f" is none, {BEGIN_ANEW}.",
            )
    return HistoryBroken(
        f"{stands}, the log ends at {tail}",
        code="slot-advanced",
        hint="Somebody else read from the slot, advanced it, or made it anew: what lies between is lost"
        f" to the log. Or the log lost its end ({lost_by}): then bring back the copy of the log that has it."
        f" {IF_MEANT}",
    )


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


def catalog_rows(entries: Entries) -> set[str]:
    """`catalog:oid:xmin` of those that make the publication up."""
    return set(entries.only(*_ROWS).encode())


def named_tables(entries: Entries) -> dict[int, str]:
    """Qualified names by OID."""
    return {oid: known.name for oid, known in entries.of(NAMES).items()}


def logged_tables(entries: Entries) -> dict[int, str]:
    """The same, and of tables that left: rows from before may still come."""
    return {**{oid: leave.name for oid, leave in left_tables(entries).items()}, **named_tables(entries)}


def left_tables(entries: Entries) -> dict[int, Leave]:
    """By OID, the tables that left and have not joined again."""
    listed = entries.of(NAMES)
    return {leave.oid: leave for leave in entries.of(LEAVES).values() if leave.oid not in listed}


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
