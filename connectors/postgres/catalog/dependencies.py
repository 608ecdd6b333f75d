"""What a table needs beside itself: its schema, types, sequences, functions, collations, parents.

PostgreSQL names any object by a kind and lists of names (pg_identify_object_as_address) and finds it again by
them (pg_get_object_address), so that one database can be asked for what another one has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from connectors.postgres.session import Session, wrapped


@dataclass(frozen=True, slots=True)
class Dependency:
    """An object by its address; `shown` names it for people, as in `type public.mood`."""

    kind: str
    names: tuple[str, ...]
    arguments: tuple[str, ...]
    shown: str


# Objects with an OID below 16384 come with PostgreSQL. A partition does not need its parent, foreign keys are
# judged elsewhere, and what belongs to the table itself (`own`) comes with it.
_NEEDED: Final = """
    with own (classid, objid) as (
        select 'pg_class'::regclass::oid, %(table)s::oid
         union select 'pg_attrdef'::regclass, oid from pg_attrdef where adrelid = %(table)s::oid
         union select 'pg_constraint'::regclass, oid from pg_constraint
                where conrelid = %(table)s::oid and contype <> 'f'
         union select 'pg_class'::regclass, indexrelid from pg_index where indrelid = %(table)s::oid
         union select 'pg_trigger'::regclass, oid from pg_trigger
                where tgrelid = %(table)s::oid and not tgisinternal
         union select 'pg_class'::regclass, s.objid from pg_depend s
                where s.classid = 'pg_class'::regclass and s.refclassid = 'pg_class'::regclass
                  and s.refobjid = %(table)s::oid and s.deptype in ('a', 'i')
    )
    select distinct a.type, a.object_names, a.object_args, i.type || ' ' || i.identity
      from pg_depend d
      join own on own.classid = d.classid and own.objid = d.objid
     cross join lateral pg_identify_object_as_address(d.refclassid, d.refobjid, 0) a
     cross join lateral pg_identify_object(d.refclassid, d.refobjid, 0) i
     where d.refobjid >= 16384
       and d.refclassid not in ('pg_constraint'::regclass, 'pg_trigger'::regclass)
       and not exists (select from own mine where mine.classid = d.refclassid and mine.objid = d.refobjid)
       and not (d.refclassid = 'pg_class'::regclass and exists (
               select from pg_inherits h join pg_class c on c.oid = h.inhrelid
                where h.inhrelid = %(table)s::oid and h.inhparent = d.refobjid and c.relispartition))
       and not (d.refclassid = 'pg_class'::regclass and exists (
               select from pg_class x where x.oid = d.refobjid and x.relkind in ('i', 'I')))
     order by 4
"""


def read_dependencies(session: Session, table: int) -> tuple[Dependency, ...]:
    """What the table with this OID needs that does not come with PostgreSQL."""
    with wrapped("reading what a table needs"):
        rows = session.execute(_NEEDED, {"table": table}).fetchall()
    return tuple(Dependency(kind, tuple(names), tuple(args), shown) for kind, names, args, shown in rows)


def missing(session: Session, needed: Sequence[Dependency]) -> tuple[Dependency, ...]:
    """Those that this database does not have, and schemas in which this role may not make tables. The session
    must be in autocommit."""
    return tuple(each for each in needed if not _is_there(session, each))


def _is_there(session: Session, needed: Dependency) -> bool:
    with wrapped(f"looking for {needed.shown}"):
        try:
            session.execute(
                "select pg_get_object_address(%s, %s::text[], %s::text[])",
                [needed.kind, list(needed.names), list(needed.arguments)],
            )
            if needed.kind == "schema":
                usable = "select has_schema_privilege(%s, 'usage') and has_schema_privilege(%s, 'create')"
                return session.execute(usable, [needed.names[0]] * 2).fetchone() == (True,)
        except (psycopg.errors.UndefinedObject, psycopg.errors.UndefinedTable):
            return False
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            return False
    return True
