"""The shape of a published table: by it capture knows whether its rows were rewritten (DESIGN §2).

PostgreSQL streams no row that DDL rewrites, and the Relation message tells neither that it happened
nor which column of a name this is. The catalog does: a rewrite gives the table a new file, and the
statement that asked for it a new pg_attribute row to the column. VACUUM FULL, CLUSTER and TRUNCATE
give a new file alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from connectors.postgres.session import Session, wrapped

_DIGEST_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class ShapeColumn:
    """A column with rows of its own (not generated); `xmin` is that of its pg_attribute row."""

    number: int
    name: str
    xmin: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as the catalog has it, in the snapshot in which it was read."""

    oid: int
    filenode: int
    columns: tuple[ShapeColumn, ...]

    @property
    def last_number(self) -> int:
        return max((column.number for column in self.columns), default=0)

    def names_digest(self, last_number: int) -> str:
        """Of numbers and names of the columns up to `last_number`."""
        return _digest(f"{c.number} {c.name}" for c in self.columns if c.number <= last_number)

    def rows_digest(self, last_number: int) -> str:
        """Of numbers and xmins: changes with any ALTER of one of these columns."""
        return _digest(f"{c.number} {c.xmin}" for c in self.columns if c.number <= last_number)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGEST_DIGITS]


_SHAPES: Final = """
    select c.oid::bigint, c.relfilenode::bigint,
           array_agg(a.attnum::int order by a.attnum) filter (where a.attnum is not null),
           array_agg(a.attname::text order by a.attnum) filter (where a.attnum is not null),
           array_agg(a.xmin::text order by a.attnum) filter (where a.attnum is not null)
      from pg_publication p
      join pg_publication_rel r on r.prpubid = p.oid
      join pg_class c on c.oid = r.prrelid
      left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           and a.attgenerated = ''
     where p.pubname = %(publication)s and (%(oid)s::oid is null or c.oid = %(oid)s::oid)
     group by c.oid
     order by c.oid
"""


def read_shapes(session: Session, publication: str, *, oid: int | None = None) -> tuple[Shape, ...]:
    """The shapes of all tables that the publication lists, or of one of them."""
    with wrapped(f"reading the shapes of the tables in publication {publication}"):
        rows = session.execute(_SHAPES, {"publication": publication, "oid": oid}).fetchall()
    return tuple(
        Shape(found, filenode, tuple(map(ShapeColumn, numbers or (), names or (), xmins or ())))
        for found, filenode, numbers, names, xmins in rows
    )
