"""New tables join by themselves, once they were checked (P11).

One source transaction locks the table, adds it to the publication, and emits its definition and rows
as logical messages (`schemas.join`), so that they stand in the log exactly where the table's changes
begin. Before it commits, an ANCHOR announces its xid: a capture that is killed in between finds the
publication changed by a transaction that it can prove to be ours.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.conninfo import make_conninfo

from connectors.failpoints import failpoint
from connectors.postgres import progress
from connectors.postgres import publication as publications
from connectors.postgres.catalog import Table, find_table, list_tables
from connectors.postgres.dependencies import Dependency, missing, read_dependencies
from connectors.postgres.pgtools import find_pgtools
from connectors.postgres.relation import published_tables
from connectors.postgres.session import Session, connect, wrapped
from connectors.postgres.shape import read_shapes
from connectors.postgres.tableddl import TableDdl, dump_table
from pipeline.capture.announcements import join_token
from pipeline.capture.history import check_published
from pipeline.capture.options import CaptureOptions
from pipeline.capture.packer import FramePacker
from pipeline.capture.shapes import shape_entry
from pipeline.capture.startup import OpenCapture
from pipeline.config import Keyless
from pipeline.reports import Endangered, NotReplicated
from pipeline.selection import UNDECIDED, TableName, select_tables
from schemas.errors import BEGIN_ANEW, KeepstreamError, RetryLater
from schemas.join import JOIN_PREFIX, JOIN_ROWS_PREFIX, Join
from schemas.table import TableSchema

logger = logging.getLogger("keepstream.capture")

ROWS_CHUNK_BYTES = 256 * 1024
JOIN_LIMIT_BYTES = 64 * 1024 * 1024
"""A table with more rows than this is not sent through the source's WAL by itself."""
ANNOUNCE_LIMIT_S = 5.0
"""How long the table may stay locked for the log's sake: an application's writes to it wait meanwhile."""

REPLICA_ANSWERS_S = 3
"""Capture stands still while a replica is asked what it has."""

_AGAIN = "tried again every ten seconds"
_WRITTEN_TO = f"it is being written to without a pause; {_AGAIN}"
_REASONS = {
    "lock-timeout": _WRITTEN_TO,
    "transaction-conflict": _WRITTEN_TO,
    "log-slow": f"the log did not answer while the table was locked; {_AGAIN}",
    "privilege-missing": "the source role may not add it to the publication: grant it the role that owns"
    " publication and table, as `keepstream init --grants` prints",
}


_STRANGERS = """
    select count(*)
      from pg_constraint k
      join pg_class c on c.oid = k.conrelid
      join pg_namespace n on n.oid = c.relnamespace
     where k.contype = 'f' and n.nspname = %s and c.relname = %s
       and not exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                        where p.pubname = %s and r.prrelid = k.confrelid)
"""


@dataclass(frozen=True, slots=True)
class Tables:
    """What a look saw of the source's tables. undecided: see StageReport."""

    not_replicated: tuple[NotReplicated, ...] = ()
    undecided: tuple[str, ...] = ()
    endangered: tuple[Endangered, ...] = ()


