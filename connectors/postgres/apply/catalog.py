"""What apply must know of tables of the replica: their columns and keys, what would fire on a write, and what
refers to them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from psycopg import sql

from connectors.postgres.apply.keys import (
    Exclusion,
    UniqueKey,
    choose_key,
    key_operators,
    read_deferrable_exclusions,
    read_unique_keys,
)
from connectors.postgres.catalog.equality import PLAIN, default_equality
from connectors.postgres.catalog.held_types import COMPOSITE, HeldType, Types
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.replica.firing import Firing, read_firing_of
from connectors.postgres.replica.row_security import Policed, read_policed
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded
from schemas.identifiers import qualified

ORDINARY: Final = "r"
PARTITIONED: Final = "p"


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """`type_name` is SQL. `generated`: PostgreSQL computes it; `made_anew`: DROP EXPRESSION makes no plain
    one of it, because none of its values is stored, or (before 18) for its table's grandchildren.
    `identity_always`: SET is refused.
    `held`: the type, or the one below a domain. `insisting`: SQL after which it takes NULL, of one that
    refuses that and has nothing to fill it, so that no row can be inserted without it; else ''.
    `giver`: the topmost of the tables that it is inherited from; only there it can be altered.
    `equals`: SQL of the operator by which it is compared: that of a unique index, else of its type.
    `left_out`: the replica does not have it, because a policy says so; then it counts as generated."""

    name: str
    type_name: str
    generated: bool
    identity_always: bool
    held: HeldType
    insisting: str = ""
    made_anew: bool = False
    giver: TableName | None = None
    equals: str = PLAIN
    left_out: bool = False

    @property
    def composite(self) -> bool:
        """Whether an untyped value beside it would be read as an anonymous record."""
        return self.held.kind == COMPOSITE


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A table of the replica as its catalog describes it.

    key: columns of the primary key, else of a unique index on NOT NULL columns that is enforced row by
    row; empty if there is none. whole: the partitioned table at the top that a partition belongs to.
    deferrable_keys, deferrable_exclusions: constraints that are not enforced while
    `session_replication_role` is `replica` (P15). firing: what acts on our writes. policed: that
    policies would refuse them.
    """

    schema: str
    name: str
    kind: str
    columns: Mapping[str, TargetColumn]
    key: tuple[str, ...]
    deferrable_keys: tuple[UniqueKey, ...]
    firing: tuple[Firing, ...]
    policed: Policed | None = None
    whole: TableName | None = None
    deferrable_exclusions: tuple[Exclusion, ...] = ()

    @property
    def qualified_name(self) -> str:
        """`schema.name`, for messages."""
        return qualified(self.schema, self.name)

    def without(self, names: Iterable[str]) -> TargetTable:
        """The same, going without these columns of the source."""
        absent = {
            name: TargetColumn(name, "", True, False, HeldType(0, -1, "", ""), left_out=True)
            for name in names
            if name not in self.columns
        }
        return replace(self, columns={**self.columns, **absent}) if absent else self

    @property
    def generated_columns(self) -> frozenset[str]:
        """Columns that no statement may name."""
        return frozenset(c.name for c in self.columns.values() if c.generated)


_TABLE: Final = """
    select c.oid, c.relkind, wn.nspname, w.relname
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      left join pg_class w on w.oid = pg_partition_root(c.oid) and c.relispartition
      left join pg_namespace wn on wn.oid = w.relnamespace
     where n.nspname = %s and c.relname = %s
"""

# NOT NULL that came from a parent can be dropped there alone, and of a key's column not before the key.
_COLUMNS: Final = """
    with recursive giver (name, oid, number, depth) as (
        select attname, attrelid, attnum, 0 from pg_attribute where attrelid = %(table)s and attnotnull
         union all
        select g.name, p.attrelid, p.attnum, g.depth + 1
          from giver g
          join pg_class c on c.oid = g.oid
          join pg_inherits on inhrelid = g.oid
          join pg_attribute p on p.attrelid = inhparent and p.attname = g.name and p.attnotnull
         where c.relispartition
            or exists (select from pg_constraint
                        where conrelid = g.oid and contype = 'n' and g.number = any (conkey)
                          and coninhcount > 0)
    ), lifting (name, statements) as (
        select g.name,
               concat(string_agg(format('alter table %%I.%%I drop constraint %%I; ',
                                        nspname, relname, conname), '' order by depth desc)
                          filter (where conname is not null),
                      (array_agg(format('alter table %%I.%%I alter column %%I drop not null;',
                                        nspname, relname, g.name) order by depth desc))[1])
          from giver g
          join pg_class c on c.oid = g.oid
          join pg_namespace n on n.oid = relnamespace
          left join pg_constraint on conrelid = g.oid and contype = 'p' and number = any (conkey)
                                 and coninhcount = 0
         group by g.name
    ), inherited (name, oid, parents, depth) as (
        select attname, attrelid, attinhcount, 0 from pg_attribute where attrelid = %(table)s
         union all
        select i.name, p.attrelid, p.attinhcount, i.depth + 1
          from inherited i
          join pg_inherits on inhrelid = i.oid
          join pg_attribute p on p.attrelid = inhparent and p.attname = i.name
         where i.parents > 0
    ), top (name, schema, relation, oid) as (
        select distinct on (i.name) i.name, nspname, relname, i.oid
          from inherited i
          join pg_class c on c.oid = i.oid
          join pg_namespace n on n.oid = relnamespace
         where i.parents = 0 and i.depth > 0
         order by i.name, i.depth desc, i.oid
    )
    select attname, format_type(atttypid, atttypmod), attgenerated <> '', attidentity = 'a',
           atttypid::bigint, atttypmod,
           case when atthasdef or attidentity <> '' or t.typdefault is not null then ''
                when attnotnull then l.statements
                when t.typnotnull then format('alter domain %%I.%%I drop not null;', s.nspname, t.typname)
                else '' end,
           attgenerated = 'v'
               or attgenerated = 's' and current_setting('server_version_num')::int < 180000
                  and exists (select from pg_inherits child join pg_inherits g on g.inhparent = child.inhrelid
                               where child.inhparent = coalesce(top.oid, attrelid)),
           top.schema, top.relation
      from pg_attribute
      left join lifting l on l.name = attname
      left join top on top.name = attname
      join pg_type t on t.oid = atttypid
      join pg_namespace s on s.oid = t.typnamespace
     where attrelid = %(table)s and attnum > 0 and not attisdropped
     order by attnum
"""


