"""The shape of a published table, and the types that its columns use: by them capture knows whether DDL
changed rows that the stream does not carry (decision 006).

PostgreSQL streams no row that DDL rewrites, and the Relation message tells neither that it happened
nor which column of a name this is. The catalog does: a rewrite gives the table a new file, and the
statement that asked for it a new pg_attribute row to the column, and a new pg_attrdef row to its default.
VACUUM FULL, CLUSTER and TRUNCATE give a new file alone; the first two also new pg_attribute rows to columns
with a missing value, which the new file needs no more. So a column that still has one says that no row was
rewritten since it was added: whatever file came later is TRUNCATE's. Nothing at all tells of a changed enum
or composite type but its own catalog rows.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from connectors.postgres.partitions.below import with_partitions
from connectors.postgres.session import Session, wrapped

_DIGEST_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class ShapeColumn:
    """A column. `xmin`: of its pg_attribute row. `type`: OID and modifier. `default`: the OID of its
    pg_attrdef row, which holds its default or its generation's expression; 0 without. `missing`: rows from
    before it have a value that stands in the catalog."""

    number: int
    name: str
    xmin: str
    type: str = ""
    generated: bool = False
    default: int = 0
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as the catalog has it, in the snapshot in which it was read. `last_number`: of its newest
    column, be it dropped. `listed`: the numbers of a publication's column list; then nothing here is about
    any other column, because no row has it; None without a list."""

    oid: int
    filenode: int
    last_number: int
    columns: tuple[ShapeColumn, ...]
    listed: tuple[int, ...] | None = None

    def only(self, listed: Collection[int] | None) -> Shape:
        """The same of the columns with these numbers; None: of all."""
        if listed is None:
            return self
        columns = tuple(column for column in self.columns if column.number in listed)
        return replace(self, last_number=max(listed), columns=columns, listed=tuple(sorted(listed)))

    def names_digest(self, last_number: int) -> str:
        """Of the columns up to `last_number`: which they are, of which type, and how PostgreSQL computes
        them."""
        return digest(
            f"{c.number} {c.type} {c.default if c.generated else '-'} {c.name}"
            for c in self.columns
            if c.number <= last_number
        )

    def rows_digest(self, last_number: int, by_default: Collection[int]) -> str:
        """Changes with any ALTER of one of these columns that rewrites rows. `by_default`: those
        whose pg_attribute rows a mere copying of the table changes, too; their default's tells more."""
        return digest(
            f"{c.number} default {c.default}" if c.number in by_default else f"{c.number} {c.xmin}"
            for c in self.columns
            if c.number <= last_number
        )

    @property
    def plain_columns(self) -> tuple[str, ...]:
        """The names of those that are not generated, in order: as the log has the table."""
        return tuple(column.name for column in self.columns if not column.generated)

    @property
    def generated_columns(self) -> frozenset[str]:
        """The names of the others."""
        return frozenset(column.name for column in self.columns if column.generated)

    def keeps_rows_since(self, number: int) -> bool:
        """Whether provably no row was rewritten since the column of this number was added."""
        return any(column.missing and column.number <= number for column in self.columns)

    def by_default(self) -> tuple[int, ...]:
        """Those of now."""
        return tuple(c.number for c in self.columns if c.missing and c.default)


@dataclass(frozen=True, slots=True)
class UsedType:
    """An enum or composite type that published columns use, however deep inside. `members`: its labels or
    attributes, numbered by what only grows. `last_number`: of its newest one, be it a dropped attribute."""

    oid: int
    name: str
    attributes: int
    members: tuple[tuple[int, str], ...]

    @property
    def last_number(self) -> int:
        return max([self.attributes, *(number for number, _ in self.members)])

    def has_lost(self, last_number: int) -> bool:
        """Whether an attribute behind `last_number` is not there any more."""
        added = sum(number > last_number for number, _ in self.members)
        return added < self.attributes - last_number

    def digest(self, last_number: int) -> str:
        """Of the members up to `last_number`."""
        return digest(f"{number} {member}" for number, member in self.members if number <= last_number)


