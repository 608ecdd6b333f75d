"""By which operator a column's values are equal, as SQL.

Sessions have an empty search_path, in which a bare `=` is one of pg_catalog's: for a type of an extension
there is none, or (citext) another one than its indexes have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from psycopg import sql

from connectors.postgres.catalog.held_types import BASE, HeldType
from connectors.postgres.session import Session, wrapped

PLAIN: Final = "="

Column = TypeVar("Column")

# Of a B-tree operator class `c`: its operator `o` for equality, NULL of any other class.
EQUALITY_OF_CLASS: Final = sql.SQL("""
      left join pg_amop e on e.amopfamily = c.opcfamily and e.amopstrategy = 3
                         and e.amoplefttype = c.opcintype and e.amoprighttype = c.opcintype
                         and e.amopmethod = (select oid from pg_am where amname = 'btree')
      left join pg_operator o on o.oid = e.amopopr
      left join pg_namespace n on n.oid = o.oprnamespace
""")

OPERATOR: Final = sql.SQL("""case when n.nspname = 'pg_catalog' then o.oprname::text
                                when n.nspname is not null
                                then format('operator(%%I.%%s)', n.nspname, o.oprname) end""")

# As PostgreSQL looks for one: of the type itself, else of one whose values look the same in memory.
_DEFAULTS: Final = sql.SQL("""
    select distinct on (t.oid) t.oid::bigint, {operator}
      from unnest(%s::oid[]) t(oid)
      join pg_opclass c on c.opcdefault
                       and (c.opcintype = t.oid
                            or exists (select from pg_cast
                                        where castsource = t.oid and casttarget = c.opcintype
                                          and castmethod = 'b' and castcontext = 'i'))
      join pg_type taken on taken.oid = c.opcintype {equality}
     where o.oid is not null
     order by t.oid, c.opcintype = t.oid desc, taken.typispreferred desc, c.opcintype
""").format(operator=OPERATOR, equality=EQUALITY_OF_CLASS)


def default_equality(session: Session, columns: Mapping[Column, HeldType]) -> dict[Column, str | None]:
    """Each column's operator, as its type's default operator class has it; None: there is none.
    Arrays, enums, ranges and composite types are compared by pg_catalog's, whatever they consist of."""
    wanted = {held.oid for held in columns.values() if held.kind == BASE}
    with wrapped("reading how types are compared"):
        found: dict[int, str] = dict(session.execute(_DEFAULTS, [sorted(wanted)]).fetchall())
    return {name: found.get(held.oid) if held.kind == BASE else PLAIN for name, held in columns.items()}
