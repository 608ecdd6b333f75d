"""Columns that no replica can have as a column list wants them (decision 015)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.limits.keys import BrokenAbove, read_broken_above
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded
from schemas.identifiers import qualified

# A domain may refuse NULL itself, by one below it, or by a CHECK that names it. Of generated columns the node
# tree names the inputs by their numbers.
_UNFIT: Final = r"""
    with listed as (
        select n.nspname, c.relname, a.*, a.attnum = any (r.prattrs::int2[]) as is_listed
          from pg_publication p
          join pg_publication_rel r on r.prpubid = p.oid
          join pg_class c on c.oid = r.prrelid
          join pg_namespace n on n.oid = c.relnamespace
          join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         where p.pubname = %s and r.prattrs is not null
    )
    select l.nspname, l.relname, l.attname, array_agg(b.attname::text order by b.attnum)
      from listed l
      join pg_attrdef d on d.adrelid = l.attrelid and d.adnum = l.attnum
      cross join lateral (select distinct used[1]::int as attnum
                            from regexp_matches(d.adbin::text, ':varattno (\d+)', 'g') used) u
      join listed b on b.attrelid = l.attrelid and b.attnum = u.attnum and not b.is_listed
     where l.attgenerated <> '' and l.is_listed
     group by 1, 2, 3
    union all
    select l.nspname, l.relname, l.attname, null
      from listed l
     where not l.is_listed and l.attgenerated = '' and exists (
           with recursive below(oid) as (
               select l.atttypid
               union
               select t.typbasetype from below join pg_type t on t.oid = below.oid where t.typtype = 'd'
           )
           select from below join pg_type t on t.oid = below.oid
            where t.typtype = 'd'
              and (t.typnotnull or exists (
                   select from pg_constraint k
                    where k.contypid = t.oid and pg_get_constraintdef(k.oid) ~* 'is not null')))
     order by 1, 2, 3
"""


_LISTED_PARTITIONS: Final = """
    select c.oid::bigint, n.nspname, c.relname, array_agg(a.attname::text)
      from pg_publication p
      join pg_publication_rel r on r.prpubid = p.oid
      join pg_class c on c.oid = r.prrelid and c.relispartition
      join pg_namespace n on n.oid = c.relnamespace
      join pg_attribute a on a.attrelid = c.oid and a.attnum = any (r.prattrs::int2[])
     where p.pubname = %s
     group by 1, 2, 3
     order by 2, 3
"""


@dataclass(frozen=True, slots=True)
class Unfit:
    """One such column of a published table."""

    table: TableName
    problem: str
    remedy: str

    @property
    def qualified_name(self) -> str:
        """Of the table; not SQL."""
        return qualified(*self.table)


def read_unfit(session: Session, publication: str) -> list[Unfit]:
    """Of the publication's tables with a column list."""
    with wrapped(f"reading the column lists of publication {publication}"):
        rows = session.execute(_UNFIT, [publication]).fetchall()
        partitions = session.execute(_LISTED_PARTITIONS, [publication]).fetchall()
        broken = [
            ((schema, table), key)
            for oid, schema, table, listed in partitions
            for key in read_broken_above(session, oid, listed)
        ]
    return [
        *(
            Unfit((schema, table), *(_refuses_null(column) if inputs is None else _computed(column, inputs)))
            for schema, table, column, inputs in rows
        ),
        *(Unfit(table, *_breaks(key)) for table, key in broken),
    ]


def require_fit_columns(
    session: Session, publication: str, among: Collection[TableName] | None = None
) -> None:
    """Of all its tables, or these. Raises OperatorNeeded (`limit-unfit`)."""
    for unfit in read_unfit(session, publication):
        if among is None or unfit.table in among:
            raise OperatorNeeded(
                f"{unfit.qualified_name}: {unfit.problem}", code="limit-unfit", hint=unfit.remedy
            )


def _refuses_null(column: str) -> tuple[str, str]:
    return (
        f"column {column} is not listed, and its type is a domain that refuses NULL, which it would be on"
        " replicas",
        f"List {column}, too; or give it another type, with NOT NULL of its own.",
    )


def _computed(column: str, inputs: list[str]) -> tuple[str, str]:
    names = ", ".join(inputs)
    return (
        f"generated column {column} is listed, and {names}, of which it is made, not: replicas would compute"
        " it from NULL",
        f"List {names}, too; or list {column} no longer.",
    )


def _breaks(key: BrokenAbove) -> tuple[str, str]:
    names = ", ".join(key.columns)
    return (
        f"key {key.name} is on {names}, too, which this partition does not list: on replicas its rows may"
        " break the key",
        f"List {names}, too; or make the key on single partitions instead of the whole:"
        f" {key.dropping.replace('alter table only', 'alter table', 1)}",
    )
