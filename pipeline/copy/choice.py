"""Which of the source's objects the replica gets, and why it is made without the others. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from connectors.postgres.catalog.foreignkeys import ForeignKey
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.catalog.source_schema import PG_CONSTRAINT, SourceSchema
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.limits.keys import Unmakeable
from connectors.postgres.replica.deferred import (
    ROLE_MAY_NOT,
    Deferred,
    because_awaiting,
    because_not_replicated,
)
from pipeline.copy.toc import TocChoice, TocEntry, choose
from schemas.identifiers import qualified


@dataclass(frozen=True, slots=True)
class SchemaChoice:
    """facts: of the source. existing: names of schemas that the replica had before. omitted: foreign
    keys that it is made without, each with the reason. unmakeable: keys that columns break of which the
    replica has no values."""

    facts: SourceSchema
    existing: frozenset[str]
    omitted: tuple[tuple[ForeignKey, str], ...]
    unmakeable: tuple[Unmakeable, ...] = ()

    def of(self, entries: Iterable[TocEntry]) -> TocChoice:
        """What is restored of these objects of the dump."""
        return choose(
            entries,
            existing_schemas=frozenset(o for o, name in self.facts.schemas.items() if name in self.existing),
            existing_schema_names=self.existing,
            unavailable=self.facts.foreign,
            omitted=frozenset((each.catalog, each.oid) for each in self.unmakeable)
            | {(PG_CONSTRAINT, key.oid) for key, _ in self.omitted},
        )

    def without_rows(self, tables: Iterable[SnapshotTable]) -> SchemaChoice:
        """The same where these have their rows only later: keys to them wait, too."""
        empty = _named(tables)
        known = {key.oid for key, _ in self.omitted} | {each.oid for each in self.unmakeable}
        waiting = tuple(
            (key, because_awaiting(qualified(*key.referenced)))
            for key in self.facts.foreign_keys
            if key.referenced in empty and key.oid not in known
        )
        return replace(self, omitted=self.omitted + waiting)

    def deferred(self) -> list[Deferred]:
        """What makes the omitted keys, once the replica becomes a primary."""
        keys = [Deferred("foreign key", str(key), reason, key.statement) for key, reason in self.omitted]
        return [*(each.deferred for each in self.unmakeable), *keys]


def choose_schema(
    facts: SourceSchema,
    tables: Iterable[SnapshotTable],
    *,
    existing: frozenset[str],
    replica_role: bool,
    unmakeable: Sequence[Unmakeable] = (),
) -> SchemaChoice:
    """`tables`: whose rows are copied. `replica_role`: session_replication_role can be set, so that
    foreign keys and triggers keep still for rows that are copied and applied."""
    tables = tuple(tables)
    filled = _named(tables)
    filtered = _named(table for table in tables if table.row_filter is not None)
    others = {each.oid for each in unmakeable}
    reasons = (
        (key, _reason_to_omit(key, filled, filtered, replica_role))
        for key in facts.foreign_keys
        if key.oid not in others
    )
    omitted = tuple((key, reason) for key, reason in reasons if reason)
    return SchemaChoice(facts, existing, omitted, tuple(unmakeable))


def _named(tables: Iterable[SnapshotTable]) -> set[TableName]:
    """The names by which a key may refer to rows of these."""
    return {name for table in tables for name in (table.table_name, *table.ancestors)}


def _reason_to_omit(
    key: ForeignKey,
    filled: Collection[TableName],
    filtered: Collection[TableName],
    replica_role: bool,
) -> str:
    """Why the replica is made without this foreign key; empty if it gets it."""
    if key.table in filled and key.referenced not in filled:
        return because_not_replicated(qualified(*key.referenced))
    if key.referenced in filtered and key.table in filled:
        return f"it refers to {qualified(*key.referenced)}, of which the publication sends some rows only"
    if not replica_role:
        return ROLE_MAY_NOT
    return ""
