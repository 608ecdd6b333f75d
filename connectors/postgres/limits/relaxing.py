"""A replica's table of whose columns the log has only those that the publication lists (decision 015).

It has all of them, as on the source, so that views, functions and schema changes fit. The others are NULL in
each row: what would refuse that, or fill them with values that the source's rows do not have, is taken off.
What the replica computes itself it goes on computing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.deferred import Deferred
from connectors.postgres.publication import TableName
from connectors.postgres.session import Session, wrapped
from connectors.postgres.snapshot_tables import SnapshotTable

# The table and all above it, the topmost first: what those give it can only be taken off there.
_HOLDERS: Final = """
    with recursive holders(oid, height) as (
        select c.oid, 0 from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = %s and c.relname = %s and c.relkind in ('r', 'p')
        union
        select i.inhparent, h.height + 1 from holders h join pg_inherits i on i.inhrelid = h.oid
    )
    select h.oid::bigint, n.nspname, c.relname
      from holders h join pg_class c on c.oid = h.oid join pg_namespace n on n.oid = c.relnamespace
     order by h.height desc
"""
_UNLISTED: Final = """
    select a.attname, a.attgenerated <> '', a.attidentity <> '', a.atthasdef and a.attgenerated = '',
           a.attnotnull
      from pg_attribute a
     where a.attrelid = %s::oid and a.attnum > 0 and not a.attisdropped and a.attname <> all (%s)
     order by a.attnum
"""
_CHECKS: Final = """
    select k.conname
      from pg_constraint k
     where k.conrelid = %s::oid and k.contype = 'c' and k.coninhcount = 0
       and exists (select from pg_attribute a
                    where a.attrelid = k.conrelid and a.attnum > 0 and not a.attisdropped
                      and (a.attnum = any (k.conkey) or k.conbin::text like '%%:varattno 0 %%')
                      and a.attname <> all (%s))
     order by k.conname
"""


def relax(session: Session, table: TableName, listed: Collection[str]) -> tuple[str, ...]:
    """In the session's open transaction. Returns the columns that hold nothing."""
    names = list(listed)
    found: tuple[str, ...] = ()
    with wrapped(f"letting columns of {'.'.join(table)} be NULL"):
        for oid, *holder in session.execute(_HOLDERS, table).fetchall():
            place = sql.Identifier(*holder)
            columns = session.execute(_UNLISTED, [oid, names]).fetchall()
            for change in [*_of_columns(columns), *_of_checks(session, oid, names)]:
                session.execute(sql.SQL("alter table {} {}").format(place, change))
            found = tuple(column for column, is_generated, *_ in columns if not is_generated)
    return found


_LISTED: Final = """
    select a.attname
      from pg_attribute a
     where a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and a.attnum > 0
       and not a.attisdropped and a.attname <> all (%s)
"""


def relax_but(session: Session, table: TableName, unlisted: Sequence[str]) -> None:
    """The same, of a table that exactly these columns of hold nothing in one below it."""
    with wrapped(f"reading the columns of {'.'.join(table)}"):
        listed = [name for (name,) in session.execute(_LISTED, [*table, list(unlisted)]).fetchall()]
    relax(session, table, listed)


def relaxing_sql(session: Session, oid: int, table: TableName, listed: Collection[str]) -> str:
    """What `relax` does, as a script for a table that is made elsewhere as it is here."""
    names, place = list(listed), sql.Identifier(*table)
    with wrapped(f"reading what columns of {'.'.join(table)} must hold"):
        columns = session.execute(_UNLISTED, [oid, names]).fetchall()
        changes = [*_of_columns(columns), *_of_checks(session, oid, names)]
    return "\n".join(sql.SQL("alter table {} {};").format(place, change).as_string() for change in changes)


def _of_columns(columns: Sequence[tuple[str, bool, bool, bool, bool]]) -> Iterator[sql.Composed]:
    for column, _, is_identity, has_default, not_null in columns:
        name = sql.Identifier(column)
        if is_identity:
            yield sql.SQL("alter column {} drop identity").format(name)
        if has_default:
            yield sql.SQL("alter column {} drop default").format(name)
        if not_null:
            yield sql.SQL("alter column {} drop not null").format(name)


def _of_checks(session: Session, oid: int, names: list[str]) -> Iterator[sql.Composed]:
    for (name,) in session.execute(_CHECKS, [oid, names]).fetchall():
        yield sql.SQL("drop constraint if exists {}").format(sql.Identifier(name))


