"""Keys of a replica's table: what names a row there, and what PostgreSQL does not enforce while
`session_replication_role` is `replica` (P15)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.catalog.equality import EQUALITY_OF_CLASS, OPERATOR
from connectors.postgres.session import Session


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A unique index of plain columns over all rows. operators: by which its columns are equal; None: that
    cannot be told from the index. nulls_collide: two NULLs are no two values."""

    columns: tuple[str, ...]
    operators: tuple[str | None, ...] = ()
    immediate: bool = False
    not_null: bool = False
    nulls_collide: bool = False


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A DEFERRABLE exclusion constraint, or key WITHOUT OVERLAPS, as SQL. No two rows may be there, both with
    `predicate`, of which each expression's values are in its operator's relation."""

    name: str
    expressions: tuple[str, ...]
    operators: tuple[str, ...]
    predicate: str


# The primary key first, then indexes of few columns; `indimmediate` is false for DEFERRABLE constraints.
_UNIQUE: Final = sql.SQL("""
    select i.indrelid::bigint,
           array_agg(a.attname::text order by k.place), array_agg({operator} order by k.place),
           i.indimmediate, bool_and(a.attnotnull),
           coalesce(bool_or((to_jsonb(i) ->> 'indnullsnotdistinct')::bool), false)
      from pg_index i
      cross join lateral unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality k(attnum, class, place)
      join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
      join pg_opclass c on c.oid = k.class {equality}
     where i.indrelid = any (%s::oid[]) and i.indisunique and i.indisvalid
       and i.indpred is null and i.indexprs is null and (i.indimmediate or not i.indisexclusion)
     group by i.indexrelid, i.indrelid, i.indimmediate, i.indisprimary, i.indnkeyatts
     order by i.indisprimary desc, i.indnkeyatts, i.indexrelid
""").format(operator=OPERATOR, equality=EQUALITY_OF_CLASS)

_EXCLUSIONS: Final = sql.SQL("""
    select k.conrelid::bigint, k.conname,
           array_agg(pg_get_indexdef(k.conindid, x.place::int, true) order by x.place),
           array_agg({operator} order by x.place),
           coalesce(pg_get_expr(i.indpred, i.indrelid), 'true')
      from pg_constraint k
      join pg_index i on i.indexrelid = k.conindid
      cross join lateral unnest(k.conexclop) with ordinality x(operator, place)
      join pg_operator o on o.oid = x.operator
      join pg_namespace n on n.oid = o.oprnamespace
     where k.conrelid = any (%s::oid[]) and i.indisexclusion and not i.indimmediate
     group by k.oid, k.conrelid, k.conname, i.indpred, i.indrelid
     order by k.conname
""").format(operator=OPERATOR)


def read_unique_keys(conn: Session, tables: Sequence[int]) -> dict[int, list[UniqueKey]]:
    """All of each table, by its OID."""
    keys: dict[int, list[UniqueKey]] = {table: [] for table in tables}
    for table, columns, operators, *rest in conn.execute(_UNIQUE, [list(tables)]):
        keys[table].append(UniqueKey(tuple(columns), tuple(operators), *rest))
    return keys


def read_deferrable_exclusions(conn: Session, tables: Sequence[int]) -> dict[int, tuple[Exclusion, ...]]:
    """All of each table, by its OID."""
    exclusions: dict[int, tuple[Exclusion, ...]] = dict.fromkeys(tables, ())
    for table, name, texts, operators, where in conn.execute(_EXCLUSIONS, [list(tables)]):
        exclusions[table] += (Exclusion(name, tuple(texts), tuple(operators), where),)
    return exclusions


def choose_key(keys: Sequence[UniqueKey]) -> UniqueKey | None:
    """What names a row: enforced row by row, without NULL."""
    return next((key for key in keys if key.immediate and key.not_null), None)


def key_operators(keys: Sequence[UniqueKey]) -> Mapping[str, str]:
    """By which columns of keys are equal; of several keys with one column, the chosen one says it."""
    chosen = choose_key(keys)
    said: dict[str, str] = {}
    for key in [*([chosen] if chosen else []), *keys]:
        for column, operator in zip(key.columns, key.operators, strict=True):
            if operator is not None:
                said.setdefault(column, operator)
    return said
