"""What schema messages told of a table, as ANCHORs keep it (decision 014).

While the source's event triggers are tracked (an entry `ddl:`), each published table has an entry `told:`:
what it is at the ANCHOR's place in the stream. The catalog of now may be far ahead of that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final

from connectors.postgres.catalog.shape import Shape, ShapeColumn, digest
from schemas.ddl.message import State
from schemas.entries import Entries, Kind, text_kind
from schemas.identifiers import qualified
from schemas.table import TableSchema


@dataclass(frozen=True, slots=True)
class Told:
    """A table. `columns`: a digest of those that its rows in the log have. `generated`: the names of the
    others. `entry`: its `pg_publication_rel:oid:xmin`; "": not known. `joining`: the place where its rows
    begin is still to come."""

    oid: int
    schema: str
    table: str
    columns: str
    generated: tuple[str, ...] = ()
    entry: str = ""
    joining: bool = False

    @property
    def qualified_name(self) -> str:
        return qualified(self.schema, self.table)

    @property
    def name(self) -> tuple[str, str]:
        return self.schema, self.table

    def to_text(self) -> str:
        fields = [self.oid, self.schema, self.table, self.columns, self.entry, self.joining]
        return json.dumps([*fields, *self.generated])

    @classmethod
    def from_text(cls, text: str) -> Told:
        """Raises ValueError or TypeError."""
        oid, schema, table, columns, entry, joining, *generated = json.loads(text)
        return cls(oid, schema, table, columns, tuple(generated), entry, joining)

    @classmethod
    def of_shape(cls, shape: Shape, schema: str, table: str) -> Told:
        plain = (column for column in shape.columns if not column.generated)
        columns = digest(f"{column.type} {column.name}" for column in plain)
        return cls(shape.oid, schema, table, columns, tuple(sorted(shape.generated_columns)))

    def like(self, shape: Shape, schema: str, table: str) -> Told:
        """The same table after a change of it."""
        now = Told.of_shape(shape, schema, table)
        return replace(now, entry=self.entry, joining=self.joining)

    def confirms(self, table: TableSchema) -> bool:
        """Whether rows of this version, without generated columns, are what was told."""
        described = (f"{c.type_oid}:{c.type_modifier} {c.name}" for c in table.columns)
        return digest(described) == self.columns


def shape_of_state(oid: int, state: State) -> Shape:
    """As a schema message has it. Raises KeyError, TypeError or ValueError for another form."""
    shape: dict[str, Any] = state["shape"]
    columns = tuple(
        ShapeColumn(int(number), name, str(xmin), type_, bool(generated), int(default), bool(missing))
        for number, name, xmin, type_, generated, default, missing in shape["columns"]
    )
    return Shape(oid, int(shape["filenode"]), int(shape["natts"]), columns)


@dataclass(frozen=True, slots=True)
class SchemaName:
    """What a schema is called that was renamed."""

    oid: int
    name: str

    @classmethod
    def from_text(cls, text: str) -> SchemaName:
        """Raises ValueError or TypeError."""
        oid, name = json.loads(text)
        return cls(oid, name)

    def to_text(self) -> str:
        return json.dumps([self.oid, self.name])


TOLD: Final[Kind[int, Told]] = Kind(
    "told", "a table's schema messages", lambda told: told.oid, Told.from_text, Told.to_text
)
SCHEMAS: Final[Kind[int, SchemaName]] = Kind(
    "schema", "a renamed schema", lambda schema: schema.oid, SchemaName.from_text, SchemaName.to_text
)
UNSEEN: Final[Kind[int, int]] = Kind("unseen", "a schema message's transaction", int, int, str)
"""The transactions (32 bits) that a look at the catalog must see: PostgreSQL streams a transaction before
sessions see it, much earlier where its commit waits for a standby."""
TRACKING: Final = text_kind("ddl", "the tracking of schema changes")
TRACKED: Final = "1"


def is_tracked(entries: Entries) -> bool:
    """Whether from the ANCHOR's place on schema messages tell of every DDL."""
    return TRACKING in entries


def with_unseen(entries: Entries, xid: int) -> Entries:
    """The entries behind a message of this transaction (32 bits or more): no look at the catalog was after
    it."""
    return entries.put(UNSEEN, xid % (1 << 32))
