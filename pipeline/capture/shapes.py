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
from dataclasses import replace
from itertools import zip_longest

from connectors.postgres.shape import Shape, UsedType
from pipeline.capture.malformed import entry_malformed
from pipeline.capture.schemachange import refuse_change

logger = logging.getLogger("keepstream.capture")

PREFIX = "shape:"
TYPE_PREFIX = "type:"
_FIELDS = 6
"""One more where there is a column list."""


def shape_entry(shape: Shape, announced: Collection[int]) -> str:
    """What an ANCHOR says of a table's shape: `shape:oid:filenode:last column:names:rows:by default`, and
    `:listed` where the publication lists columns.

    `announced`: numbers of the columns whose missing values the log holds, or began with. Of any other one
    only the catalog can tell, until VACUUM FULL takes it from there: that must show.
    """
    last, by_default = shape.last_number, [n for n in shape.by_default() if n in announced]
    names, rows = shape.names_digest(last), shape.rows_digest(last, by_default)
    told = ",".join(map(str, by_default))
    listed = "" if shape.listed is None else ":" + ",".join(map(str, shape.listed))
    return f"{PREFIX}{shape.oid}:{shape.filenode}:{last}:{names}:{rows}:{told}{listed}"


def first_shape(shape: Shape) -> str:
    """The entry of a table that the log begins with: all its columns are there."""
    return shape_entry(shape, shape.by_default())


def next_shape(shape: Shape, anchored: str | None) -> str:
    """The entry of a table that was compared with its earlier one. InternalError: `anchor-malformed`."""
    return shape_entry(shape, () if anchored is None else _numbers(_fields(anchored, shape)[5]))


def _fields(entry: str, now: Shape) -> list[str]:
    """Of an entry about this table. Raises InternalError (`anchor-malformed`)."""
    fields = entry.removeprefix(PREFIX).split(":")
    is_whole = len(fields) == _FIELDS or (len(fields) == _FIELDS + 1 and fields[-1] != "")
    if not is_whole or int(fields[0]) != now.oid:
        raise entry_malformed(f"table {now.oid}")
    return fields


def last_column(entry: str, now: Shape) -> int:
    """The number of the newest column that an entry knows."""
    return int(_fields(entry, now)[2])


def filenode_of(entry: str) -> int:
    """The file that a table had."""
    return int(entry.split(":")[2])


def listed_columns(entries: Iterable[str], oid: int) -> tuple[int, ...] | None:
    """The numbers of the column list under which the log has this table; None without one."""
    fields = anchored_shapes(entries).get(oid, "").removeprefix(PREFIX).split(":")
    return tuple(_numbers(fields[6])) if len(fields) > 6 else None


def _numbers(told: str) -> list[int]:
    return [int(number) for number in told.split(",") if number]


def type_entry(used: UsedType) -> str:
    """What an ANCHOR says of a type: `type:oid:last member:digest`."""
    return f"{TYPE_PREFIX}{used.oid}:{used.last_number}:{used.digest(used.last_number)}"


def anchored_shapes(entries: Iterable[str]) -> dict[int, str]:
    """The entries about shapes, by the table's OID."""
    found = (entry for entry in entries if entry.startswith(PREFIX))
    return {int(entry.split(":")[1]): entry for entry in found}


def with_shape(entries: Iterable[str], shape: str) -> tuple[str, ...]:
    """The entries with this one instead of the table's earlier one."""
    own = ":".join((*shape.split(":")[:2], ""))
    return (*(entry for entry in entries if not entry.startswith(own)), shape)


def without_shape(entries: Iterable[str], oid: int) -> tuple[str, ...]:
    """The entries without that of this table."""
    return tuple(entry for entry in entries if not entry.startswith(f"{PREFIX}{oid}:"))


def with_types(entries: Iterable[str], types: Iterable[UsedType]) -> tuple[str, ...]:
    """The entries with those types that stand in none of them."""
    known = tuple(entries)
    told = {entry.split(":")[1] for entry in known if entry.startswith(TYPE_PREFIX)}
    return (*known, *(type_entry(used) for used in types if str(used.oid) not in told))


def altered(before: Iterable[str], after: Iterable[str]) -> bool:
    """Whether more than files differs: then the next ANCHOR must not wait, because a capture that
    continues compares with it."""
    then, now = tuple(before), tuple(after)
    return without_files(then) != without_files(now) or _told(then) != _told(now)


def _told(entries: Iterable[str]) -> set[str]:
    """What schema messages told, or that they do no more, which partitions there are, and which names are
    limited ones."""
    prefixes = ("ddl:", "told:", "untracked:", "part:", "limited:")
    return {entry for entry in entries if entry.startswith(prefixes)}


def without_files(entries: Iterable[str]) -> set[str]:
    """What the entries say of the tables' columns and their types alone."""
    found = [entry.split(":") for entry in entries if entry.startswith((PREFIX, TYPE_PREFIX))]
    return {":".join((*fields[:2], *fields[3:]) if fields[0] == "shape" else fields) for fields in found}


def check_shape(table: str, anchored: str, now: Shape) -> None:
    """Raises RefusedData (`schema-changed`) unless every row that the stream did not carry is provably
    as it was, and every column is still the one that its name was then.
    InternalError: `anchor-malformed`."""
    fields = _fields(anchored, now)
    filenode, last = int(fields[1]), int(fields[2])
    names, rows = fields[3], fields[4]
    if now.names_digest(last) != names:
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
    if now.filenode == filenode:
        return
    plain = [column.number for column in added if not column.generated]
    if plain and not now.keeps_rows_since(plain[0]):
        raise refuse_change(table, "it was rewritten after a column was added")
    if now.rows_digest(last, _numbers(fields[5])) != rows:
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


def check_types(entries: Iterable[str], now: Iterable[UsedType]) -> None:
    """Raises RefusedData (`schema-changed`) if a type of the ANCHOR's entries has other members."""
    found = (entry.removeprefix(TYPE_PREFIX).split(":") for entry in entries if entry.startswith(TYPE_PREFIX))
    anchored = {int(oid): (int(last), digest) for oid, last, digest in found}
    for used in now:
        if used.oid not in anchored:
            continue
        last, digest = anchored[used.oid]
        if used.digest(last) != digest or used.has_lost(last):
            raise refuse_change(f"type {used.name}", "a label or attribute was dropped, renamed or altered")
