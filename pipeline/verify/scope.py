"""Which tables are compared or copied, of those that are replicated; and why others are not. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from connectors.postgres.catalog.tables import Table
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from pipeline.config.model import Keyless, Tables
from pipeline.config.values import TablePattern
from pipeline.reports import NotReplicated
from pipeline.selection import select_tables
from schemas.errors import OperatorNeeded
from schemas.identifiers import qualified


@dataclass(frozen=True, slots=True)
class Scope:
    """What the configuration says about tables, and which of them were asked for; none: all."""

    tables: Tables
    keyless: Keyless
    wanted: tuple[TablePattern, ...] = ()


def choose_tables(
    published: Sequence[SnapshotTable], catalog: tuple[Table, ...], scope: Scope, *, by_root: bool
) -> list[SnapshotTable]:
    """The published tables that were asked for; a partitioned one means its partitions, or itself `by_root`:
    the publication sends their rows under its name.

    Raises OperatorNeeded (`table-not-replicated`) for a pattern that names none of them.
    """
    if not scope.wanted:
        return list(published)
    for pattern in scope.wanted:
        if not any(_names(pattern, table) for table in published):
            others = not_replicated(scope, catalog, published, by_root=by_root)
            raise _none_named(pattern, catalog, published, others, by_root=by_root)
    return [table for table in published if any(_names(pattern, table) for pattern in scope.wanted)]


def _names(pattern: TablePattern, table: SnapshotTable) -> bool:
    return any(pattern.matches(*name) for name in (table.table_name, *table.ancestors))


def not_replicated(
    scope: Scope, catalog: tuple[Table, ...], published: Sequence[SnapshotTable], *, by_root: bool
) -> tuple[NotReplicated, ...]:
    """Every other table of the source, with the reason."""
    selection = select_tables(catalog, scope.tables, scope.keyless, by_root=by_root)
    names = {table.table_name for table in published}
    told = {table.qualified_name for table in published}
    missed = (
        NotReplicated(table=qualified(*name), reason="not in the publication")
        for name in selection.names
        if name not in names
    )
    return (*(left for left in selection.not_replicated if left.table not in told), *missed)


def _none_named(
    pattern: TablePattern,
    catalog: Sequence[Table],
    published: Sequence[SnapshotTable],
    left_out: Iterable[NotReplicated],
    *,
    by_root: bool,
) -> OperatorNeeded:
    reasons = {each.table: each.reason for each in left_out}
    there = [table.qualified_name for table in catalog if pattern.matches(table.schema, table.name)]
    tops = {table.oid: table.qualified_name for table in catalog} if by_root else {}
    wholes = {table.qualified_name for table in published}
    for table in catalog:
        if (top := tops.get(table.root)) is not None:
            how = "replicated as a whole" if top in wholes else "not replicated"
            reasons.setdefault(table.qualified_name, f"it is a partition of {top}, which is {how}")
    why = [f"{name}: {reasons.get(name, 'none of its partitions is replicated')}" for name in there[:5]]
    return OperatorNeeded(
        f"`{pattern}` names no replicated table ({'; '.join(why) or 'the source has no such table'})",
        code="table-not-replicated",
        hint="`keepstream check` says what a table needs to be replicated. A table is named schema.table, as"
        " PostgreSQL stores it.",
    )
