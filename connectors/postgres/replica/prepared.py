"""A replica whose schema is there already (`initial: data`, `none`): where each table's rows go, and
whether they can go there; and triggers of a replica that must not act on what is copied and applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from connectors.postgres.apply.catalog import load_table
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.limits.sent import ColumnLists, lists_of, sent_columns, sent_versions
from connectors.postgres.replica.deferred import Deferred
from connectors.postgres.replica.firing import FOREIGN_KEY, read_firing
from connectors.postgres.replica.fitting import require_fit, require_quiet, require_unchanged_values
from connectors.postgres.session import Session, wrapped
from schemas.identifiers import qualified

_EXISTING: Final = """
    select n.nspname, c.relname from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
"""


def find_targets(
    source: Session, replica: Session, tables: Sequence[SnapshotTable], *, replica_role: bool
) -> dict[int, TableName]:
    """By each table's OID, the replica's table that takes its rows: the one of the name that they have in the
    stream, or, for a partition that the replica does not have, the nearest parent that it has.

    Raises OperatorNeeded (`replica-schema`, `replica-triggers`, `replica-row-security`).
    """
    oids, lists = [table.oid for table in tables], lists_of(tables)
    versions = {(version.schema, version.name): version for version in sent_versions(source, oids, lists)}
    columns = sent_columns(source, oids, lists)
    existing, targets = _existing(replica), {}
    for table in tables:
        candidates = (table.published_as,) if table.published_as else (table.table_name, *table.ancestors)
        name = next((name for name in candidates if name in existing), candidates[0])
        target = load_table(replica, *name, replica_role=replica_role)
        if table.table_name in versions:
            version, source_columns = versions[table.table_name], columns.get(table.table_name)
            require_fit(version, target, replica="the replica", source=source_columns)
        require_quiet(target, replica="the replica", replica_role=replica_role, verb="copying into")
        targets[table.oid] = name
    return targets


def require_types(
    source: Session, replica: Session, tables: Sequence[int], lists: ColumnLists, *, replica_role: bool
) -> None:
    """Of those of the source's tables (OIDs) that the replica has. Raises OperatorNeeded
    (`replica-schema`)."""
    existing, columns = _existing(replica), sent_columns(source, tables, lists)
    for version in sent_versions(source, tables, lists):
        name = (version.schema, version.name)
        if name in existing:
            target = load_table(replica, *name, replica_role=replica_role)
            require_unchanged_values(version, target, replica="the replica", source=columns.get(name))


def _existing(replica: Session) -> set[TableName]:
    with wrapped("listing the replica's tables"):
        return {(schema, name) for schema, name in replica.execute(_EXISTING)}


def silence_triggers(replica: Session, *, replica_role: bool) -> list[Deferred]:
    """Disable the triggers and rules that would fire for rows that come from the source, where they have
    fired already; returns what enables them again."""
    found = [f for f in read_firing(replica, replica_role=replica_role) if f.kind != FOREIGN_KEY]
    with wrapped("disabling the replica's triggers"):
        for each in found:
            replica.execute(each.silencing().encode())
    return [
        Deferred(
            kind=each.kind,
            object=qualified(each.schema, each.table, each.name),
            reason="it would act on rows that the source's has acted on already",
            statement=each.restoring(),
        )
        for each in found
    ]
