"""The publication: what belongs to it, how it is made, and its identity, which is part of the history (P11).

It lists its tables, never FOR ALL TABLES: an UPDATE on a published table without usable replica
identity would fail in the application. Partitions are listed one by one under their own names, their
parents are not; or, with publish_via_partition_root, the tables at the top alone, and the rows of all
partitions come under their names (docs/decisions/016). Creating and changing it takes the tables' owner;
everything else any role can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from connectors.postgres.catalog.tables import Table
from connectors.postgres.limits.limit import Limit, Limits
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded, RetryLater
from schemas.identifiers import qualified

TableName = tuple[str, str]
"""Schema and name, as they are, not quoted."""

_OPTIONS: Final = "publish = 'insert, update, delete, truncate', publish_via_partition_root = {}"
_FROM_18_ON: Final = "publish_generated_columns = stored"
"""Else an UPDATE of a table with REPLICA IDENTITY FULL fails once a generated column is added."""
POSTGRESQL_18: Final = 180000
NO_LIMITS: Final[Limits] = {}
_ALL_VERBS: Final = frozenset({"insert", "update", "delete", "truncate"})
_REFUSED: Final = (psycopg.ProgrammingError, psycopg.NotSupportedError)


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table that the publication lists. `columns`: its column list; None: all. `is_filtered`: it has a row
    filter. `root`: of a partition, the table at the top; else None."""

    oid: int
    schema: str
    name: str
    columns: tuple[str, ...] | None
    is_filtered: bool
    partitioned: bool = False
    root: TableName | None = None

    @property
    def table_name(self) -> TableName:
        return self.schema, self.name

    @property
    def qualified_name(self) -> str:
        """For messages; not SQL."""
        return qualified(*self.table_name)


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication as it stands. `published`: of insert, update, delete, truncate, those it sends.
    `schemas`: those it takes whole."""

    oid: int
    name: str
    owner: str
    all_tables: bool
    via_partition_root: bool
    published: frozenset[str]
    schemas: tuple[str, ...]
    tables: tuple[PublishedTable, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Why no log can follow it, whoever made it."""
        return tuple(_problems(self))

    def lacks(self, tables: Iterable[Table]) -> list[Table]:
        """Those that it does not publish."""
        if self.all_tables:
            return []
        listed = {table.oid for table in self.tables}
        return [table for table in tables if table.oid not in listed and table.schema not in self.schemas]


def _problems(publication: Publication) -> Iterator[str]:
    if publication.all_tables:
        yield "is FOR ALL TABLES, which lets writes to tables without a key fail"
    if publication.schemas:
        yield f"takes whole schemas: {', '.join(publication.schemas)}"
    unsent = sorted(_ALL_VERBS - publication.published)
    if unsent:
        yield f"does not publish {', '.join(unsent)}"
    limited = [table for table in publication.tables if table.columns is not None or table.is_filtered]
    wholes = {table.table_name for table in publication.tables if table.partitioned}
    names = [table.qualified_name for table in limited if wholes & {table.table_name, table.root}]
    if names:
        yield f"sends some columns or rows only of what it publishes as a whole: {', '.join(names)}"


_PUBLICATION: Final = """
    select p.oid::bigint, p.pubname, pg_get_userbyid(p.pubowner), p.puballtables, p.pubviaroot,
           array(select verb from (values ('insert', pubinsert), ('update', pubupdate), ('delete', pubdelete),
                                          ('truncate', pubtruncate)) as sent(verb, is_sent) where is_sent)
      from pg_publication p
     where p.pubname = %s
"""
_SCHEMAS: Final = """
    select n.nspname
      from pg_publication_namespace pn
      join pg_namespace n on n.oid = pn.pnnspid
     where pn.pnpubid = %s
     order by n.nspname
"""
_TABLES: Final = """
    select c.oid::bigint, n.nspname, c.relname,
           (select array_agg(a.attname::text order by a.attnum)
              from pg_attribute a
             where a.attrelid = c.oid and pr.prattrs is not null and a.attnum = any (pr.prattrs::int2[])),
           pr.prqual is not null, c.relkind = 'p',
           (select array[rn.nspname, r.relname]::text[]
              from pg_class r join pg_namespace rn on rn.oid = r.relnamespace
             where c.relispartition and r.oid = pg_partition_root(c.oid))
      from pg_publication_rel pr
      join pg_class c on c.oid = pr.prrelid
      join pg_namespace n on n.oid = c.relnamespace
     where pr.prpubid = %s
     order by n.nspname, c.relname
"""


def read_publication(session: Session, name: str) -> Publication | None:
    """The publication `name` of the session's database; None if there is none."""
    with wrapped(f"reading publication {name}"):
        row = session.execute(_PUBLICATION, [name]).fetchone()
        if row is None:
            return None
        schemas = session.execute(_SCHEMAS, [row[0]]).fetchall()
        tables = session.execute(_TABLES, [row[0]]).fetchall()
    values: tuple[Any, ...] = (
        *row[:5],
        frozenset(row[5]),
        tuple(schema for (schema,) in schemas),
        tuple(_published_table(*table) for table in tables),
    )
    return Publication(*values)


