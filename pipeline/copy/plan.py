"""Cutting tables into parts, in the order in which they are copied. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.part_copier import Part
from connectors.postgres.copy.snapshot_tables import SnapshotTable


def plan_parts(
    tables: Sequence[SnapshotTable],
    *,
    targets: Mapping[int, TableName],
    volatile: Collection[TableName],
    part_bytes: int,
    may_be_binary: bool,
) -> list[Part]:
    """The parts of all tables, those of one table together.

    `targets`: by the table's OID, where its rows go. `volatile`: tables whose change cost an earlier
    snapshot; they come first, because a table that is often truncated must be read soon after the
    snapshot. Then the largest, so that no worker begins one when the others have nothing left to do.
    """
    ordered = sorted(tables, key=lambda table: (table.table_name not in volatile, -table.size_bytes))
    return [
        part
        for table in ordered
        for part in _cut(table, targets[table.oid], part_bytes, table.can_be_binary and may_be_binary)
    ]


def _cut(table: SnapshotTable, target: TableName, part_bytes: int, may_be_binary: bool) -> list[Part]:
    """Ranges of blocks of about equal size."""
    count = max(1, min(table.blocks, -(-table.size_bytes // part_bytes)))
    edges = [table.blocks * number // count for number in range(count + 1)]
    return [
        Part(
            table=table,
            target=target,
            number=number,
            of=count,
            first_block=edges[number],
            end_block=edges[number + 1],
            binary=table.needs_binary and may_be_binary,
            size_bytes=table.size_bytes // count,
        )
        for number in range(count)
    ]
