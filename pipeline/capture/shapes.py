"""Whether DDL changed rows that the stream does not carry: shapes then and now, compared.

An ANCHOR's entries hold the shape of each published table. Capture compares them with the catalog when
it starts, before each heartbeat, every ten seconds, and whenever pgoutput describes a table anew,
so that no row of a changed table is in the log before its change was judged.

    nothing changed, or only defaults, NOT NULL and the like   → goes on
    a new file alone (VACUUM FULL, CLUSTER, TRUNCATE)          → goes on
    new columns and the same file                              → goes on; `schemachange` judges them
    a known column gone, renamed, or made anew                 → stop
    a new file and an altered or a new column                  → stop: rows may have been rewritten
"""

from __future__ import annotations

from collections.abc import Iterable

from connectors.postgres.shape import Shape
from pipeline.capture.schemachange import refuse_change
from schemas.errors import InternalError

PREFIX = "shape:"


def shape_entry(shape: Shape) -> str:
    """What an ANCHOR says of a table's shape: `shape:oid:filenode:last column:names:rows`."""
    last = shape.last_number
    names, rows = shape.names_digest(last), shape.rows_digest(last)
    return f"{PREFIX}{shape.oid}:{shape.filenode}:{last}:{names}:{rows}"


def anchored_shapes(entries: Iterable[str]) -> dict[int, str]:
    """The entries about shapes, by the table's OID."""
    found = (entry for entry in entries if entry.startswith(PREFIX))
    return {int(entry.split(":")[1]): entry for entry in found}


def with_shape(entries: Iterable[str], shape: Shape) -> tuple[str, ...]:
    """The entries with this table's shape as it is now."""
    own = f"{PREFIX}{shape.oid}:"
    return (*(entry for entry in entries if not entry.startswith(own)), shape_entry(shape))


def altered(before: Iterable[str], after: Iterable[str]) -> bool:
    """Whether more than files differs: then the next ANCHOR must not wait, because a capture that
    continues compares with it."""
    return without_files(before) != without_files(after)


def without_files(entries: Iterable[str]) -> set[str]:
    """What the entries say of the tables' columns alone."""
    shapes = (entry.split(":") for entry in entries if entry.startswith(PREFIX))
    return {":".join((*fields[:2], *fields[3:])) for fields in shapes}


def check_shape(table: str, anchored: str, now: Shape) -> None:
    """Raises RefusedData (`schema-changed`) unless every row that the stream did not carry is provably
    as it was."""
    fields = anchored.removeprefix(PREFIX).split(":")
    if len(fields) != 5 or int(fields[0]) != now.oid:
        raise InternalError(f"an ANCHOR's entry about {table} cannot be read", code="anchor-malformed")
    filenode, last = int(fields[1]), int(fields[2])
    names, rows = fields[3], fields[4]
    if now.names_digest(last) != names:
        raise refuse_change(table, "a column was dropped, renamed, or dropped and made again")
    if now.filenode == filenode:
        return
    if now.last_number > last:
        raise refuse_change(table, "it was rewritten after a column was added")
    if now.rows_digest(last) != rows:
        raise refuse_change(table, "it was rewritten after a column was altered")