class Joins:
    """Looks for tables that should be replicated and are not yet in the publication."""

    def __init__(
        self,
        capture: OpenCapture,
        options: CaptureOptions,
        tell: Callable[[Tables], None],
    ) -> None:
        self._capture = capture
        self._options = options
        self._tell = tell
        self._left_out: dict[TableName, str] = {}
        self._endangered: tuple[Endangered, ...] = ()
        self._undecided = frozenset(table.qualified_name for table in capture.selection.undecided)

    def look(self, packer: FramePacker) -> tuple[TableSchema, ...]:
        """Join what can be joined now; returns the versions of the tables that did.

        Called between transactions. A table that cannot join is left out, with the reason in
        `not_replicated`; nothing that an application does fails because of it.
        """
        sql_session, options = self._capture.sql, self._options
        tables = list_tables(sql_session)
        selection = select_tables(tables, options.tables, options.keyless)
        published = publications.read_publication(sql_session, options.publication)
        listed = {(table.schema, table.name) for table in published.tables} if published else set()
        missing = {
            TableName(t.schema, t.name): t for t in selection.wanted if (t.schema, t.name) not in listed
        }
        self._protect([table for table in tables if (table.schema, table.name) in listed])
        published_names = {f"{schema}.{name}" for schema, name in listed}
        joined: list[TableSchema] = []
        for name, table in {} if packer.holds_transactions else missing.items():
            outcome = self._try_join(table, packer)
            if isinstance(outcome, TableSchema):
                self._left_out.pop(name, None)
                joined.append(outcome)
            else:
                self._leave_out(name, outcome)
        left_out = {t: r for t, r in self._left_out.items() if t in missing}
        undecided = tuple(
            t.qualified_name for t in selection.undecided if t.qualified_name not in published_names
        )
        self._warn_of(undecided)
        self._tell(
            Tables(
                tuple(each for each in selection.not_replicated if each.table not in published_names)
                + tuple(NotReplicated(table=str(table), reason=reason) for table, reason in left_out.items()),
                undecided,
                self._endangered,
            )
        )
        return tuple(joined)

    def _warn_of(self, undecided: tuple[str, ...]) -> None:
        for table in undecided:
            if table not in self._undecided:
                logger.warning("table left out", extra={"table": table, "reason": UNDECIDED})
        self._undecided = frozenset(undecided)

    def _protect(self, listed: list[Table]) -> None:
        """A published table that lost its key makes the application's UPDATE and DELETE fail: give it
        REPLICA IDENTITY FULL if we may, else say so, as long as it lasts."""
        endangered: list[Endangered] = []
        for table in listed:
            if table.identity_problem is None:
                continue
            if table.owned and table.full_problem is None and self._try_set_full(table):
                continue
            fix = publications.identity_remedy(table, self._options.publication)
            endangered.append(Endangered(table=table.qualified_name, seen=table.identity_problem, fix=fix))
        for each in endangered:
            if each not in self._endangered:
                logger.error(
                    "updates and deletes of a published table fail in the application",
                    extra={"table": each.table, "seen": each.seen, "fix": each.fix},
                )
        self._endangered = tuple(endangered)

    def _give_identity(self, table: Table) -> None:
        """In a transaction of its own: pg_dump must be able to read the table while it joins."""
        if table.identity_problem is not None and self._options.keyless is Keyless.FULL:
            self._set_full(table)

    def _try_set_full(self, table: Table) -> bool:
        try:
            self._set_full(table)
        except KeepstreamError as error:
            if error.code not in _REASONS:
                raise
            logger.warning(
                "replica identity not set yet", extra={"table": table.qualified_name, "code": error.code}
            )
            return False
        return True

    def _set_full(self, table: Table) -> None:
        session = self._capture.sql
        with wrapped(f"setting the replica identity of {table.qualified_name}"):
            session.execute("set lock_timeout = '1s'")
            try:
                statement = publications.full_identity_sql((table.schema, table.name))
                session.execute(statement.encode())
            finally:
                session.execute("set lock_timeout = 0")
        logger.warning("replica identity set to full", extra={"table": table.qualified_name})

    def _leave_out(self, table: TableName, reason: str) -> None:
        if self._left_out.get(table) != reason:
            logger.warning("table left out", extra={"table": str(table), "reason": reason})
        self._left_out[table] = reason

    def _try_join(self, table: Table, packer: FramePacker) -> TableSchema | str:
        """The version in which it joined, or why it did not."""
        purpose = f"{self._options.name}:join"
        try:
            self._give_identity(table)
            with (
                connect(self._options.source, purpose=purpose, autocommit=False) as session,
                wrapped(f"adding table {table.qualified_name} to the publication"),
            ):
                unfit = self._lacking(session, table) or self._lock(session, table)
                if unfit is not None:
                    return unfit
                version = self._join(session, table, packer)
        except KeepstreamError as error:
            if isinstance(error, RetryLater) and error.code not in _REASONS:
                raise
            return _REASONS.get(error.code) or f"{error.message} ({error.code})"
        self._adopt_identity()
        logger.info("table joined", extra={"table": table.qualified_name})
        return version

    def _lacking(self, session: Session, table: Table) -> str | None:
        """Which replica lacks what the table needs beside itself; None if it can be made on all of them."""
        needed = read_dependencies(session, table.oid)
        if not needed or self._options.trim is None:
            return None
        for name, reader in self._options.trim.replicas.items():
            try:
                lacking = self._lacks(reader.conninfo, needed)
            except KeepstreamError as error:
                return f"replica {name} did not say whether it has what it needs ({error.code}); {_AGAIN}"
            if lacking:
                shown = ", ".join(each.shown for each in lacking)
                return (
                    f"replica {name} lacks what it needs: {shown}. Make that there as on the source; {_AGAIN}"
                )
        return None

    def _lacks(self, conninfo: str, needed: tuple[Dependency, ...]) -> tuple[Dependency, ...]:
        soon = make_conninfo(conninfo, connect_timeout=REPLICA_ANSWERS_S)
        with connect(soon, purpose=f"{self._options.name}:join") as replica:
            if progress.read(replica, self._options.name) is None:
                return ()  # its first copy brings everything
            return missing(replica, needed)

    def _lock(self, session: Session, table: Table) -> str | None:
        """Keep writers out and check the table again, as it is now; why it cannot join, or None."""
        relation = sql.Identifier(table.schema, table.name)
        session.execute("set local lock_timeout = '1s'")
        session.execute(sql.SQL("lock table only {} in share row exclusive mode").format(relation))
        now = find_table(session, table.oid)
        if now is None or (now.schema, now.name) != (table.schema, table.name):
            return "it was renamed or dropped meanwhile"
        if now.identity_problem is not None:
            return now.identity_problem
        (size_bytes,) = _one(session, "select pg_table_size(%s::oid)", [table.oid])
        if size_bytes > JOIN_LIMIT_BYTES:
            limit = JOIN_LIMIT_BYTES >> 20
            return (
                f"it already holds {size_bytes >> 20} MiB, more than the {limit} MiB that can join by itself:"
                f" to copy it, {BEGIN_ANEW}"
            )
        return None

    def _join(self, session: Session, table: Table, packer: FramePacker) -> TableSchema:
        name = TableName(table.schema, table.name)
        (xid,) = _one(session, "select pg_current_xact_id()::text::bigint", [])
        dumped = self._dump(name)
        publications.add_tables(session, self._options.publication, [name])
        (version,) = (
            found
            for found in published_tables(session, self._options.publication)
            if (found.schema, found.name) == (name.schema, name.name)
        )
        self._emit(session, name, dumped)
        failpoint("capture.before_join_announced")
        token = join_token(xid & 0xFFFFFFFF)
        shapes = read_shapes(session, self._options.publication, oid=table.oid)
        self._announce((token, *map(shape_entry, shapes)), version, packer)
        session.commit()
        failpoint("capture.after_join_committed")
        return version

    def _dump(self, table: TableName) -> TableDdl:
        major = self._capture.sql.info.server_version // 10000
        tools = find_pgtools(major, configured=self._options.pg_bin)
        return dump_table(
            tools, self._options.source, schema=table.schema, table=table.name, stop=threading.Event()
        )

    def _emit(self, session: Session, table: TableName, dumped: TableDdl) -> None:
        columns = _copied_columns(session, table)
        ddl = tuple(script for script in (dumped.before, dumped.after) if script)
        keys = (dumped.foreign_keys,) if dumped.foreign_keys and self._keys_resolve(session, table) else ()
        parent = _parent(session, table)
        attach = (dumped.attach,) if parent and dumped.attach else ()
        join = Join(table.schema, table.name, columns, ddl, keys, parent, attach)
        _message(session, JOIN_PREFIX, join.to_json())
        for chunk in _rows(session, table, columns):
            _message(session, JOIN_ROWS_PREFIX, chunk)

    def _keys_resolve(self, session: Session, table: TableName) -> bool:
        """Whether replicas have the rows of every table that this one's foreign keys name."""
        (strangers,) = _one(session, _STRANGERS, [table.schema, table.name, self._options.publication])
        return bool(strangers == 0)

    def _announce(self, entries: tuple[str, ...], version: TableSchema, packer: FramePacker) -> None:
        """P11: the ANCHOR that names our transaction is durable before that commits. It holds the
        table's version, too: a capture that continues must notice what is added to it later (P6)."""
        chain = self._capture.chain
        chain.publication_is(chain.publication + entries)
        chain.anchor((*packer.live_tables, version))
        deadline = time.monotonic() + ANNOUNCE_LIMIT_S
        while not chain.all_durable:
            if time.monotonic() > deadline:
                raise RetryLater("the log is too slow", code="log-slow")
            chain.settle(0.1)

    def _adopt_identity(self) -> None:
        """P11: what nobody else changed meanwhile is the publication from now on."""
        chain = self._capture.chain
        current = check_published(self._capture.sql, self._options.publication, chain.publication)
        chain.publication_is(current)


