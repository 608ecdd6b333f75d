"""A replica's table of whose columns the log has only those that the publication lists (decision 015).

It has all of them, as on the source, so that views, functions and schema changes fit. The others are NULL in
each row: what would refuse that, or fill them with values that the source's rows do not have, is taken off.
What the replica computes itself it goes on computing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from psycopg import sql

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.session import Session, wrapped
from schemas.identifiers import qualified

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
           a.attnotnull, t.typtype = 'd' and a.attgenerated = ''
      from pg_attribute a join pg_type t on t.oid = a.atttypid
     where a.attrelid = %s::oid and a.attnum > 0 and not a.attisdropped and a.attname <> all (%s)
     order by a.attnum
"""
NAMES_UNLISTED: Final = """
           exists (select from pg_attribute a
                    where a.attrelid = k.conrelid and a.attnum > 0 and not a.attisdropped
                      and (a.attnum = any (k.conkey) or k.conbin::text like '%%:varattno 0 %%')
                      and a.attname <> all (%s))
"""
"""Whether a constraint `k` names a column that is not listed, or the whole row."""
_CHECKS: Final = f"""
    select k.conname
      from pg_constraint k
     where k.conrelid = %s::oid and k.contype = 'c' and k.coninhcount = 0 and {NAMES_UNLISTED}
     order by k.conname
"""  # noqa: S608 - constants


def relax(session: Session, table: TableName, listed: Collection[str]) -> tuple[str, ...]:
    """In the session's open transaction. Returns the columns that hold nothing."""
    names = list(listed)
    found: tuple[str, ...] = ()
    with wrapped(f"letting columns of {qualified(*table)} be NULL"):
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
    with wrapped(f"reading the columns of {qualified(*table)}"):
        listed = [name for (name,) in session.execute(_LISTED, [*table, list(unlisted)]).fetchall()]
    relax(session, table, listed)


def relaxing_sql(session: Session, oid: int, table: TableName, listed: Collection[str]) -> str:
    """What `relax` does, as a script for a table that is made elsewhere as it is here."""
    names, place = list(listed), sql.Identifier(*table)
    with wrapped(f"reading what columns of {qualified(*table)} must hold"):
        columns = session.execute(_UNLISTED, [oid, names]).fetchall()
        changes = [*_of_columns(columns), *_of_checks(session, oid, names)]
    return "\n".join(sql.SQL("alter table {} {};").format(place, change).as_string() for change in changes)


def _of_columns(columns: Sequence[tuple[str, bool, bool, bool, bool, bool]]) -> Iterator[sql.Composed]:
    """A domain may have a default of its own, now or later, which fills columns that have none."""
    for column, _, is_identity, has_default, not_null, is_of_domain in columns:
        name = sql.Identifier(column)
        if is_identity:
            yield sql.SQL("alter column {} drop identity").format(name)
        if is_of_domain:
            yield sql.SQL("alter column {} set default null").format(name)
        elif has_default:
            yield sql.SQL("alter column {} drop default").format(name)
        if not_null:
            yield sql.SQL("alter column {} drop not null").format(name)


def _of_checks(session: Session, oid: int, names: list[str]) -> Iterator[sql.Composed]:
    for (name,) in session.execute(_CHECKS, [oid, names]).fetchall():
        yield sql.SQL("drop constraint if exists {}").format(sql.Identifier(name))
