"""What the log knows of a table: its name, columns and replica identity, as pgoutput's Relation
message gave them. A version of a table is identified by its content (`TableSchema.id`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

from schemas.identifiers import qualified


class ReplicaIdentity(Enum):
    """pg_class.relreplident."""

    DEFAULT = "d"
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


@dataclass(frozen=True, slots=True)
class Column:
    """One published column, in the Relation message's order.

    `type_name` is SQL that names the type with its modifier (`numeric(10,2)`, `public.citext`).
    `key`: part of the replica identity; under FULL every column is.
    """

    name: str
    type_oid: int
    type_modifier: int
    type_name: str
    key: bool


@dataclass(frozen=True, slots=True)
class TableSchema:
    """One version of a table. `id` (8 bytes) is a digest of all other fields."""

    schema: str
    name: str
    replica_identity: ReplicaIdentity
    columns: tuple[Column, ...]
    id: bytes = field(init=False, compare=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.canonical_json().encode()).digest()
        object.__setattr__(self, "id", digest[:8])

    def canonical_json(self) -> str:
        """The content that identifies this version, as JSON with fixed order and spacing."""
        return json.dumps(
            [
                self.schema,
                self.name,
                self.replica_identity.value,
                [[c.name, c.type_oid, c.type_modifier, c.type_name, c.key] for c in self.columns],
            ],
            ensure_ascii=True,
            separators=(",", ":"),
        )

    def without(self, places: Collection[int]) -> TableSchema:
        """The version that lacks the columns at these places; itself without any."""
        if not places:
            return self
        kept = tuple(column for i, column in enumerate(self.columns) if i not in places)
        return TableSchema(self.schema, self.name, self.replica_identity, kept)

    def is_found_by(self, column: Column) -> bool:
        """Whether the source finds rows by this column of it, among others; under FULL it does by all."""
        return column.key and self.replica_identity is not ReplicaIdentity.FULL

    @property
    def qualified_name(self) -> str:
        """`schema.name`, for messages and reports, as `qualified` has it; not SQL."""
        return qualified(self.schema, self.name)

    @property
    def column_names(self) -> tuple[str, ...]:
        """In order."""
        return tuple(column.name for column in self.columns)

    @property
    def key_indexes(self) -> tuple[int, ...]:
        """Positions of the replica identity's columns in `columns`."""
        return tuple(i for i, column in enumerate(self.columns) if column.key)
