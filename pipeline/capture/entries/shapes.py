"""Whether DDL changed rows that the stream does not carry: shapes then and now, compared.

An ANCHOR's entries hold the shape of each published table and of each type that they use. Capture compares
them with the catalog when it starts, before each heartbeat, every ten seconds, and tables whenever pgoutput
describes them anew, so that no row of a changed table is in the log before its change was judged.

    nothing changed, or only defaults, NOT NULL and the like   → goes on
    a new file alone (VACUUM FULL, CLUSTER, TRUNCATE)          → goes on
    new columns and the same file                              → goes on; `schemachange` judges them
    new generated columns                                      → goes on: no row carries them
    new labels of an enum, new attributes of a composite type  → goes on: a replica that lacks them stops
    a known column gone, renamed, made anew, or its generation → stop
    a new column gone again, or with another's name            → stop
    a new file and an altered or a new column                  → stop: rows may have been rewritten,
        but where a column as old as the first new one still has its missing value: none were since
    a known label or attribute of a type gone or renamed       → stop
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final

from connectors.postgres.catalog.shape import Shape, UsedType
from pipeline.capture.entries.schemachange import refuse_change
from schemas.entries import Entries, Kind, entry_malformed

logger = logging.getLogger("keepstream.capture")


@dataclass(frozen=True, slots=True)
class KnownShape:
    """What an ANCHOR says of a table's shape. `names`, `rows`: digests of the columns up to `last_number`.

    `by_default`: numbers of the columns whose missing values the log holds, or began with. Of any other one
    only the catalog can tell, until VACUUM FULL takes it from there: that must show. `listed`: those that the
    publication lists; None: it has no list.
    """

    oid: int
    filenode: int
    last_number: int
    names: str
    rows: str
    by_default: tuple[int, ...]
    listed: tuple[int, ...] | None = None

    @classmethod
    def of(cls, shape: Shape, announced: Collection[int]) -> KnownShape:
        """`announced`: numbers, among which are those of `by_default`."""
        last, by_default = shape.last_number, tuple(n for n in shape.by_default() if n in announced)
        names, rows = shape.names_digest(last), shape.rows_digest(last, by_default)
        return cls(shape.oid, shape.filenode, last, names, rows, by_default, shape.listed)

    @classmethod
    def from_text(cls, text: str) -> KnownShape:
        """`oid:filenode:last column:names:rows:by default`, and `:listed`. Raises ValueError, and
        InternalError (`anchor-malformed`) with the table's OID."""
        oid, *fields = text.split(":")
        if len(fields) not in (5, 6) or fields[5:] == [""]:
            raise entry_malformed(f"table {oid}")
        filenode, last, names, rows, by_default, *listed = fields
        numbers = _numbers(listed[0]) if listed else None
        return cls(int(oid), int(filenode), int(last), names, rows, _numbers(by_default), numbers)

    def to_text(self) -> str:
        numbers = [self.by_default] if self.listed is None else [self.by_default, self.listed]
        told = (",".join(map(str, each)) for each in numbers)
        return ":".join(map(str, (self.oid, self.filenode, self.last_number, self.names, self.rows, *told)))

    def without_file(self) -> KnownShape:
        """What it says of the columns alone."""
        return replace(self, filenode=0)


@dataclass(frozen=True, slots=True)
class KnownType:
    """What an ANCHOR says of a type that columns use."""

    oid: int
    last_number: int
    digest: str

    @classmethod
    def of(cls, used: UsedType) -> KnownType:
        return cls(used.oid, used.last_number, used.digest(used.last_number))

    @classmethod
    def from_text(cls, text: str) -> KnownType:
        """`oid:last member:digest`. Raises ValueError."""
        oid, last, members = text.split(":")
        return cls(int(oid), int(last), members)

    def to_text(self) -> str:
        return f"{self.oid}:{self.last_number}:{self.digest}"


SHAPES: Final[Kind[int, KnownShape]] = Kind(
    "shape", "a table", lambda shape: shape.oid, KnownShape.from_text, KnownShape.to_text
)
TYPES: Final[Kind[int, KnownType]] = Kind(
    "type", "a type", lambda known: known.oid, KnownType.from_text, KnownType.to_text
)