def is_via_root(session: Session, name: str) -> bool:
    """Whether it is there, and sends rows of partitions under the name of the table at the top."""
    found = read_publication(session, name)
    return found is not None and found.via_partition_root


def _published_table(
    oid: int, schema: str, name: str, columns: Any, is_filtered: bool, partitioned: bool, root: Any
) -> PublishedTable:
    listed, top = (None if names is None else tuple(names) for names in (columns, root))
    return PublishedTable(oid, schema, name, listed, is_filtered, partitioned, top)


_FILTERS: Final = """
    select n.nspname, c.relname, pg_get_expr(pr.prqual, pr.prrelid)
      from pg_publication p
      join pg_publication_rel pr on pr.prpubid = p.oid
      join pg_class c on c.oid = pr.prrelid
      join pg_namespace n on n.oid = c.relnamespace
     where p.pubname = %s and pr.prqual is not null
"""


def read_row_filters(session: Session, name: str) -> dict[TableName, str]:
    """The row filters, as SQL, of those tables that have one. Waits for whoever has one of them locked."""
    with wrapped(f"reading the row filters of publication {name}"):
        return {(schema, table): text for schema, table, text in session.execute(_FILTERS, [name])}


WRITERS_WAIT_MS: Final = 150
"""For as long as we wait for a lock that keeps writers out, they wait behind us."""

_IDENTITY: Final = """
    with publication as (select oid, xmin from pg_publication where pubname = %(name)s)
    select 'pg_publication' as catalog, oid, xmin::text from publication
    union all
    select 'pg_publication_rel', oid, xmin::text
      from pg_publication_rel where prpubid in (select oid from publication)
    union all
    select 'pg_publication_namespace', oid, xmin::text
      from pg_publication_namespace where pnpubid in (select oid from publication)
"""


_TABLE_IDENTITY: Final = """
    select 'pg_publication_rel', r.oid, r.xmin::text
      from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
     where p.pubname = %s and r.prrelid = %s::oid
"""


def publication_identity(session: Session, name: str) -> tuple[str, ...]:
    """`catalog:oid:xmin` of every catalog row that makes the publication up, sorted; () if there is none.

    Any CREATE, ALTER or DROP PUBLICATION changes it, and so does the drop of a listed table. Dump, VACUUM
    FULL and crash recovery do not. A row whose xmin is our own transaction's is one that we made.
    """
    with wrapped(f"reading the identity of publication {name}"):
        rows = session.execute(_IDENTITY, {"name": name}).fetchall()
    return tuple(sorted(f"{catalog}:{oid}:{xmin}" for catalog, oid, xmin in rows))


_LISTED: Final = """
    select r.prrelid::bigint, n.nspname, c.relname, concat_ws(':', 'pg_publication_rel', r.oid, r.xmin)
      from pg_publication_rel r
      join pg_publication p on p.oid = r.prpubid
      join pg_class c on c.oid = r.prrelid
      join pg_namespace n on n.oid = c.relnamespace
     where p.pubname = %s
"""


@dataclass(frozen=True, slots=True)
class ListedTable:
    """`entry`: what `publication_identity` has of it."""

    oid: int
    schema: str
    name: str
    entry: str


def listed_tables(session: Session, name: str) -> tuple[ListedTable, ...]:
    """Those that the publication lists."""
    with wrapped(f"reading the tables of publication {name}"):
        return tuple(ListedTable(*row) for row in session.execute(_LISTED, [name]))


def existing_tables(session: Session, oids: Iterable[int]) -> frozenset[int]:
    """Those of these that are there."""
    query = "select oid::bigint from pg_class where oid = any (%s::oid[]) and relkind in ('r', 'p')"
    with wrapped("looking for tables"):
        return frozenset(oid for (oid,) in session.execute(query, [list(oids)]))


def table_entry(session: Session, name: str, oid: int) -> str | None:
    """What `publication_identity` has of one table; None if the publication does not list it."""
    with wrapped(f"reading the identity of publication {name}"):
        row = session.execute(_TABLE_IDENTITY, [name, oid]).fetchone()
    return None if row is None else "{}:{}:{}".format(*row)


def create_publication_sql(
    name: str,
    tables: Sequence[TableName],
    *,
    server_version: int,
    by_root: bool = False,
    limits: Limits = NO_LIMITS,
) -> str:
    """The statement that makes the publication; it wants the tables' owner and CREATE on the database.

    ONLY: a child that is created later must not join unchecked. server_version: as 180000. by_root: rows of
    partitions come under the name of the table at the top.
    """
    listed = sql.SQL("for table {} ").format(_listed(tables, limits)) if tables else sql.SQL("")
    options = _OPTIONS.format("true" if by_root else "false")
    options += f", {_FROM_18_ON}" if server_version >= POSTGRESQL_18 else ""
    statement = sql.SQL("create publication {} {}with ({})")
    return statement.format(sql.Identifier(name), listed, sql.SQL(options)).as_string()