def load_table(conn: Session, schema: str, name: str, *, replica_role: bool) -> TargetTable:
    """Describe one table. Raises OperatorNeeded (`replica-schema`) if it cannot be written to as a table."""
    with wrapped(f"describing {qualified(schema, name)}"):
        found = conn.execute(_TABLE, [schema, name]).fetchone()
        if found is None or found[1] not in (ORDINARY, PARTITIONED):
            raise _no_table(schema, name, found)
        oid, kind, *whole = found
        columns = conn.execute(_COLUMNS, {"table": oid}).fetchall()
        keys, exclusions = read_unique_keys(conn, oid), read_deferrable_exclusions(conn, oid)
    types = Types(conn, {row[4] for row in columns})
    held = {row[0]: types.held(*row[4:6]) for row in columns}
    equals = {**default_equality(conn, held), **key_operators(keys)}
    key = choose_key(keys)
    return TargetTable(
        schema=schema,
        name=name,
        kind=kind,
        columns={row[0]: _column(row, held[row[0]], equals[row[0]] or PLAIN) for row in columns},
        key=key.columns if key else (),
        deferrable_keys=tuple(key for key in keys if not key.immediate),
        firing=read_firing_of(conn, oid, replica_role=replica_role),
        policed=next(iter(read_policed(conn, oid)), None),
        whole=_table_name(*whole),
        deferrable_exclusions=exclusions,
    )


def _column(row: tuple[Any, ...], held: HeldType, equals: str) -> TargetColumn:
    values = (*row[:4], held, *row[6:8], _table_name(*row[8:]), equals)
    return TargetColumn(*values)


def _table_name(schema: str | None, name: str | None) -> TableName | None:
    return None if schema is None or name is None else (schema, name)


def _no_table(schema: str, name: str, found: tuple[Any, ...] | None) -> OperatorNeeded:
    seen = "does not exist in the replica" if found is None else f"is no table there (relkind {found[1]})"
    shown = shlex.quote(
        sql.Identifier(schema, name).as_string()
    )  # without `"` pg_dump folds it, and reads `*`
    return OperatorNeeded(
        f"{qualified(schema, name)} {seen}",
        code="replica-schema",
        hint=f"Create it as it is on the source (pg_dump --schema-only -t {shown}), start again.",
    )


# Statements that empty a partitioned table empty its partitions.
_EMPTIED: Final = """
    with listed (oid) as (
        select c.oid
          from unnest(%s::text[], %s::text[]) t (schema, name)
          join pg_namespace n on n.nspname = t.schema
          join pg_class c on c.relnamespace = n.oid and c.relname = t.name
    )
    select oid from listed
     union
    select p.relid from listed cross join lateral pg_partition_tree(listed.oid) p
"""

_REFERRED_TO: Final = """
    select exists (
        select from pg_constraint
         where contype = 'f' and confrelid = any(%(tables)s::oid[]) and conrelid <> all(%(tables)s::oid[])
    )
"""

_RESTARTS: Final = """
    select format('alter sequence %%s restart', s.oid::regclass)
      from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
     where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
       and d.refobjid = any(%(tables)s::oid[]) and d.refobjsubid > 0 and d.deptype in ('a', 'i')
     order by 1
"""


def are_referred_to(conn: Session, targets: Sequence[TargetTable]) -> bool:
    """Whether PostgreSQL refuses TRUNCATE of just these: another table has a foreign key to one of them."""
    with wrapped("looking for foreign keys to tables"):
        ((found,),) = conn.execute(_REFERRED_TO, {"tables": _emptied(conn, targets)}).fetchall()
    return bool(found)


def identity_restarts(conn: Session, targets: Sequence[TargetTable]) -> list[bytes]:
    """What RESTART IDENTITY does, as SQL: for each sequence that a column of theirs owns."""
    with wrapped("looking for the sequences of tables"):
        found = conn.execute(_RESTARTS, {"tables": _emptied(conn, targets)}).fetchall()
    return [statement.encode() for (statement,) in found]


def _emptied(conn: Session, targets: Sequence[TargetTable]) -> list[int]:
    names = [target.schema for target in targets], [target.name for target in targets]
    return [oid for (oid,) in conn.execute(_EMPTIED, names)]
