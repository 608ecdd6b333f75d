"""Reading single tables of a snapshot, each behind a lock that lasts only as long as it is read (P19).

An application's TRUNCATE or ALTER TABLE never waits longer than for the part that is being read now;
that it came is found out by comparing the table with what the snapshot shows of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import psycopg
from psycopg import sql

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.catalog.tables import CatalogColumn
from connectors.postgres.copy.snapshot import begin_in
from connectors.postgres.copy.snapshot_tables import Observer, SnapshotTable, lock_table
from connectors.postgres.session import Session, wrapped
from schemas.identifiers import qualified

# A comparison takes as many processes as it was told to, and no more.
_SETTINGS = "set max_parallel_workers_per_gather = 0"


def lock_those_there(session: Session, tables: Sequence[TableName]) -> None:
    """Lock tables against DDL, with their partitions, until the session's transaction ends. It may have
    no snapshot yet. A table that is not there is left out."""
    for table in tables:
        with wrapped(f"locking {qualified(*table)}"):
            session.execute("savepoint locking")
            try:
                session.execute(sql.SQL("lock table {} in access share mode").format(sql.Identifier(*table)))
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                session.execute("rollback to locking")
            session.execute("release locking")  # no snapshot can be exported inside of one


class SnapshotReader:
    """One session that reads in a snapshot; one thread uses it. After an error from a server it can be
    used on, unless the session was lost. `snapshot` None: the session is in a transaction already,
    which keeps its locks."""

    def __init__(
        self, session: Session, snapshot: str | None, observer: Observer, tick: Callable[[], None]
    ) -> None:
        self._session = session
        self._snapshot = snapshot
        self._observer = observer
        self._tick = tick
        with wrapped("preparing a session that reads"):
            session.execute(_SETTINGS)

    @contextlib.contextmanager
    def reading(self, tables: Sequence[SnapshotTable]) -> Iterator[Session]:
        """The session, in the snapshot, with these tables locked and proven to be as it shows them.

        Raises TableChanged (`table-changed`), also at the end; `tick` may raise while a lock is waited for.
        """
        try:
            self._begin()
            for table in tables:
                lock_table(self._session, table, lambda *_: self._tick())
                self._observer.require_unchanged(table)
            yield self._session
            # what a name means can change without a lock on the table: its schema may be renamed
            for table in tables:
                self._observer.require_unchanged(table)
        finally:
            self._end()

    def _begin(self) -> None:
        if self._snapshot is not None:
            begin_in(self._session, self._snapshot)
        else:
            with wrapped("beginning to read in a snapshot"):
                self._session.execute("savepoint reading")

    def _end(self) -> None:
        if self._session.closed:
            return
        with contextlib.suppress(psycopg.Error):  # the next `_begin` fails if this did
            if self._snapshot is not None:
                self._session.rollback()
            else:
                self._session.execute("rollback to reading")


_COLUMNS = """
    select a.attrelid::bigint, a.attnum, a.attname, a.atttypid::bigint, a.atttypmod,
           format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
           null, a.atthasmissing, null, null, (
               with recursive below(oid, base) as (
                   select t.oid, t.typbasetype from pg_catalog.pg_type t where t.oid = a.atttypid
                   union all
                   select t.oid, t.typbasetype from below b join pg_catalog.pg_type t on t.oid = b.base
               ) select oid::bigint from below where base = 0
           )
      from pg_catalog.pg_attribute a
     where a.attrelid = any(%s::oid[]) and a.attnum > 0 and not a.attisdropped
     order by a.attrelid, a.attnum
"""


def columns_of(session: Session, tables: Sequence[SnapshotTable]) -> dict[int, tuple[CatalogColumn, ...]]:
    """The columns of these tables by OID, as the session's snapshot shows them, without their defaults and
    collations."""
    found: dict[int, list[CatalogColumn]] = {table.oid: [] for table in tables}
    with wrapped("reading the columns of tables"):
        for oid, *values in session.execute(_COLUMNS, [list(found)]):
            found[oid].append(CatalogColumn(*values))
    return {oid: tuple(columns) for oid, columns in found.items()}


_OTHERS = """
    select n.nspname, c.relname
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname <> 'information_schema'
       and n.nspname !~ '^pg_' and n.nspname <> 'keepstream'
       and not exists (select from pg_catalog.pg_depend d
                        where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid
                          and d.deptype = 'e')
     order by 1, 2
"""


def user_tables(session: Session) -> list[tuple[str, str]]:
    """Every table with rows of its own that is neither PostgreSQL's, an extension's nor Keepstream's."""
    with wrapped("listing the tables"):
        return [(schema, name) for schema, name in session.execute(_OTHERS)]
