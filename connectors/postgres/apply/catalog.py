"""What apply must know of tables of the replica: their columns and keys, what would fire on a write, and what
refers to them."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

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


_TABLES: Final = """
    select n.nspname, c.relname, c.oid::bigint, c.relkind, wn.nspname, w.relname
      from unnest(%s::text[], %s::text[]) t (schema, name)
      join pg_namespace n on n.nspname = t.schema
      join pg_class c on c.relnamespace = n.oid and c.relname = t.name
      left join pg_class w on w.oid = pg_partition_root(c.oid) and c.relispartition
      left join pg_namespace wn on wn.oid = w.relnamespace
"""

# NOT NULL that came from a parent can be dropped there alone, and of a key's column not before the key.
_COLUMNS: Final = """
    with recursive giver (held_by, name, oid, number, depth) as (
        select attrelid, attname, attrelid, attnum, 0
          from pg_attribute where attrelid = any (%(tables)s::oid[]) and attnotnull
         union all
        select g.held_by, g.name, p.attrelid, p.attnum, g.depth + 1
          from giver g
          join pg_class c on c.oid = g.oid
          join pg_inherits on inhrelid = g.oid
          join pg_attribute p on p.attrelid = inhparent and p.attname = g.name and p.attnotnull
         where c.relispartition
            or exists (select from pg_constraint
                        where conrelid = g.oid and contype = 'n' and g.number = any (conkey)
                          and coninhcount > 0)
    ), lifting (held_by, name, statements) as (
        select g.held_by, g.name,
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
         group by g.held_by, g.name
    ), inherited (held_by, name, oid, parents, depth) as (
        select attrelid, attname, attrelid, attinhcount, 0
          from pg_attribute where attrelid = any (%(tables)s::oid[])
         union all
        select i.held_by, i.name, p.attrelid, p.attinhcount, i.depth + 1
          from inherited i
          join pg_inherits on inhrelid = i.oid
          join pg_attribute p on p.attrelid = inhparent and p.attname = i.name
         where i.parents > 0
    ), top (held_by, name, schema, relation, oid) as (
        select distinct on (i.held_by, i.name) i.held_by, i.name, nspname, relname, i.oid
          from inherited i
          join pg_class c on c.oid = i.oid
          join pg_namespace n on n.oid = relnamespace
         where i.parents = 0 and i.depth > 0
         order by i.held_by, i.name, i.depth desc, i.oid
    )
    select attrelid::bigint, attname, format_type(atttypid, atttypmod), attgenerated <> '', attidentity = 'a',
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
      left join lifting l on l.held_by = attrelid and l.name = attname
      left join top on top.held_by = attrelid and top.name = attname
      join pg_type t on t.oid = atttypid
      join pg_namespace s on s.oid = t.typnamespace
     where attrelid = any (%(tables)s::oid[]) and attnum > 0 and not attisdropped
     order by attrelid, attnum
"""


_AT_ONCE: Final = 50
"""Described by one set of queries: more take longer each, because sessions of apply join by nested loops."""


def load_table(conn: Session, schema: str, name: str, *, replica_role: bool) -> TargetTable:
    """Describe one table. Raises OperatorNeeded (`replica-schema`) if it cannot be written to as a table."""
    found = _find(conn, [(schema, name)])
    if not found or found[0].kind not in (ORDINARY, PARTITIONED):
        raise _no_table(schema, name, found[0].kind if found else None)
    (table,) = _describe(conn, found, replica_role=replica_role)
    return table


def load_tables(
    conn: Session, names: Collection[TableName], *, replica_role: bool
) -> dict[TableName, TargetTable]:
    """Describe many, for the round trips of one. Those that cannot be written to as tables are not among
    them: `load_table` says why."""
    tables: dict[TableName, TargetTable] = {}
    wanted = sorted(set(names))
    for start in range(0, len(wanted), _AT_ONCE):
        found = _find(conn, wanted[start : start + _AT_ONCE])
        writable = [each for each in found if each.kind in (ORDINARY, PARTITIONED)]
        for table in _describe(conn, writable, replica_role=replica_role):
            tables[table.schema, table.name] = table
    return tables


class _Found(NamedTuple):
    schema: str
    name: str
    oid: int
    kind: str
    whole: TableName | None


def _find(conn: Session, names: Sequence[TableName]) -> list[_Found]:
    with wrapped(_describing(names)):
        rows = conn.execute(
            _TABLES, [[schema for schema, _ in names], [name for _, name in names]]
        ).fetchall()
    return [_Found(schema, name, oid, kind, _table_name(*whole)) for schema, name, oid, kind, *whole in rows]


def _describe(conn: Session, found: Sequence[_Found], *, replica_role: bool) -> Iterator[TargetTable]:
    if not found:
        return
    oids = [each.oid for each in found]
    with wrapped(_describing([(each.schema, each.name) for each in found])):
        rows = conn.execute(_COLUMNS, {"tables": oids}).fetchall()
        keys, exclusions = read_unique_keys(conn, oids), read_deferrable_exclusions(conn, oids)
    types = Types(conn, {row[5] for row in rows})
    held = {row[:2]: types.held(*row[5:7]) for row in rows}
    equals = default_equality(conn, held)
    firing = read_firing_of(conn, oids, replica_role=replica_role)
    policed = {(each.schema, each.table): each for each in read_policed(conn, oids)}
    columns: dict[int, list[tuple[Any, ...]]] = {}
    for row in rows:
        columns.setdefault(row[0], []).append(row)
    for each in found:
        of_key = key_operators(keys[each.oid])
        key = choose_key(keys[each.oid])
        yield TargetTable(
            schema=each.schema,
            name=each.name,
            kind=each.kind,
            columns={
                row[1]: _column(row[1:], held[row[:2]], of_key.get(row[1]) or equals[row[:2]] or PLAIN)
                for row in columns.get(each.oid, ())
            },
            key=key.columns if key else (),
            deferrable_keys=tuple(key for key in keys[each.oid] if not key.immediate),
            firing=firing[each.oid],
            policed=policed.get((each.schema, each.name)),
            whole=each.whole,
            deferrable_exclusions=exclusions[each.oid],
        )


def _describing(names: Sequence[TableName]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"describing {qualified(*names[0])}{more}"


def _column(row: tuple[Any, ...], held: HeldType, equals: str) -> TargetColumn:
    values = (*row[:4], held, *row[6:8], _table_name(*row[8:]), equals)
    return TargetColumn(*values)


def _table_name(schema: str | None, name: str | None) -> TableName | None:
    return None if schema is None or name is None else (schema, name)


def _no_table(schema: str, name: str, kind: str | None) -> OperatorNeeded:
    seen = "does not exist in the replica" if kind is None else f"is no table there (relkind {kind})"
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