def create_publication(
    session: Session,
    name: str,
    tables: Sequence[TableName],
    *,
    by_root: bool = False,
    limits: Limits = NO_LIMITS,
) -> None:
    """Make it. Raises RetryLater (`publication-exists`), OperatorNeeded (`privilege-missing`, and
    `limit-refused` where PostgreSQL takes a list or filter not)."""
    statement = create_publication_sql(
        name, tables, server_version=session.info.server_version, by_root=by_root, limits=limits
    )
    with wrapped(f"creating publication {name}"):
        try:
            session.execute(statement.encode())
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation) as exc:
            message = f"publication {name} has just been made by another one"
            raise RetryLater(message, code="publication-exists") from exc
        except _REFUSED as exc:
            _refuse_limits(exc, tables, limits)
            raise


def add_tables_sql(name: str, tables: Sequence[TableName], limits: Limits = NO_LIMITS) -> str:
    """ALTER PUBLICATION … ADD TABLE for at least one table."""
    statement = sql.SQL("alter publication {} add table {}")
    return statement.format(sql.Identifier(name), _listed(tables, limits)).as_string()


def add_tables(session: Session, name: str, tables: Sequence[TableName], limits: Limits = NO_LIMITS) -> None:
    """Let tables join, in the session's transaction if one is open. Waits for their locks: set
    lock_timeout before. Rows that were written before the commit are not in the stream. Raises OperatorNeeded
    (`limit-refused`) as `create_publication`."""
    with wrapped(f"adding tables to publication {name}"):
        try:
            session.execute(add_tables_sql(name, tables, limits).encode())
        except _REFUSED as exc:
            _refuse_limits(exc, tables, limits)
            raise


def _refuse_limits(exc: psycopg.Error, tables: Sequence[TableName], limits: Limits) -> None:
    named = [qualified(*table) for table in tables if table in limits]
    if named and not isinstance(exc, psycopg.errors.InsufficientPrivilege):
        raise OperatorNeeded(
            f"PostgreSQL refuses what source.tables.limits says of {', '.join(named)}:"
            f" {exc.diag.message_primary or type(exc).__name__}",
            code="limit-refused",
            hint=f"Mend it in keepstream.yaml. {exc.diag.message_detail or ''}".strip(),
        ) from exc


def give_publication_sql(name: str, owner: str | None) -> str:
    """ALTER PUBLICATION … OWNER TO; None: to one who is still to be chosen."""
    statement = sql.SQL("alter publication {} owner to {}")
    role = sql.SQL("NEW_OWNER") if owner is None else sql.Identifier(owner)
    return statement.format(sql.Identifier(name), role).as_string()


def drop_table_sql(name: str, *tables: TableName) -> str:
    """ALTER PUBLICATION … DROP TABLE, for at least one table."""
    statement = sql.SQL("alter publication {} drop table {}").format(sql.Identifier(name), _only(tables))
    return statement.as_string()


def drop_table(session: Session, name: str, table: TableName) -> None:
    """Take a table out. Rows that are written after the commit are not in the stream."""
    _run(session, drop_table_sql(name, table), f"taking {qualified(*table)} out of publication {name}")


def by_root_sql(name: str) -> str:
    """ALTER PUBLICATION … SET, after which rows of partitions come under the name of the table at the top."""
    statement = sql.SQL("alter publication {} set (publish_via_partition_root = true)")
    return statement.format(sql.Identifier(name)).as_string()


def whole_sql(name: str, whole: TableName, partitions: Sequence[TableName]) -> str:
    """SQL that lets a partitioned table be published as a whole, instead of these partitions of it."""
    statements = (drop_table_sql(name, *partitions), add_tables_sql(name, [whole]), by_root_sql(name))
    return "\n".join(f"{statement};" for statement in statements)


def drop_publication(session: Session, name: str) -> None:
    """Drop it, if it is there."""
    statement = sql.SQL("drop publication if exists {}").format(sql.Identifier(name))
    _run(session, statement.as_string(), f"dropping publication {name}")


def _listed(tables: Iterable[TableName], limits: Limits) -> sql.Composed:
    return sql.SQL(", ").join(_only([table]) + _limited(limits.get(table, Limit())) for table in tables)


def limit_sql(limit: Limit) -> str:
    """What stands behind the table's name: its columns, and WHERE."""
    return _limited(limit).as_string()


def _limited(limit: Limit) -> sql.Composed:
    columns = sql.SQL(", ").join(map(sql.Identifier, limit.columns or ()))
    listed = sql.SQL(" ({})").format(columns) if limit.columns else sql.Composed([])
    where = sql.SQL(" where ({})").format(sql.SQL(limit.where)) if limit.where else sql.Composed([])
    return listed + where


def _only(tables: Iterable[TableName]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("only {}").format(sql.Identifier(*table)) for table in tables)


def _run(session: Session, statement: str, doing: str) -> None:
    with wrapped(doing):
        session.execute(statement.encode())
