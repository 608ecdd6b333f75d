"""What is in a database that people made, and clearing away what a killed copy made of it.

An object counts as made by people if it stands in a schema of theirs and belongs to no extension.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.run import CopyRun
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded

_PASSES: Final = 20
_BATCH: Final = 50  # a statement locks all that it drops: max_locks_per_transaction

# Everything in a schema depends on it. Indexes, constraints, row types and the like depend on their
# table only and go with it. What the bootstrap superuser (10) owns has no owner recorded.
_OBJECTS: Final = """
    select i.type, i.identity,
           coalesce(o.refobjid, 10) = (select oid from pg_catalog.pg_roles where rolname = current_user)
      from pg_catalog.pg_depend d
      left join pg_catalog.pg_shdepend o
        on o.classid = d.classid and o.objid = d.objid and o.objsubid = 0 and o.deptype = 'o'
       and o.dbid = (select oid from pg_catalog.pg_database where datname = current_database())
      join pg_catalog.pg_namespace n on n.oid = d.refobjid
     cross join lateral pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
     where d.refclassid = 'pg_catalog.pg_namespace'::regclass and d.deptype = 'n'
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
       and d.classid not in ('pg_catalog.pg_extension'::regclass, 'pg_catalog.pg_default_acl'::regclass)
       and i.type is not null
       and not exists (select from pg_catalog.pg_depend e
                        where e.classid = d.classid and e.objid = d.objid and e.deptype = 'e')
     order by case when i.type in ('view', 'materialized view') then 0 when i.type like '%table' then 1
                   else 2 end, i.identity
"""

_PARTITIONED: Final = """
    select n.nspname, c.relname
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'p'
"""

_DROP_AS: Final = {"statistics object": "statistics", "composite type": "type", "domain": "type"}


@dataclass(frozen=True, slots=True)
class UserObject:
    """`kind` and `identity` as pg_identify_object() gives them; the identity is quoted SQL. `ours`: our
    role owns it."""

    kind: str
    identity: str
    ours: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.identity}"


def user_objects(conn: Session) -> list[UserObject]:
    """All objects that people made in this database, except those in schema keepstream."""
    with wrapped("listing the replica's objects"):
        return [UserObject(*row) for row in conn.execute(_OBJECTS)]


def drop_leftovers(
    conn: Session, run: CopyRun, tick: Callable[[], None], *, given_away: Collection[tuple[str, str]] = ()
) -> None:
    """Drop every object, schema and extension that was not there when the copy began.

    The database was empty then, so this is what the copy made. `given_away`: kind and identity of objects of
    the source, which the copy may have given other owners. Raises OperatorNeeded (`leftovers-remain`) if some
    are not ours to drop.
    """
    for _ in range(_PASSES):
        objects = user_objects(conn)
        if not objects:
            return _drop_others(conn, run)
        # the database's owner could drop these, too
        foreign = [o for o in objects if not o.ours and (o.kind, o.identity) not in given_away]
        if foreign:
            raise _remaining(foreign, "were made by others")
        for start in range(0, len(objects), _BATCH):
            _drop(conn, objects[start : start + _BATCH])
            tick()
    raise _remaining(objects, "cannot be dropped")


def _remaining(objects: Sequence[UserObject], why: str) -> OperatorNeeded:
    return OperatorNeeded(
        f"the replica of an unfinished copy has {len(objects)} objects that {why}, among them {objects[0]}",
        code="leftovers-remain",
        hint="Drop them, or drop the database and create it anew.",
    )


def _drop(conn: Session, objects: Sequence[UserObject]) -> None:
    """Each on its own: what went with another by CASCADE is gone already, which is no error."""
    for found in objects:
        kind = _DROP_AS.get(found.kind, found.kind)
        with wrapped(f"dropping {found}"):
            try:
                conn.execute(f"drop {kind} if exists {found.identity} cascade".encode())
            except (psycopg.errors.DependentObjectsStillExist, psycopg.errors.UndefinedObject):
                continue  # the sequence of an identity column, say: the next pass finds it gone


def _drop_others(conn: Session, run: CopyRun) -> None:
    with wrapped("dropping the extensions and schemas of an unfinished copy"):
        extensions = conn.execute(
            "select extname from pg_catalog.pg_extension where extname <> all(%s)", [list(run.extensions)]
        ).fetchall()
        for (name,) in extensions:
            conn.execute(sql.SQL("drop extension if exists {} cascade").format(sql.Identifier(name)))
        schemas = conn.execute(
            """select nspname from pg_catalog.pg_namespace
                where nspname <> all(%s) and nspname !~ '^pg_' and nspname <> 'keepstream'""",
            [list(run.schemas)],
        ).fetchall()
        for (name,) in schemas:
            conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(name)))


def empty_tables(conn: Session, tables: Sequence[TableName], tick: Callable[[], None]) -> None:
    """Delete the rows that a killed copy brought into tables that were empty before it."""
    if not tables:
        return
    names = relations(conn, tables)
    with wrapped("emptying the replica's tables"):
        try:
            conn.execute(sql.SQL("truncate {}").format(sql.SQL(", ").join(names)))
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.InsufficientPrivilege):
            # a table outside the list refers to one of them, or they are not ours
            for name in names:
                conn.execute(sql.SQL("delete from {}").format(name))
                tick()


def filled_tables(conn: Session, tables: Sequence[TableName]) -> list[TableName]:
    """Those of the tables that hold a row."""
    filled = []
    names = relations(conn, tables)
    with wrapped("looking whether the replica's tables are empty"):
        for table, name in zip(tables, names, strict=True):
            ((found,),) = conn.execute(sql.SQL("select exists (select from {})").format(name)).fetchall()
            if found:
                filled.append(table)
    return filled


def relations(conn: Session, tables: Sequence[TableName]) -> list[sql.Composed]:
    """The tables as statements name them that are to reach their rows alone: ONLY keeps them from what
    inherits. The rows of a partitioned table are its partitions'."""
    with wrapped("listing the replica's partitioned tables"):
        partitioned = set(conn.execute(_PARTITIONED).fetchall())
    return [
        sql.SQL("{}" if table in partitioned else "only {}").format(sql.Identifier(*table))
        for table in tables
    ]
