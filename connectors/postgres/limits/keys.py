"""Keys of a table of whose columns the log has only those that the publication lists (decision 015): those
that rows which are NULL in the others may break. A replica is made without them.

A partition's part of a key is its parent's. A foreign key of a parent's is left out like a table's own; of a
parent's unique index all partitions would lose theirs, also those that are made later: such a list is unfit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.replica.deferred import Deferred
from connectors.postgres.session import Session, wrapped
from schemas.identifiers import qualified


@dataclass(frozen=True, slots=True)
class Unmakeable:
    """A key of the source's that rows with NULL in unlisted columns may break, or a foreign key to one.
    `catalog`: its OID's."""

    catalog: int
    oid: int
    deferred: Deferred


@dataclass(frozen=True, slots=True)
class BrokenAbove:
    """A unique index or exclusion constraint of a partitioned table that such rows of a partition may break.
    columns: the partition's that are not listed and that it uses. dropping: SQL."""

    name: str
    columns: tuple[str, ...]
    dropping: str


# Empty on the replica: columns that are not listed, and generated ones that it computes from these. Of
# columns alone UNIQUE and EXCLUDE take any number of NULLs, but for NULLS NOT DISTINCT; an expression may
# make a value of NULL, and a predicate be true of each row. Node trees name columns by numbers; 0: the row.
_EMPTY: Final = r"""
    with recursive empty as (
        select a.attnum, a.attname, a.attgenerated <> '' as computed
          from pg_attribute a
         where a.attrelid = %(oid)s::oid and a.attnum > 0 and not a.attisdropped
           and a.attname <> all (%(listed)s)
           and (a.attgenerated = '' or exists (
                select from pg_attrdef d, regexp_matches(d.adbin::text, ':varattno (\d+)', 'g') used
                  join pg_attribute b on b.attnum = used[1]::int
                 where d.adrelid = a.attrelid and d.adnum = a.attnum and b.attrelid = a.attrelid
                   and b.attname <> all (%(listed)s)))
    ),
    broken as (
        select i.indexrelid, array_agg(e.attname::text order by e.attnum) as columns
          from pg_index i cross join empty e
         where i.indrelid = %(oid)s::oid and (i.indisunique or i.indisexclusion)
           and (i.indisprimary or i.indnullsnotdistinct or e.computed
                or i.indexprs is not null or i.indpred is not null)
           and (e.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                or concat(i.indexprs::text, i.indpred::text) ~ format(':varattno (0|%%s) ', e.attnum))
         group by i.indexrelid
    ),
    unlinked as (
        select k.oid, k.conparentid
          from pg_constraint k
         where k.contype = 'f'
           and exists (
               select from empty e
                where k.confrelid = %(oid)s::oid and e.attnum = any (k.confkey)
                   or k.conrelid = %(oid)s::oid and e.attnum = any (k.conkey)
                      and (k.confmatchtype = 'f' or e.computed))
        union
        select k.oid, k.conparentid from unlinked u join pg_constraint k on k.oid = u.conparentid
    )
"""
_INDEXES: Final = """
      from broken b
      join pg_class x on x.oid = case when %(above)s then pg_partition_root(b.indexrelid)::oid
                                      else b.indexrelid end
      join pg_index i on i.indexrelid = x.oid
      join pg_class c on c.oid = i.indrelid
      join pg_namespace n on n.oid = c.relnamespace
      left join pg_constraint k on k.conindid = x.oid and k.contype in ('p', 'u', 'x')
     where %(above)s = (x.oid <> b.indexrelid
                        or exists (select from pg_inherits h where h.inhrelid = b.indexrelid))
"""
_DROP: Final = """
    case when k.oid is null then format('drop index %%I.%%I;', n.nspname, x.relname)
         else format('alter table only %%I.%%I drop constraint %%I;', n.nspname, c.relname, k.conname) end
"""
_KEYS: Final = rf"""
    {_EMPTY}
    select case when k.oid is null then 'pg_class' else 'pg_constraint' end::regclass::oid::bigint,
           coalesce(k.oid, x.oid)::bigint, 'key',
           array[n.nspname, c.relname, x.relname]::text[],
           case when k.oid is null then pg_get_indexdef(x.oid)
                else format('alter table only %%I.%%I add constraint %%I %%s', n.nspname, c.relname,
                            k.conname, pg_get_constraintdef(k.oid)) end || ';',
           {_DROP} || case when i.indisprimary then (
               select string_agg(format(' alter table only %%I.%%I alter column %%I drop not null;',
                                        n.nspname, c.relname, name), '')
                 from unnest(b.columns) name) else '' end
    {_INDEXES}
    union all
    select 'pg_constraint'::regclass::oid::bigint, k.oid::bigint, 'foreign key',
           array[n.nspname, c.relname, k.conname]::text[],
           format('alter table %%I.%%I add constraint %%I %%s;', n.nspname, c.relname, k.conname,
                  pg_get_constraintdef(k.oid)), null
      from unlinked u
      join pg_constraint k on k.oid = u.oid
      join pg_class c on c.oid = k.conrelid
      join pg_namespace n on n.oid = c.relnamespace
     where u.conparentid = 0
"""  # noqa: S608 - constants
_ABOVE: Final = f"""
    {_EMPTY}
    select format('%%s of %%s.%%s', x.relname, n.nspname, c.relname), b.columns, {_DROP}
    {_INDEXES}
     order by 1
"""


def unmaking_sql(session: Session, oid: int, table: TableName, listed: Collection[str]) -> str:
    """Takes such keys off a table that is made elsewhere as it is here, while it has no rows."""
    with wrapped(f"reading the keys of {qualified(*table)}"):
        rows = session.execute(_KEYS, {"oid": oid, "listed": list(listed), "above": False}).fetchall()
    return "\n".join(undoing for *_, undoing in rows if undoing is not None)


def read_unmakeable(reader: Session, tables: Sequence[SnapshotTable]) -> list[Unmakeable]:
    """Of those of the source's tables that have a column list, as `reader` sees them."""
    found: dict[tuple[int, int], Unmakeable] = {}
    for table in tables:
        if not table.has_list:
            continue
        values = {"oid": table.oid, "listed": list(table.columns), "above": False}
        with wrapped(f"reading the keys of {table.qualified_name}"):
            rows = reader.execute(_KEYS, values).fetchall()
        reason = f"the publication does not list all columns of {table.qualified_name} that it is on"
        for catalog, oid, kind, names, statement, _ in rows:
            left_out = Deferred(kind, qualified(*names), reason, statement)
            found.setdefault((catalog, oid), Unmakeable(catalog, oid, left_out))
    return list(found.values())


def read_broken_above(session: Session, oid: int, listed: Collection[str]) -> list[BrokenAbove]:
    """Of the partition with this OID, of which these columns are listed. The caller wraps errors."""
    rows = session.execute(_ABOVE, {"oid": oid, "listed": list(listed), "above": True}).fetchall()
    return [BrokenAbove(name, tuple(columns), dropping) for name, columns, dropping in rows]
