"""What a table is that is to join, and that every replica can take it in: found out while the stream goes on.

pg_dump and the replicas take their time, and one that is cut off takes seconds. So all of it happens in the
background, for one table after another: two rehearsals on one replica could wait for each other. Nothing of
it is a promise: `joining` proves under the table's lock that the definition is still the same.
"""

from __future__ import annotations

import threading
from collections.abc import Container
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass

from connectors.postgres.catalog.dependencies import read_dependencies
from connectors.postgres.catalog.tableddl import TableDdl, definition_version, dump_table
from connectors.postgres.catalog.tablerows import copied_columns
from connectors.postgres.catalog.tables import Table, TableKind
from connectors.postgres.copy.snapshot import export_of
from connectors.postgres.ddl.rights_now import table_rights
from connectors.postgres.limits.dumped import NOTHING, Untold, read_untold
from connectors.postgres.limits.keys import unmaking_sql
from connectors.postgres.limits.relaxing import relaxing_sql
from connectors.postgres.limits.sent import sent_columns, sent_versions
from connectors.postgres.pgtools import find_pgtools
from connectors.postgres.session import Session, wrapped
from pipeline.background import in_background
from pipeline.capture.joins.ownsession import begin
from pipeline.capture.joins.replicas import Replicas
from pipeline.capture.options import CaptureOptions
from schemas.join import Join

_PARENT = """
    select pn.nspname, p.relname
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
      join pg_namespace n on n.oid = c.relnamespace
      join pg_class p on p.oid = i.inhparent
      join pg_namespace pn on pn.oid = p.relnamespace
     where c.relispartition and n.nspname = %s and c.relname = %s
"""


class NotNow(Exception):
    """The table cannot join as it is; the text says why."""


@dataclass(frozen=True, slots=True)
class Definition:
    """As one snapshot showed it. `version`: `definition_version`'s."""

    version: str
    join: Join


class Definitions:
    """Of one capture's tables that are to join."""

    def __init__(self, options: CaptureOptions) -> None:
        self._options = options
        self._replicas = Replicas(options)
        self._reading: tuple[int, Future[Definition]] | None = None

    @property
    def has_news(self) -> bool:
        """Whether what was begun is done."""
        return self._reading is not None and self._reading[1].done()

    @property
    def is_busy(self) -> bool:
        """Whether one was begun and not taken yet."""
        return self._reading is not None

    def is_reading(self, table: Table) -> bool:
        """Whether that is this table's. Then it must be taken: others wait for that."""
        return self._reading is not None and self._reading[0] == table.oid

    def take(self, table: Table) -> Definition | None:
        """None while it is being read, which begins here; ask again. Raises NotNow, and what pg_dump and
        sessions raise."""
        if self._reading is None:
            read = in_background(lambda: _read(self._options, table, self._replicas), name="definition")
            self._reading = table.oid, read
        _, reading = self._reading
        if not reading.done():
            return None
        self._reading = None
        return reading.result()

    def forget_all_but(self, tables: Container[int]) -> None:
        """`tables`: OIDs."""
        if self.has_news and self._reading is not None and self._reading[0] not in tables:
            self._reading = None


def _read(options: CaptureOptions, table: Table, replicas: Replicas) -> Definition:
    with (
        wrapped(f"reading the definition of table {table.qualified_name}"),
        closing(begin(options, isolation="repeatable read, read only")) as session,
    ):
        session.execute("set local idle_in_transaction_session_timeout = 0")  # it holds no lock
        version = definition_version(session, table.oid)
        _require_none(replicas.lacking(table, read_dependencies(session, table.oid)))
        limit = options.tables.limit_of(table.schema, table.name)
        listed = limit.columns if limit is not None else None
        lists = {} if listed is None else {(table.schema, table.name): listed}
        untold = NOTHING if listed is None else read_untold(session, table.oid, listed)
        join = _describe(session, table, _dump(options, session, table, untold), listed)
        (described,) = sent_versions(session, [table.oid], lists) or (None,)
        columns = sent_columns(session, [table.oid], lists)
    if described is None:
        raise NotNow("it has no columns")
    _require_none(replicas.refusing(join, described, columns[described.schema, described.name]))
    return Definition(version, join)


def _dump(options: CaptureOptions, session: Session, table: Table, untold: Untold) -> TableDdl:
    return dump_table(
        find_pgtools(
            session.info.server_version // 10000, connections=[options.source], configured=options.pg_bin
        ),
        options.source,
        schema=table.schema,
        table=table.name,
        snapshot=export_of(session),
        stop=threading.Event(),
        untold=untold,
    )


def _require_none(reason: str | None) -> None:
    if reason is not None:
        raise NotNow(reason)


def _describe(session: Session, table: Table, dumped: TableDdl, listed: tuple[str, ...] | None) -> Join:
    name = (table.schema, table.name)
    columns = copied_columns(session, name)
    relaxing = "" if listed is None else relaxing_sql(session, table.oid, name, listed)
    unmaking = "" if listed is None else unmaking_sql(session, table.oid, name, listed)
    ddl = tuple(script for script in (dumped.before, relaxing, dumped.after, unmaking) if script)
    parent = session.execute(_PARENT, name).fetchone() or ()
    attach = (dumped.attach,) if parent and dumped.attach else ()
    if table.kind is TableKind.PARTITIONED:
        ddl = _unpartitioned(session, table, ddl)
    sent = columns if listed is None else tuple(column for column in columns if column in listed)
    return Join(*name, sent, ddl, parent, attach, table_rights(session, table.oid))


def _unpartitioned(session: Session, table: Table, ddl: tuple[str, ...]) -> tuple[str, ...]:
    """A replica that has no such table makes a plain one: its partitions are no matter of the stream's."""
    (key,) = session.execute("select pg_get_partkeydef(%s::oid)", [table.oid]).fetchone() or ("",)
    clause = f"\nPARTITION BY {key};"
    if not ddl or clause not in ddl[0]:
        raise NotNow("its definition is none that we know how to make a plain table of")
    return (ddl[0].replace(clause, ";", 1), *ddl[1:])
