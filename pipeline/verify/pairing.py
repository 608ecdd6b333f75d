"""Which table of the replica stands for which of the source, and what of them can be compared. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from connectors.postgres.catalog.tables import CatalogColumn
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.ddl.left_out import NOTHING, LeftOut
from connectors.postgres.digest import DigestColumn, Shape
from schemas.pgtypes import BYTEA, BYTEA_ARRAY

Columns = Mapping[int, Sequence[CatalogColumn]]
"""Of the tables with these OIDs."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A table of the source and what has its name on the replica: one table, the leaves of a partitioned
    one, or nothing. shape: the columns that both have. left_out: columns that a policy has the replica go
    without, which `source` is told without. is_left_out: it goes without the whole table. awaits_copy: it has
    the table without its rows. problem, notes: see TableResult, VerifyResult."""

    source: SnapshotTable
    replica: tuple[SnapshotTable, ...]
    shape: Shape
    problem: str | None = None
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    is_left_out: bool = False
    awaits_copy: bool = False

    @property
    def name(self) -> str:
        return self.source.qualified_name


def pair_tables(
    source: Sequence[SnapshotTable],
    source_columns: Columns,
    replica: Sequence[SnapshotTable],
    replica_columns: Columns,
    keys: Mapping[int, tuple[str, ...]],
    left_out: LeftOut = NOTHING,
) -> list[Pair]:
    """One pair for each table of the source. `keys`: columns that identify a row, by its OID. `left_out`:
    what the replica goes without."""
    standing = _by_name(source, replica)
    return [
        _pair(
            table,
            source_columns[table.oid],
            standing[table.oid],
            replica_columns,
            keys.get(table.oid, ()),
            left_out,
        )
        for table in source
    ]


def _by_name(
    source: Sequence[SnapshotTable], replica: Sequence[SnapshotTable]
) -> dict[int, tuple[SnapshotTable, ...]]:
    """A table of this name, else the leaves of a partitioned one."""
    plain = {table.table_name: table for table in replica}
    leaves: dict[tuple[str, str], list[SnapshotTable]] = {}
    for table in replica:
        for ancestor in table.ancestors:
            leaves.setdefault(ancestor, []).append(table)
    return {
        table.oid: (plain[table.table_name],)
        if table.table_name in plain
        else tuple(leaves.get(table.table_name, ()))
        for table in source
    }


def _pair(
    table: SnapshotTable,
    ours: Sequence[CatalogColumn],
    there: tuple[SnapshotTable, ...],
    replica_columns: Columns,
    key: tuple[str, ...],
    left_out: LeftOut,
) -> Pair:
    ignored = frozenset(left_out.columns_of(*table.table_name))
    is_left_out = not there and table.table_name in left_out.tables
    theirs = {column.name: column for column in replica_columns[there[0].oid]} if there else {}
    sent = [column for column in ours if not table.has_list or column.name in table.columns]
    shared = tuple(
        DigestColumn(
            column.name,
            _holds(column) == _holds(theirs[column.name]) == BYTEA,
            _holds(column) == _holds(theirs[column.name]) == BYTEA_ARRAY,
        )
        for column in sent
        if column.name in theirs
    )
    names = {column.name for column in shared}
    missing = [column.name for column in sent if column.name not in theirs and not column.generated]
    absent = tuple(name for name in missing if name in ignored) if there else ()
    return Pair(
        table.without(absent),
        there,
        Shape(shared, key if names.issuperset(key) else ()),
        None
        if is_left_out
        else _problem([name for name in missing if name not in absent], there=bool(there)),
        tuple(_notes(table, ours, theirs)) + tuple(_limits(table, ours)) if there else (),
        absent,
        is_left_out,
        bool(there) and table.table_name in left_out.awaiting,
    )


def _holds(column: CatalogColumn) -> int:
    return column.base_oid or column.type_oid


def _problem(missing: Iterable[str], *, there: bool) -> str | None:
    if not there:
        return "the replica has no such table"
    names = ", ".join(missing)
    if not names:
        return None
    return (
        f"the replica has no column {names}: if it was added on the source just now, it comes within ten"
        " seconds; all other columns were compared"
    )


def _notes(
    table: SnapshotTable, ours: Sequence[CatalogColumn], theirs: Mapping[str, CatalogColumn]
) -> Iterable[str]:
    known = {column.name for column in ours}
    for name in theirs:
        if name not in known:
            yield f"{table.qualified_name}: column {name} is only on the replica"
    for column in ours:
        if column.generated and column.name not in theirs and not table.has_list:
            yield f"{table.qualified_name}: generated column {column.name} is only on the source"


def _limits(table: SnapshotTable, ours: Sequence[CatalogColumn]) -> Iterable[str]:
    """What of the table the publication does not send, so that nothing of it is compared."""
    unlisted = [column.name for column in ours if column.name not in table.columns]
    if table.has_list and unlisted:
        yield f"{table.qualified_name}: the publication does not list {', '.join(unlisted)}: not compared"
    if table.row_filter is not None:
        yield f"{table.qualified_name}: compared with the source's rows WHERE {table.row_filter}"
