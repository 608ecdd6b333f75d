"""What apply must know of a table of the replica: its columns, its key, and what would fire on a write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from connectors.postgres.progress import wrapped
from connectors.postgres.session import Session
from schemas.errors import OperatorNeeded

ORDINARY: Final = "r"
PARTITIONED: Final = "p"


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """`type_name` is SQL. `generated`: PostgreSQL computes it. `identity_always`: SET is refused."""

    name: str
    type_name: str
    generated: bool
    identity_always: bool


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A table of the replica as its catalog describes it.

    key: columns of the primary key, else of a unique index on NOT NULL columns that is enforced row by
    row; empty if there is none. deferrable_keys: constraints that are not enforced while
    `session_replication_role` is `replica` (P15). firing: triggers and rules that act on our writes.
    """

    schema: str
    name: str
    kind: str
    columns: Mapping[str, TargetColumn]
    key: tuple[str, ...]
    deferrable_keys: tuple[tuple[str, ...], ...]
    firing: tuple[str, ...]

    @property
    def qualified_name(self) -> str:
        """`schema.name`, for messages."""
        return f"{self.schema}.{self.name}"

    @property
    def generated_columns(self) -> frozenset[str]:
        """Columns that no statement may name."""
        return frozenset(c.name for c in self.columns.values() if c.generated)


_TABLE: Final = """
    select c.oid, c.relkind
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = %s and c.relname = %s
"""

_COLUMNS: Final = """
    select attname, format_type(atttypid, atttypmod), attgenerated <> '', attidentity = 'a'
      from pg_attribute
     where attrelid = %s and attnum > 0 and not attisdropped
     order by attnum
"""

# The primary key first, then indexes of few columns; `immediate` is false for DEFERRABLE constraints.
_KEYS: Final = """
    select i.indimmediate, array_agg(a.attname::text order by k.place), bool_and(a.attnotnull)
      from pg_index i
      cross join lateral unnest(i.indkey::int2[]) with ordinality k(attnum, place)
      join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
     where i.indrelid = %s and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
       and k.place <= i.indnkeyatts
     group by i.indexrelid, i.indimmediate, i.indisprimary, i.indnkeyatts
     order by i.indisprimary desc, i.indnkeyatts, i.indexrelid
"""

# With session_replication_role = replica only ENABLE REPLICA and ENABLE ALWAYS fire, else all but
# ENABLE REPLICA and DISABLE. Foreign keys are triggers, too. Rules fire by the same letters.
# The triggers that a unique constraint makes only check it.
_FIRING: Final = """
    select case when c.oid is null then 'trigger ' || quote_ident(t.tgname)
                else 'constraint ' || quote_ident(c.conname) end
      from pg_trigger t left join pg_constraint c on c.oid = t.tgconstraint
     where t.tgrelid = %(table)s and t.tgenabled = any(%(letters)s)
       and coalesce(c.contype not in ('p', 'u', 'x'), true)
    union
    select 'rule ' || quote_ident(r.rulename)
      from pg_rewrite r
     where r.ev_class = %(table)s and r.ev_enabled = any(%(letters)s) and r.ev_type <> '1'
    order by 1
"""


def load_table(conn: Session, schema: str, name: str, *, replica_role: bool) -> TargetTable:
    """Describe one table. Raises OperatorNeeded (`replica-schema`) if it cannot be written to as a table."""
    with wrapped(f"describing {schema}.{name}"):
        found = conn.execute(_TABLE, [schema, name]).fetchone()
        if found is None or found[1] not in (ORDINARY, PARTITIONED):
            raise _no_table(schema, name, found)
        oid, kind = found
        columns = conn.execute(_COLUMNS, [oid]).fetchall()
        keys = conn.execute(_KEYS, [oid]).fetchall()
        letters = ["A", "R"] if replica_role else ["A", "O"]
        firing = conn.execute(_FIRING, {"table": oid, "letters": letters}).fetchall()
    return TargetTable(
        schema=schema,
        name=name,
        kind=kind,
        columns={row[0]: TargetColumn(*row) for row in columns},
        key=_choose_key(keys),
        deferrable_keys=tuple(tuple(names) for immediate, names, _ in keys if not immediate),
        firing=tuple(row[0] for row in firing),
    )


def _choose_key(keys: list[tuple[Any, ...]]) -> tuple[str, ...]:
    for immediate, names, not_null in keys:
        if immediate and not_null:
            return tuple(names)
    return ()


def _no_table(schema: str, name: str, found: tuple[Any, ...] | None) -> OperatorNeeded:
    seen = "does not exist in the replica" if found is None else f"is no table there (relkind {found[1]})"
    return OperatorNeeded(
        f"{schema}.{name} {seen}",
        code="replica-schema",
        hint=f"Create it as it is on the source (pg_dump --schema-only -t '{schema}.{name}'), start again.",
    )
