"""What a new version of a known table means: nothing, added columns, or a stop.

Only ADD COLUMN without or with a constant default is followed. Everything else stops capture before
anything of the new version is in the log, because rows that PostgreSQL rewrote are not streamed.
"""

from __future__ import annotations

from collections.abc import Mapping

from connectors.postgres.catalog.tables import CatalogColumn
from schemas.change import AddedColumn, ColumnsAdded
from schemas.errors import BEGIN_ANEW, RefusedData
from schemas.table import Column, TableSchema


def added_columns(old: TableSchema, new: TableSchema) -> tuple[Column, ...]:
    """The columns that `new` has more than `old`; () if only the replica identity differs.

    Raises RefusedData (`schema-changed`) for any other difference.
    """
    kept = {column.name: column for column in new.columns}
    for column in old.columns:
        now = kept.get(column.name)
        if now is None:
            raise _refuse(new, f"column {column.name} is gone or renamed")
        if (now.type_oid, now.type_modifier) != (column.type_oid, column.type_modifier):
            raise _refuse(new, f"column {column.name} changed from {column.type_name} to {now.type_name}")
    names = [column.name for column in old.columns]
    if [column.name for column in new.columns[: len(names)]] != names:
        raise _refuse(new, "a column was dropped and added again")  # its rows' values are others now
    known = set(names)
    return tuple(column for column in new.columns if column.name not in known)


def describe_added(
    old: TableSchema, new: TableSchema, added: tuple[Column, ...], catalog: Mapping[str, CatalogColumn]
) -> ColumnsAdded:
    """The change that travels in the log. Raises RefusedData (`schema-changed`) where the values of
    rows that were there before cannot be proven.

    A default that filled them without a missing value has rewritten the table, which `check_shape` has
    refused before; so without one they are NULL, whatever the default is by now.
    """
    return ColumnsAdded(old.id, tuple(_describe(new, column, catalog.get(column.name)) for column in added))


def _describe(table: TableSchema, column: Column, found: CatalogColumn | None) -> AddedColumn:
    if found is None or (found.type_oid, found.type_modifier) != (column.type_oid, column.type_modifier):
        raise _refuse(table, f"column {column.name} was added and changed again before capture saw it")
    if found.identity or found.generated:
        raise _refuse(table, f"column {column.name} was added as identity or generated column")
    # A column without a value in the rows from before it got its NOT NULL later, when they had been filled.
    return AddedColumn(
        column.name,
        _declared(found),
        found.not_null and found.has_missing,
        found.default,
        found.missing if found.has_missing else None,
    )


def _declared(found: CatalogColumn) -> str:
    """Its type, with its collation if that is its own. The stream names only the base type of a domain."""
    return found.type_name if found.collation is None else f"{found.type_name} collate {found.collation}"


def _refuse(table: TableSchema, seen: str) -> RefusedData:
    return refuse_change(table.qualified_name, seen)


def refuse_change(table: str, seen: str) -> RefusedData:
    """A change of `table` that would leave replicas with other rows than the source."""
    return RefusedData(
        f"the schema of {table} changed in a way that cannot be followed: {seen}",
        code="schema-changed",
        hint="The log ends before this change and stays valid; replicas keep what they have. To go on with"
        f" the new schema, {BEGIN_ANEW}. ADD COLUMN without a default or with a constant one is followed by"
        " itself, unless PostgreSQL rewrites the table for it, as for a domain with a constraint, or for a"
        " stored generated column beside it.",
    )