def _numbers(told: str) -> tuple[int, ...]:
    return tuple(int(number) for number in told.split(",") if number)


def first_shape(shape: Shape) -> KnownShape:
    """Of a table that the log begins with: all its columns are there."""
    return KnownShape.of(shape, shape.by_default())


def next_shape(shape: Shape, anchored: KnownShape | None) -> KnownShape:
    """Of a table that was compared with its earlier one."""
    return KnownShape.of(shape, () if anchored is None else anchored.by_default)


def listed_columns(entries: Entries, oid: int) -> tuple[int, ...] | None:
    """The numbers of the column list under which the log has this table; None without one."""
    known = entries.of(SHAPES).get(oid)
    return None if known is None else known.listed


def with_types(entries: Entries, types: Iterable[UsedType]) -> Entries:
    """The entries with those types that stand in none of them."""
    known = entries.of(TYPES)
    return entries.put(TYPES, *(KnownType.of(used) for used in types if used.oid not in known))


def without_files(entries: Entries) -> frozenset[KnownShape | KnownType]:
    """What the entries say of the tables' columns and their types alone."""
    shapes = (shape.without_file() for shape in entries.of(SHAPES).values())
    return frozenset((*shapes, *entries.of(TYPES).values()))


def check_shape(table: str, anchored: KnownShape, now: Shape) -> None:
    """Raises RefusedData (`schema-changed`) unless every row that the stream did not carry is provably
    as it was, and every column is still the one that its name was then."""
    last = anchored.last_number
    if now.names_digest(last) != anchored.names:
        raise refuse_change(
            table, "a column was dropped, renamed, made again, or has another type or generation"
        )
    added = [column for column in now.columns if column.number > last]
    if len(added) < now.last_number - last:
        raise refuse_change(table, "a column was added and dropped again before capture saw it")
    for column in added:
        if column.generated:
            logger.warning(
                "generated column added: replicas lack it", extra={"table": table, "column": column.name}
            )
    if now.filenode == anchored.filenode:
        return
    plain = [column.number for column in added if not column.generated]
    if plain and not now.keeps_rows_since(plain[0]):
        raise refuse_change(table, "it was rewritten after a column was added")
    if now.rows_digest(last, anchored.by_default) != anchored.rows:
        raise refuse_change(table, "it was rewritten after a column was altered")


def check_rows(table: str, then: Shape, now: Shape, xid: int) -> None:
    """Of a change that may hide another one, and tells of no new rows. `xid`: its transaction, 32 bits.
    Raises RefusedData (`schema-changed`) unless every row is provably as it was."""
    if now.filenode == then.filenode:
        return
    added = [c for c in now.columns if c.number > then.last_number and not c.generated]
    plain = [column.number for column in added if column.xmin != str(xid)]
    kept = {column.number for column in then.columns} & {column.number for column in now.columns}
    digests = {
        replace(shape, columns=tuple(c for c in shape.columns if c.number in kept)).rows_digest(
            then.last_number, then.by_default()
        )
        for shape in (then, now)
    }
    if len(digests) > 1 or (plain and not now.keeps_rows_since(plain[0])):
        raise refuse_change(table, "it was rewritten while an event trigger of the source was disabled")


def check_order(table: str, columns: Sequence[str], now: Shape) -> None:
    """`columns`: as pgoutput describes the table, which may be before later DDL. Raises RefusedData
    (`schema-changed`) if a name has moved since: then the value that it stands for is another one's."""
    for column, there in zip_longest(columns, now.plain_columns[: len(columns)]):
        if column != there:
            raise refuse_change(table, f"column {column} was renamed or dropped before capture saw it")


def check_types(entries: Entries, now: Iterable[UsedType]) -> None:
    """Raises RefusedData (`schema-changed`) if a type of the ANCHOR's entries has other members."""
    anchored = entries.of(TYPES)
    for used in now:
        known = anchored.get(used.oid)
        if known is None:
            continue
        last = known.last_number
        if used.digest(last) != known.digest or used.has_lost(last):
            raise refuse_change(f"type {used.name}", "a label or attribute was dropped, renamed or altered")
