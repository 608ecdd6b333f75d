"""A replica whose schema is there already (`initial: data`): where each table's rows go, and whether
they can go there; and triggers of a replica that must not act on what is copied and applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from psycopg import sql

from connectors.postgres.apply_catalog import TargetTable, load_table
from connectors.postgres.copy_run import Deferred
from connectors.postgres.publication import TableName
from connectors.postgres.session import Session, wrapped
from connectors.postgres.snapshot_tables import SnapshotTable
from schemas.errors import OperatorNeeded

_EXISTING: Final = """
    select n.nspname, c.relname from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
"""


def find_targets(
    replica: Session, tables: Sequence[SnapshotTable], *, replica_role: bool
) -> dict[int, TableName]:
    """By each table's OID, the replica's table that takes its rows: the one of its name, or, for a
    partition that the replica does not have, the nearest parent that it has.

    Raises OperatorNeeded (`replica-schema`, `replica-column`, `replica-triggers`).
    """
    with wrapped("listing the replica's tables"):
        existing = {(schema, name) for schema, name in replica.execute(_EXISTING)}
    targets = {}
    for table in tables:
        candidates = (table.table_name, *table.ancestors)
        name = next((name for name in candidates if name in existing), table.table_name)
        target = load_table(replica, *name, replica_role=replica_role)
        _require_columns(table, target)
        if not replica_role:
            _require_quiet(target)
        targets[table.oid] = name
    return targets


def _require_columns(table: SnapshotTable, target: TargetTable) -> None:
    missing = [name for name in table.columns if name not in target.columns]
    computed = [name for name in table.columns if name in target.generated_columns]
    if missing or computed:
        seen = f"lacks {', '.join(missing)}" if missing else f"computes {', '.join(computed)} itself"
        raise OperatorNeeded(
            f"{target.qualified_name} of the replica {seen}",
            code="replica-column",
            hint="Give it the source's columns, or let keepstream make the schema: empty the database and "
            "set `initial: copy`.",
        )


def _require_quiet(target: TargetTable) -> None:
    if target.firing:
        raise OperatorNeeded(
            f"copying into {target.qualified_name} of the replica would fire {', '.join(target.firing)}",
            code="replica-triggers",
            hint="Run as a superuser of the replica (PostgreSQL 15 or later): grant set on parameter"
            " session_replication_role to our role; otherwise drop foreign keys and rules there, and run:"
            f" alter table {target.qualified_name} disable trigger user;",
        )


_TRIGGERS: Final = """
    select n.nspname, c.relname, 'trigger', t.tgname, t.tgenabled
      from pg_catalog.pg_trigger t
      join pg_catalog.pg_class c on c.oid = t.tgrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where not t.tgisinternal and t.tgenabled = any(%(letters)s) and c.relkind in ('r', 'p')
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
     union all
    select n.nspname, c.relname, 'rule', r.rulename, r.ev_enabled
      from pg_catalog.pg_rewrite r
      join pg_catalog.pg_class c on c.oid = r.ev_class
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where r.ev_type <> '1' and r.ev_enabled = any(%(letters)s) and c.relkind in ('r', 'p')
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
     order by 1, 2, 4
"""

_ENABLE: Final[Mapping[str, str]] = {"O": "enable", "A": "enable always", "R": "enable replica"}


def silence_triggers(replica: Session, *, replica_role: bool) -> list[Deferred]:
    """Disable the triggers and rules that would fire for rows that come from the source, where they have
    fired already; returns what enables them again.

    With `replica_role` (session_replication_role can be set) that is ENABLE ALWAYS and REPLICA only.
    """
    letters = ["A", "R"] if replica_role else ["A", "O"]
    with wrapped("disabling the replica's triggers"):
        found = replica.execute(_TRIGGERS, {"letters": letters}).fetchall()
        for schema, table, kind, name, _ in found:
            replica.execute(_alter(schema, table, kind, name, "disable"))
    return [
        Deferred(
            kind=kind,
            object=f"{schema}.{table}.{name}",
            reason="it would act on rows that the source's has acted on already",
            statement=_alter(schema, table, kind, name, _ENABLE[enabled]).as_string() + ";",
        )
        for schema, table, kind, name, enabled in found
    ]


def _alter(schema: str, table: str, kind: str, name: str, action: str) -> sql.Composed:
    return sql.SQL("alter table only {} {} {}").format(
        sql.Identifier(schema, table),
        sql.SQL(f"{action} {kind}"),  # both from fixed lists
        sql.Identifier(name),
    )
