"""Partitions whose rows come under the name of the table at the top (docs/decisions/016).

Which partitions there are is DDL, of which the stream tells nothing, and some of it changes rows of the
whole: those of a table that is attached come, those of one that is detached or dropped go, and so do those of
one that is truncated by its own name. So an ANCHOR has an entry `part:` of each, and each look compares:

    a new one that was made as a partition    → goes on: all its rows are in the stream
    a new one that was attached empty         → goes on
    a new one that was attached with rows     → stop
    a known one is not there any more         → stop
    a known one has another file              → stop if the WAL has a TRUNCATE of it that none of the whole
        follows, or names neither and nothing has counted the file's rows since
    a known one is unlogged, or is not any more        → stop: its rows were not in the stream meanwhile
    one's rows were written anew, and no column added  → stop: ALTER TABLE … SET LOGGED does that
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.catalog.tables import CatalogColumn
from connectors.postgres.partitions.tree import Member
from connectors.postgres.partitions.truncates import Truncate
from pipeline.capture.entries.schemachange import refuse_change
from pipeline.capture.entries.shapes import SHAPES, KnownShape
from pipeline.capture.entries.told import Told
from schemas.entries import Entries, Kind
from schemas.errors import BEGIN_ANEW, RefusedData
from schemas.identifiers import as_sql, qualified

PARTITION_TRUNCATED = "partition-truncated"


@dataclass(frozen=True, slots=True)
class KnownMember:
    """A member of a tree as an ANCHOR knows it. unlogged: None where an earlier release wrote the ANCHOR."""

    oid: int
    root: int
    name: str
    unlogged: bool | None = None

    @classmethod
    def of(cls, member: Member) -> KnownMember:
        return cls(member.oid, member.root, member.name, member.unlogged)

    @classmethod
    def from_text(cls, text: str) -> KnownMember:
        """`oid:root:schema.name`, and behind the root's OID `u` if it is unlogged, `p` if not. Raises
        ValueError or LookupError."""
        oid, root, name = text.split(":", 2)
        unlogged = root[-1] == "u" if root[-1] in "up" else None
        return cls(int(oid), int(root.rstrip("up")), name, unlogged)

    def to_text(self) -> str:
        persistence = {None: "", True: "u", False: "p"}[self.unlogged]
        return f"{self.oid}:{self.root}{persistence}:{self.name}"


MEMBERS: Final[Kind[int, KnownMember]] = Kind(
    "part", "a partition", lambda member: member.oid, KnownMember.from_text, KnownMember.to_text
)
"""The tables at the top among them."""


def known_partitions(entries: Entries) -> dict[int, KnownMember]:
    """By OID, without the tables at the top."""
    return {oid: known for oid, known in entries.of(MEMBERS).items() if oid != known.root}


def new_partitions(before: Entries, after: Entries) -> dict[int, str]:
    """By OID, qualified names of those that are partitions since, or have got another name or table at the
    top."""
    known = {oid: (each.root, each.name) for oid, each in known_partitions(before).items()}
    now = known_partitions(after)
    return {oid: each.name for oid, each in now.items() if known.get(oid) != (each.root, each.name)}


def newly_attached(entries: Entries, now: Iterable[Member]) -> set[int]:
    """OIDs of those that may have brought rows which are not in the stream."""
    known = entries.of(MEMBERS)
    return {
        member.oid for member in now if member.attached and member.oid not in known and member.root in known
    }


def check_members(
    entries: Entries, now: Sequence[Member], listed: Collection[int], written: Collection[int] = ()
) -> None:
    """`listed`: OIDs of the tables that the publication lists now. `written`: of newly attached ones, those
    that have rows. Raises RefusedData (`partition-attached`, `partition-gone`)."""
    known, names = entries.of(MEMBERS), {member.oid: member.name for member in now}
    for oid, each in known.items():
        if oid not in names and each.root in listed:
            raise partition_gone(each.name, names.get(each.root, "its table"))
    for member in now:
        if member.oid in written:
            raise _attached(member.name, names[member.root])


def with_other_files(entries: Entries, now: Iterable[Member]) -> list[Member]:
    """Known partitions with another file than before, those of which the stream told that the whole was
    truncated, and new ones, but for what was a table before."""
    shapes, known = entries.of(SHAPES), entries.of(MEMBERS)
    return [
        member
        for member in now
        if member.filenode
        and member.root in known
        and (member.oid in known or not member.attached)
        and (member.oid not in shapes or shapes[member.oid].filenode != member.filenode)
    ]


def truncated(
    entries: Entries, now: Sequence[Member], truncates: Iterable[Truncate] = ()
) -> dict[int, RefusedData]:
    """By OID, what is raised for partitions with another file than before if no TRUNCATE explains that.
    `truncates`: each since then, in order. Of one of a partition by its own name nothing else tells but its
    file, until ANALYZE or the whole's. It may have had another name only then."""
    shapes, known = entries.of(SHAPES), entries.of(MEMBERS)
    names = {oid: {each.name} for oid, each in known.items()}
    for member in now:
        names.setdefault(member.oid, set()).add(member.name)
    changed = with_other_files(entries, now)
    alone: dict[int, bool] = {}
    for truncate in truncates:
        tables, of = _qualified(truncate.tables), truncate.xid if truncate.names_lost else None
        for each in changed:
            if names[each.oid] & tables or (of is not None and each.may_be_emptied_by(of)):
                alone[each.oid] = not names[each.root] & tables
    return {
        member.oid: _truncated(member.name, known[member.root].name)
        for member in changed
        if alone.get(member.oid, member.emptied and member.oid in shapes)
    }


