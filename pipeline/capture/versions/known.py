"""Which versions of its tables the log holds. Sans-I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from connectors.postgres.catalog.publication import TableName
from pipeline.capture.entries.schemachange import added_columns
from pipeline.capture.writing.packer import FramePacker
from schemas.table import TableSchema


class KnownVersions:
    """Of one connection. `packer`: brings each into the log before the first row of it."""

    def __init__(self, packer: FramePacker, live_tables: Collection[TableSchema]) -> None:
        self._packer = packer
        self._newest = {(table.schema, table.name): table for table in live_tables}
        self._logged = {table.id for table in live_tables}

    @property
    def newest(self) -> Mapping[TableName, TableSchema]:
        """By the table's name, the one that later ones are compared with."""
        return self._newest

    def holds(self, table_id: bytes) -> bool:
        return table_id in self._logged

    def add(self, table: TableSchema) -> None:
        """From here on the log holds this version, and later ones are compared with it."""
        self._packer.need(table)
        self._newest[table.schema, table.name] = table
        self._logged.add(table.id)

    def before(self, table: TableSchema) -> TableSchema | None:
        """The newest one of the same name."""
        return self._newest.get((table.schema, table.name))

    def has_columns_of(self, table: TableSchema) -> bool:
        """Whether the log has rows of exactly these columns."""
        previous = self.before(table)
        return (
            previous is not None
            and previous.column_names == table.column_names
            and not added_columns(previous, table)
        )

    def rename(self, names: Mapping[TableName, TableName | None]) -> None:
        """A schema message gave tables other names, by the old ones; None: they were dropped."""
        known = {old: self._newest.pop(old) for old in names if old in self._newest}
        for table in known.values():
            self._packer.forget(table)
            self._logged.discard(table.id)
        for old, table in known.items():
            if (new := names[old]) is not None:
                self.add(replace(table, schema=new[0], name=new[1]))