@dataclass(frozen=True, slots=True)
class Unmakeable:
    """A key of the source's that rows with NULL in unlisted columns may break, or a foreign key to one.
    `catalog`: its OID's."""

    catalog: int
    oid: int
    deferred: Deferred


# Empty on the replica: columns that are not listed, and generated ones that it computes from these. Of
# columns alone UNIQUE and EXCLUDE take any number of NULLs, but for NULLS NOT DISTINCT; an expression may
# make a value of NULL, and a predicate be true of each row. Node trees name columns by numbers; 0: the row.
_KEYS: Final = r"""
    with empty as (
        select a.attnum, a.attgenerated <> '' as computed
          from pg_attribute a
         where a.attrelid = %(oid)s::oid and a.attnum > 0 and not a.attisdropped
           and a.attname <> all (%(listed)s)
           and (a.attgenerated = '' or exists (
                select from pg_attrdef d, regexp_matches(d.adbin::text, ':varattno (\d+)', 'g') used
                  join pg_attribute b on b.attnum = used[1]::int
                 where d.adrelid = a.attrelid and d.adnum = a.attnum and b.attrelid = a.attrelid
                   and b.attname <> all (%(listed)s)))
    )
    select case when k.oid is null then 'pg_class' else 'pg_constraint' end::regclass::oid::bigint,
           coalesce(k.oid, x.oid)::bigint, 'key',
           format('%%s.%%s.%%s', n.nspname, c.relname, x.relname),
           case when k.oid is null then pg_get_indexdef(x.oid)
                else format('alter table only %%I.%%I add constraint %%I %%s', n.nspname, c.relname,
                            k.conname, pg_get_constraintdef(k.oid)) end || ';',
           case when k.oid is null then format('drop index %%I.%%I;', n.nspname, x.relname)
                else format('alter table only %%I.%%I drop constraint %%I;', n.nspname, c.relname,
                            k.conname) end
      from pg_index i
      join pg_class x on x.oid = i.indexrelid
      join pg_class c on c.oid = i.indrelid
      join pg_namespace n on n.oid = c.relnamespace
      left join pg_constraint k on k.conindid = x.oid and k.contype in ('p', 'u', 'x')
     where i.indrelid = %(oid)s::oid and (i.indisunique or i.indisexclusion)
       and exists (
           select from empty e
            where (i.indisprimary or i.indnullsnotdistinct or e.computed
                   or i.indexprs is not null or i.indpred is not null)
              and (e.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                   or concat(i.indexprs::text, i.indpred::text) ~ format(':varattno (0|%%s) ', e.attnum)))
    union all
    select 'pg_constraint'::regclass::oid::bigint, k.oid::bigint, 'foreign key',
           format('%%s.%%s.%%s', n.nspname, c.relname, k.conname),
           format('alter table %%I.%%I add constraint %%I %%s;', n.nspname, c.relname, k.conname,
                  pg_get_constraintdef(k.oid)), null
      from pg_constraint k
      join pg_class c on c.oid = k.conrelid
      join pg_namespace n on n.oid = c.relnamespace
     where k.contype = 'f' and k.conparentid = 0
       and exists (
           select from empty e
            where k.confrelid = %(oid)s::oid and e.attnum = any (k.confkey)
               or k.conrelid = %(oid)s::oid and e.attnum = any (k.conkey)
                  and (k.confmatchtype = 'f' or e.computed))
"""


def unmaking_sql(session: Session, oid: int, table: TableName, listed: Collection[str]) -> str:
    """Takes such keys off a table that is made elsewhere as it is here, while it has no rows."""
    with wrapped(f"reading the keys of {'.'.join(table)}"):
        rows = session.execute(_KEYS, {"oid": oid, "listed": list(listed)}).fetchall()
    return "\n".join(undoing for *_, undoing in rows if undoing is not None)


def read_unmakeable(reader: Session, tables: Sequence[SnapshotTable]) -> list[Unmakeable]:
    """Of those of the source's tables that have a column list, as `reader` sees them."""
    found = []
    for table in tables:
        if not table.has_list:
            continue
        with wrapped(f"reading the keys of {table.qualified_name}"):
            rows = reader.execute(_KEYS, {"oid": table.oid, "listed": list(table.columns)}).fetchall()
        reason = f"the publication does not list all columns of {table.qualified_name} that it is on"
        found += [
            Unmakeable(catalog, oid, Deferred(kind, name, reason, statement))
            for catalog, oid, kind, name, statement, _ in rows
        ]
    return found