def digest(lines: Iterable[str]) -> str:
    """As ANCHORs have it."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGEST_DIGITS]


_SHAPES: Final = """
    select c.oid::bigint, c.relfilenode::bigint, c.relnatts::int,
           a.attnum, a.attname, a.xmin::text, a.atttypid || ':' || a.atttypmod, a.attgenerated <> '',
           coalesce(d.oid, 0)::bigint, a.atthasmissing,
           (select r.prattrs::int2[] from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
             where r.prrelid = c.oid and p.pubname = %(publication)s)
      from pg_class c
      left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where {which}
     order by c.oid, a.attnum
"""

_LISTED: Final = """
    select r.prrelid from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
     where p.pubname = %(publication)s"""
_PUBLISHED_SHAPES: Final = _SHAPES.format(
    which=f"c.oid in ({_LISTED} union {with_partitions(_LISTED + ' and p.pubviaroot').as_string()})"
)
_ONE_SHAPE: Final = _SHAPES.format(which="c.oid = %(oid)s::oid")

# Arrays, domains, ranges and composite types hold others.
_TYPES: Final = """
    with recursive used(oid) as (
        select a.atttypid from pg_publication p
          join pg_publication_rel r on r.prpubid = p.oid
          join pg_attribute a on a.attrelid = r.prrelid and a.attnum > 0 and not a.attisdropped
           and (r.prattrs is null or a.attnum = any (r.prattrs::int2[]))
         where p.pubname = %s and a.atttypid >= 16384
        union
        select held.oid from used u join pg_type t on t.oid = u.oid, lateral (
            select t.typelem union all select t.typbasetype
            union all select g.rngsubtype from pg_range g where t.oid in (g.rngtypid, g.rngmultitypid)
            union all select a.atttypid from pg_attribute a
                       where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        ) held(oid) where held.oid >= 16384
    )
    select t.oid::bigint, t.oid::regtype::text,
           coalesce((select c.relnatts from pg_class c where c.oid = t.typrelid), 0)::int,
           coalesce(
               (select jsonb_agg(jsonb_build_array(e.oid::bigint, e.enumlabel) order by e.oid)
                  from pg_enum e where e.enumtypid = t.oid),
               (select jsonb_agg(jsonb_build_array(
                           a.attnum, concat_ws(' ', a.atttypid, a.atttypmod, a.attname)) order by a.attnum)
                  from pg_attribute a
                 where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped),
               '[]')
      from used join pg_type t on t.oid = used.oid
     where t.typtype in ('c', 'e')
     order by t.oid
"""


def read_shapes(session: Session, publication: str) -> tuple[Shape, ...]:
    """The shapes of all tables that the publication lists, and of the partitions whose rows it sends under
    their names."""
    with wrapped(f"reading the shapes of the tables in publication {publication}"):
        return _shapes(session.execute(_PUBLISHED_SHAPES, {"publication": publication}).fetchall())


def read_shape(session: Session, oid: int, publication: str) -> Shape | None:
    """The shape of one table, of those columns that the publication lists, if it does; None if it is gone."""
    with wrapped("reading the shape of a table"):
        rows = session.execute(_ONE_SHAPE, {"oid": oid, "publication": publication}).fetchall()
    return next(iter(_shapes(rows)), None)


def _shapes(rows: Iterable[tuple[Any, ...]]) -> tuple[Shape, ...]:
    return tuple(_shape(list(columns)) for _, columns in itertools.groupby(rows, key=lambda row: row[0]))


def _shape(rows: list[tuple[Any, ...]]) -> Shape:
    oid, filenode, last_number = rows[0][:3]
    columns = tuple(ShapeColumn(*row[3:-1]) for row in rows if row[3] is not None)
    return Shape(oid, filenode, last_number, columns).only(rows[0][-1])


def read_used_types(session: Session, publication: str) -> tuple[UsedType, ...]:
    """The enum and composite types that the published tables' columns use."""
    with wrapped(f"reading the types of the tables in publication {publication}"):
        rows = session.execute(_TYPES, [publication]).fetchall()
    return tuple(
        UsedType(oid, name, attributes, tuple((number, member) for number, member in members))
        for oid, name, attributes, members in rows
    )
