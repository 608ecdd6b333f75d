"""What schema messages told of a table, as ANCHORs keep it (decision 014).

While the source's event triggers are tracked (an entry `ddl:`), each published table has an entry `told:`:
what it is at the ANCHOR's place in the stream. The catalog of now may be far ahead of that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from connectors.postgres.shape import Shape, ShapeColumn, digest
from pipeline.capture.malformed import entry_malformed
from schemas.ddl.message import State
from schemas.table import TableSchema

TRACKED: Final = "ddl:1"
TRACKED_PREFIX: Final = "ddl:"
TOLD_PREFIX: Final = "told:"
UNSEEN_PREFIX: Final = "unseen:"
SCHEMA_PREFIX: Final = "schema:"


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
        return f"{self.schema}.{self.table}"

    @property
    def name(self) -> tuple[str, str]:
        return self.schema, self.table

    def to_token(self) -> str:
        """The entry in an ANCHOR's `publication`."""
        fields = [self.oid, self.schema, self.table, self.columns, self.entry, self.joining]
        return TOLD_PREFIX + json.dumps([*fields, *self.generated])

    @classmethod
    def from_token(cls, token: str) -> Told:
        """InternalError: `anchor-malformed`."""
        try:
            oid, schema, table, columns, entry, joining, *generated = json.loads(
                token.removeprefix(TOLD_PREFIX)
            )
        except ValueError:
            raise entry_malformed("a table's schema messages") from None
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


def is_tracked(entries: Iterable[str]) -> bool:
    """Whether from the ANCHOR's place on schema messages tell of every DDL."""
    return any(entry.startswith(TRACKED_PREFIX) for entry in entries)


def with_schema_name(entries: Iterable[str], oid: int, name: str | None) -> tuple[str, ...]:
    """The entries with a renamed schema's name; None: it was dropped."""
    own = f"{SCHEMA_PREFIX}[{oid}, "
    others = tuple(entry for entry in entries if not entry.startswith(own))
    return others if name is None else (*others, SCHEMA_PREFIX + json.dumps([oid, name]))


def schema_names(entries: Iterable[str]) -> dict[int, str]:
    """Of schemas that were renamed, by OID."""
    found = (entry.removeprefix(SCHEMA_PREFIX) for entry in entries if entry.startswith(SCHEMA_PREFIX))
    return dict(map(json.loads, found))


def with_unseen(entries: Iterable[str], xid: int) -> tuple[str, ...]:
    """The entries behind a message of this transaction (32 bits or more): no look at the catalog was after
    it."""
    return *(entries := tuple(entries)), *{f"{UNSEEN_PREFIX}{xid % (1 << 32)}"}.difference(entries)


def unseen(entries: Iterable[str]) -> list[int]:
    """The transactions (32 bits) that a look at the catalog must see: PostgreSQL streams a transaction before
    sessions see it, much earlier where its commit waits for a standby."""
    return [int(entry.removeprefix(UNSEEN_PREFIX)) for entry in entries if entry.startswith(UNSEEN_PREFIX)]


def told_tables(entries: Iterable[str]) -> dict[int, Told]:
    """By OID. InternalError: `anchor-malformed`."""
    tokens = (Told.from_token(entry) for entry in entries if entry.startswith(TOLD_PREFIX))
    return {told.oid: told for told in tokens}


def with_told(entries: Iterable[str], told: Told) -> tuple[str, ...]:
    """The entries with this one instead of the table's earlier one."""
    return (*without_told(entries, told.oid), told.to_token())


def without_told(entries: Iterable[str], oid: int) -> tuple[str, ...]:
    own = f"{TOLD_PREFIX}[{oid}, "
    return tuple(entry for entry in entries if not entry.startswith(own))
