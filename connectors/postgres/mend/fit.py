"""Whether a table of the replica can take the source's rows, and what of its own it has besides."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from psycopg import sql

from connectors.postgres.apply import statements
from connectors.postgres.apply.catalog import TargetTable, load_table
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.ddl import left_out
from connectors.postgres.limits.sent import lists_of, sent_columns, sent_versions
from connectors.postgres.replica.fitting import require_fit, require_quiet
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded


def fitting_target(
    source: Session, replica: Session, table: SnapshotTable, *, pipeline: str, name: str, replica_role: bool
) -> TargetTable:
    """The replica's table of this name, which can hold every value, but of columns that a policy has it go
    without, and on which nothing acts by itself.

    `pipeline`, `name`: of the replica, in the configuration. Raises OperatorNeeded (`replica-schema`,
    `replica-triggers`, `replica-row-security`).
    """
    ignored = left_out.read(replica, pipeline).columns_of(*table.table_name)
    target = load_table(replica, table.schema, table.name, replica_role=replica_role).without(ignored)
    lists = lists_of([table])
    columns = sent_columns(source, [table.oid], lists).get(table.table_name)
    for version in sent_versions(source, [table.oid], lists):
        require_fit(version, target, replica=name, source=columns)
    require_quiet(target, replica=name, replica_role=replica_role, verb="mending")
    return target


def columns_left_out(target: TargetTable) -> tuple[str, ...]:
    """Of the source's, those that the replica goes without."""
    return tuple(column.name for column in target.columns.values() if column.left_out)


def own_columns(table: SnapshotTable, target: TargetTable) -> tuple[str, ...]:
    """The columns with values of their own that only the replica has."""
    return tuple(
        column.name
        for column in target.columns.values()
        if column.name not in table.columns and not column.generated
    )


def require_nothing_lost(session: Session, table: SnapshotTable, target: TargetTable) -> None:
    """Raises OperatorNeeded (`replica-columns-lost`) if emptying the table would lose values of the replica's
    own."""
    own = own_columns(table, target)
    if not own:
        return
    query = sql.SQL("select exists (select from {} where num_nonnulls({}) > 0)").format(
        statements.relation(target), sql.SQL(", ").join(map(sql.Identifier, own))
    )
    with wrapped(f"looking at the replica's own columns of {target.qualified_name}"):
        ((would_lose,),) = session.execute(query).fetchall()
    if would_lose:
        raise _would_lose(target, own)


def _would_lose(target: TargetTable, own: Sequence[str]) -> OperatorNeeded:
    relation = sql.Identifier(target.schema, target.name).as_string()
    drops = ", ".join(f"drop column {sql.Identifier(name).as_string()}" for name in own)
    return OperatorNeeded(
        f"copying {target.qualified_name} anew would lose what only the replica has, in {', '.join(own)}",
        code="replica-columns-lost",
        hint=f"`keepstream verify … --repair --tables {shlex.quote(relation)}` keeps it: that writes the rows"
        " that differ and no others, as many as --repair-limit allows. Or, if nobody needs it, run on the"
        f" replica: alter table {relation} {drops};",
    )


def may_be_binary(table: SnapshotTable, target: TargetTable, *, same_major: bool) -> bool:
    """Whether a table with long bytea can go in COPY's binary form, in which they are half as long."""
    types = zip(table.columns, table.type_oids, strict=True)
    return (
        same_major
        and table.needs_binary
        and table.can_be_binary
        and all(target.columns[name].held.oid == oid for name, oid in types)
    )
