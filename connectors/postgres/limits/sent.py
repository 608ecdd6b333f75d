"""Tables as the log has them: of a table with a column list, the columns that the publication lists."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from connectors.postgres.catalog.columns import TableColumns, read_table_columns
from connectors.postgres.catalog.publication import Publication, TableName
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.replication.relation import tables_of
from connectors.postgres.session import Session
from schemas.table import TableSchema

ColumnLists = Mapping[TableName, Collection[str]]
"""Of those tables that have one."""


def lists_in(publication: Publication | None) -> ColumnLists:
    """Of the tables that the publication lists with one."""
    return {
        (table.schema, table.name): frozenset(table.columns)
        for table in (publication.tables if publication is not None else ())
        if table.columns is not None
    }


def lists_of(tables: Iterable[SnapshotTable]) -> ColumnLists:
    """The same of tables as a snapshot shows them."""
    return {table.table_name: frozenset(table.columns) for table in tables if table.has_list}


def sent_versions(session: Session, oids: Iterable[int], lists: ColumnLists) -> tuple[TableSchema, ...]:
    """As `tables_of`."""
    return tuple(_only(table, lists) for table in tables_of(session, oids))


def sent_columns(
    session: Session, oids: Collection[int], lists: ColumnLists
) -> dict[TableName, TableColumns]:
    """As `read_table_columns`."""
    found = read_table_columns(session, oids)
    return {name: columns.only(lists[name]) if name in lists else columns for name, columns in found.items()}


def _only(table: TableSchema, lists: ColumnLists) -> TableSchema:
    listed = lists.get((table.schema, table.name))
    if listed is None:
        return table
    return table.without([i for i, name in enumerate(table.column_names) if name not in listed])
