"""The partitions of tables whose rows a publication sends under the name of the table at the top.

Rows that a table had before ATTACH PARTITION are never in the stream, those of a partition that was made as
one all are. PostgreSQL writes down nowhere which it was, but ATTACH updates the rows of all its columns in
pg_attribute: where one of them is still of the command that made the table, it was made as a partition.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from connectors.postgres.session import Session, wrapped
from schemas.identifiers import qualified


@dataclass(frozen=True, slots=True)
class Member:
    """A table of such a tree; `root` is the OID of the one at the top, which is a member, too.

    attached: it may have had rows before it was a partition, or before one of its parents was. emptied: its
    file may be that of a TRUNCATE, because no VACUUM, CLUSTER or ANALYZE has looked at that since. unlogged:
    its rows are not in the WAL.
    frozen, xmin: the oldest transaction that may be in its file, and the last one that altered it (32 bits).
    """

    oid: int
    root: int
    schema: str
    table: str
    attached: bool
    emptied: bool
    filenode: int
    unlogged: bool
    frozen: int
    xmin: int

    @property
    def name(self) -> str:
        """`schema.table`."""
        return qualified(self.schema, self.table)

    def may_be_emptied_by(self, xid: int) -> bool:
        """Whether its file may be that of a TRUNCATE in this transaction (32 bits)."""
        return xid == self.xmin or (_is_upto(self.frozen, xid) and _is_upto(xid, self.xmin))


def _is_upto(xid: int, other: int) -> bool:
    return (other - xid) % (1 << 32) < 1 << 31


# A column's row gets its default in the command that makes the table, together with that of the default.
_MEMBERS: Final = """
    with recursive tree (oid, root, attached) as (
        select c.oid, c.oid, false
          from pg_publication p
          join pg_publication_rel r on r.prpubid = p.oid
          join pg_class c on c.oid = r.prrelid
         where p.pubname = %s and p.pubviaroot and c.relkind = 'p'
           and not exists (
               select from pg_partition_ancestors(c.oid) a
                 join pg_publication_rel above on above.prrelid = a.relid and above.prpubid = p.oid
                where a.relid <> c.oid)
        union all
        select i.inhrelid, t.root, t.attached or not exists (
                   select from pg_attribute first
                     join pg_attribute a on a.attrelid = first.attrelid and a.attnum > 0 and a.attinhcount > 0
                     left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                    where first.attrelid = i.inhrelid and first.attname = 'tableoid'
                      and a.xmin = first.xmin
                      and (a.cmin = first.cmin or d.xmin = first.xmin and a.cmin = d.cmin))
          from tree t
          join pg_class c on c.oid = t.oid and c.relkind = 'p'
          join pg_inherits i on i.inhparent = t.oid
    )
    select t.oid::bigint, t.root::bigint, n.nspname, c.relname, t.attached,
           c.relkind = 'r' and c.reltuples < 0,
           c.relfilenode::bigint, c.relkind = 'r' and c.relpersistence = 'u',
           c.relfrozenxid::text::bigint, c.xmin::text::bigint
      from tree t
      join pg_class c on c.oid = t.oid
      join pg_namespace n on n.oid = c.relnamespace
     order by t.oid
"""


# Who does that to a table whose commit the WAL has holds its lock until everybody sees what was done.
_LOCKED: Final = """
    select l.relation::bigint, string_agg(coalesce('process ' || l.pid, 'a prepared transaction'), ', ')
      from pg_locks l
      join pg_database d on d.oid = l.database and d.datname = current_database()
     where l.relation = any (%s::oid[]) and l.mode = 'AccessExclusiveLock' and l.granted
     group by 1
"""
# The locked are left out first: pg_relation_size() waits for whoever has the table, or waits for it.
_WRITTEN: Final = """
    select c.oid::bigint, c.relkind = 'r' and pg_relation_size(c.oid) > 0
      from pg_class c
     where c.oid = any (%s::oid[])
       and not exists (
           select from pg_locks l
             join pg_database d on d.oid = l.database and d.datname = current_database()
            where l.relation = c.oid and l.mode = 'AccessExclusiveLock')
"""


def read_locked(session: Session, tables: Collection[int]) -> dict[int, str]:
    """Of these tables (OIDs), those that may be truncated, rewritten or dropped just now, and by whom."""
    if not tables:
        return {}
    with wrapped("reading the locks of partitions"):
        return dict(session.execute(_LOCKED, [sorted(tables)]).fetchall())


def read_written(session: Session, tables: Collection[int]) -> dict[int, bool]:
    """Whether anything was written to each of these tables (OIDs) since it was made or truncated; nothing of
    those that are gone, or locked so that nobody sees it now."""
    if not tables:
        return {}
    with wrapped("reading the sizes of partitions"):
        return dict(session.execute(_WRITTEN, [sorted(tables)]).fetchall())


def read_members(session: Session, publication: str) -> tuple[Member, ...]:
    """All that the publication has; none where it sends rows of partitions under their own names. It waits
    for nobody's lock."""
    with wrapped(f"reading the partitions in publication {publication}"):
        return tuple(Member(*row) for row in session.execute(_MEMBERS, [publication]))