def _one(session: Session, query: str, values: list[Any]) -> tuple[Any, ...]:
    row = session.execute(query, values).fetchone()
    assert row is not None
    return row


def _message(session: Session, prefix: str, content: bytes) -> None:
    session.execute("select pg_logical_emit_message(true, %s::text, %s::bytea)", [prefix, content])


def _parent(session: Session, table: TableName) -> tuple[str, ...]:
    """(schema, name) of the table that it is a partition of; () if it is none."""
    query = (
        "select pn.nspname, p.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " join pg_namespace n on n.oid = c.relnamespace join pg_class p on p.oid = i.inhparent"
        " join pg_namespace pn on pn.oid = p.relnamespace"
        " where c.relispartition and n.nspname = %s and c.relname = %s"
    )
    return session.execute(query, [table.schema, table.name]).fetchone() or ()


def _copied_columns(session: Session, table: TableName) -> tuple[str, ...]:
    rows = session.execute(
        "select a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = %s and a.attnum > 0 and not a.attisdropped"
        " and a.attgenerated = '' order by a.attnum",
        [table.schema, table.name],
    ).fetchall()
    return tuple(row[0] for row in rows)


def _rows(session: Session, table: TableName, columns: tuple[str, ...]) -> Iterator[bytes]:
    """The table's rows in COPY's text form, whole lines, about ROWS_CHUNK_BYTES a piece.

    Reads on the session's own connection, so pieces are collected before they are emitted; the
    table's size was limited before.
    """
    query = sql.SQL("copy (select {} from only {}) to stdout").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table.schema, table.name)
    )
    pieces: list[bytes] = []
    lines: list[bytes] = []
    size_bytes = 0
    with session.cursor() as cursor, cursor.copy(query) as copy:
        for line in copy:
            lines.append(bytes(line))
            size_bytes += len(line)
            if size_bytes >= ROWS_CHUNK_BYTES:
                pieces.append(b"".join(lines))
                lines, size_bytes = [], 0
    if lines:
        pieces.append(b"".join(lines))
    yield from pieces