def not_streamed(entries: Entries, now: Iterable[Member]) -> dict[int, RefusedData]:
    """By OID, what is raised for known partitions of which either then or now no rows come."""
    known = entries.of(MEMBERS)
    return {
        member.oid: partition_unlogged(member.name)
        for member in now
        if member.oid in known and known[member.oid].unlogged not in (None, member.unlogged)
    }


def written_anew(
    entries: Entries, current: Entries, now: Sequence[Member], rewritten: Collection[TableName]
) -> dict[int, RefusedData]:
    """The same of those whose rows ALTER TABLE wrote anew, unless it may have added a column. `current`: what
    the next ANCHOR is to say. `rewritten`: names."""
    known, then, shapes = entries.of(MEMBERS), entries.of(SHAPES), current.of(SHAPES)
    found, anew = dict[int, RefusedData](), _qualified(rewritten)
    for member in with_other_files(entries, now):
        oid, names = member.oid, {member.name}
        names |= {known[oid].name} if oid in known else set()
        of = oid if oid in then else member.root
        if names & anew and _last_number(then.get(of)) == _last_number(shapes.get(of)):
            found[oid] = partition_unlogged(member.name)
    return found


def _qualified(names: Iterable[TableName]) -> set[str]:
    """As ANCHORs have them."""
    return {qualified(*name) for name in names}


def _last_number(shape: KnownShape | None) -> int | None:
    return None if shape is None else shape.last_number


def without_shapes_below(entries: Entries, root: int) -> Entries:
    """The entries behind a TRUNCATE of the table at the top: its partitions have other files now."""
    return entries.drop(
        SHAPES, *(oid for oid, each in known_partitions(entries).items() if each.root == root)
    )


def whole_names(entries: Entries, told: Mapping[int, Told]) -> dict[int, tuple[str, str]]:
    """By the OID of each partition, the name of the table at the top."""
    partitions = known_partitions(entries)
    return {oid: told[known.root].name for oid, known in partitions.items() if known.root in told}


def untold(
    entries: Entries, now: Sequence[Member], truncates: Iterable[Truncate] = ()
) -> dict[int, RefusedData]:
    """By OID, what is raised for partitions that came or went if no schema message tells of it. `truncates`:
    as `truncated` has them."""
    known, there = entries.of(MEMBERS), {member.oid: member for member in now}
    found = {**truncated(entries, now, truncates), **not_streamed(entries, now)}
    roots = {member.root for member in now}  # of one that left, rows may still come
    for oid, each in known.items():
        if oid not in there and each.root in roots:
            found[oid] = partition_gone(each.name, there[each.root].name)
    for member in now:
        if member.oid not in known and member.root in known:
            found[member.oid] = _attached(member.name, there[member.root].name)
    return found


def with_missing(
    table: str, columns: Iterable[CatalogColumn], partitions: Iterable[Iterable[CatalogColumn]]
) -> dict[str, CatalogColumn]:
    """By name, the columns of the table at the top with what older rows have there, which its partitions know
    alone. Raises RefusedData (`schema-changed`) where they do not agree."""
    held: dict[str, set[str | None]] = {}
    for column in chain.from_iterable(partitions):
        if column.has_missing:
            held.setdefault(column.name, set()).add(column.missing)
    for name, values in held.items():
        if len(values) > 1:
            raise refuse_change(table, f"older rows have different values in column {name}")
    return {
        column.name: replace(column, has_missing=True, missing=next(iter(held[column.name])))
        if column.name in held
        else column
        for column in columns
    }


def partition_gone(name: str, whole: str) -> RefusedData:
    """Its rows are not those of the whole any more."""
    return RefusedData(
        f"partition {name} of {whole} was detached or dropped, and nothing in the stream takes its rows away",
        code="partition-gone",
        hint="Where a table is published as a whole, detaching and dropping its partitions is followed only"
        f" after `keepstream schema install`. To go on, {BEGIN_ANEW}.",
    )


def _attached(name: str, whole: str) -> RefusedData:
    return RefusedData(
        f"{name} was attached to {whole} with rows, which are not in the stream",
        code="partition-attached",
        hint="Where a table is published as a whole, partitions that have rows are followed only after"
        f" `keepstream schema install`; without it attach them empty. To go on, {BEGIN_ANEW}.",
    )


def partition_unlogged(name: str) -> RefusedData:
    """PostgreSQL allows that, as only the table at the top is in the publication."""
    return RefusedData(
        f"partition {name} is unlogged or was for a while, and what was written to it meanwhile is not in the"
        " stream",
        code="partition-unlogged",
        hint="Where a table is published as a whole, its partitions must stay logged. If it is unlogged, run"
        f" `alter table only {as_sql(name)} set logged;` on the source. To go on, {BEGIN_ANEW}.",
    )


def _truncated(name: str, whole: str) -> RefusedData:
    """Rows that are written anew are sent with a schema message, and replicas empty the whole before."""
    table = as_sql(whole)
    anew = (
        f"begin; alter table {table} add column keepstream_anew float default random();"
        f" alter table {table} drop column keepstream_anew; commit;"
    )
    return RefusedData(
        f"partition {name} was truncated or rewritten by its own name, which the stream does not tell",
        code=PARTITION_TRUNCATED,
        hint="Where a table is published as a whole, truncate the whole, or delete the partition's rows. To"
        f" go on where the event triggers were installed before it, run `{anew}` on the source, which sends"
        f" the whole anew, and start again. Else {BEGIN_ANEW}.",
    )
