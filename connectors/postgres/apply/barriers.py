"""Changes that are more than one row: TRUNCATE, schema changes, and tables that join the stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, TypeVar, assert_never

import psycopg
from psycopg import sql

from connectors.postgres.apply import statements
from connectors.postgres.apply.added_column import add_column, require_values
from connectors.postgres.apply.catalog import TargetTable, identity_restarts, load_table
from connectors.postgres.apply.errors import ChangeRef, SourceRef, refusal
from connectors.postgres.apply.joined_keys import make_keys, without_inherited
from connectors.postgres.apply.joined_table import Place, Taken, join_refused, take_in
from connectors.postgres.apply.pipe import Pipe, Uncounted
from connectors.postgres.apply.plans import Plans
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.ddl import approvals, left_out
from connectors.postgres.ddl.approvals import Decision
from connectors.postgres.ddl.follow import ApprovalNeeded, SchemaFollower
from connectors.postgres.ddl.refill import refill
from connectors.postgres.ddl.rights_now import give_table
from connectors.postgres.replica import deferred
from connectors.postgres.replica.fitting import require_quiet
from connectors.postgres.session import Session, sql_error
from schemas.barrier import (
    IF_NEWER,
    DdlMessage,
    JoinKeysMessage,
    JoinMessage,
    JoinRowsMessage,
    UnknownMessage,
    barrier_of,
)
from schemas.change import Change, ColumnsAdded, Truncate
from schemas.ddl.message import ObjectChange, SchemaMessage, TableRows
from schemas.errors import InternalError, KeepstreamError, OperatorNeeded
from schemas.identifiers import qualified
from schemas.join import Join, JoinKeys
from schemas.table import TableSchema

Parsed = TypeVar("Parsed")

# Readers of the replica may hold a table longer than this; we then let go and try again, so that our waiting
# lock does not keep new readers out.
_LOCK_TIMEOUT: Final = b"set local lock_timeout = '10s'"
_NO_LOCK_TIMEOUT: Final = b"set local lock_timeout = 0"


class BarrierWriter:
    """Applies what is not a row inside the open target transaction, at its place among the rows."""

    def __init__(
        self,
        conn: Session,
        pipe: Pipe,
        plans: Plans,
        *,
        pipeline: str,
        replica: str,
        replica_role: bool,
        schema: SchemaFollower,
        make_way: Callable[[Collection[TableName]], None],
    ) -> None:
        self.decision: Decision | None = None
        self._schema = schema
        self._make_way = make_way
        self._conn = conn
        self._pipeline = pipeline
        self._replica_role = replica_role
        self._pipe = pipe
        self._plans = plans
        self._replica = replica
        self._joining: sql.Composed | None = None
        self._joined: TableName = ("", "")
        self._leaves_out_join = False
        self._place = Place(pipeline, replica, replica_role)
        self._taken = Taken(is_prepared=False, is_attached=False)

    def apply(self, source: SourceRef, ordinal: int, change: Change) -> None:
        """Apply a change that has a payload. Messages of others are nobody's business here."""
        barrier = barrier_of(change)
        match barrier:
            case None:
                return
            case Truncate():
                self._truncate(barrier, ChangeRef(source, ordinal, "truncate"))
            case ColumnsAdded():
                table = self._plans.table(change.table)
                ref = ChangeRef(source, ordinal, f"add column to {table.qualified_name}")
                self._add_columns(table, barrier, ref)
            case JoinMessage(content, empty):
                join = _understood(Join.from_json, content, ChangeRef(source, ordinal, "a table's joining"))
                joining = f"joining of {qualified(join.schema, join.table)}"
                self._join(join, ChangeRef(source, ordinal, joining), empty=empty)
            case JoinRowsMessage(content):
                self._copy_rows(content, ChangeRef(source, ordinal, "rows of a joining table"))
            case JoinKeysMessage(content):
                self._make_keys(content, ChangeRef(source, ordinal, "foreign keys of a joining table"))
            case DdlMessage(content):
                ref = ChangeRef(source, ordinal, "schema change")
                self._follow(_understood(SchemaMessage.from_json, content, ref), ref)
            case UnknownMessage():
                raise barrier.error(ChangeRef(source, ordinal, "message"))
            case _:
                assert_never(barrier)

    def _truncate(self, payload: Truncate, ref: ChangeRef) -> None:
        tables = [self._plans.table(table) for table in payload.tables]
        self._plans.meet(payload.tables)
        targets = [self._plans.target(table) for table in tables if not self._plans.takes_no_rows(table)]
        if not targets:
            return
        if self._plans.are_referred_to(targets):
            emptying = self._deleting(targets, ref, restart_identity=payload.restart_identity)
        else:
            emptying = [statements.truncate(targets, restart_identity=payload.restart_identity)]
        for statement in (_LOCK_TIMEOUT, *emptying, _NO_LOCK_TIMEOUT):
            self._pipe.run(statement, tag=Uncounted(ref))

    def _deleting(
        self, targets: Sequence[TargetTable], ref: ChangeRef, *, restart_identity: bool
    ) -> list[bytes]:
        """What empties them where a foreign key of another table makes PostgreSQL refuse TRUNCATE.

        If that key acted on our writes, ON DELETE CASCADE would empty the other table, too. So what acts is
        looked for anew, under a lock that lets nothing more of it be made.
        """
        with self._session(ref):
            with self._limited_waits():
                self._conn.execute(statements.lock_for_delete(targets))
            for target in targets:
                there = load_table(self._conn, target.schema, target.name, replica_role=self._replica_role)
                require_quiet(there, replica=self._replica, replica_role=self._replica_role)
            restarts = identity_restarts(self._conn, targets) if restart_identity else []
        return [*map(statements.delete_all, targets), *restarts]

    def _add_columns(self, table: TableSchema, payload: ColumnsAdded, ref: ChangeRef) -> None:
        if self._plans.is_left_out(table):
            return
        target = self._plans.target(table)
        with self._session(ref):
            name = self._altered(table)
            with self._limited_waits():
                for column in payload.columns:
                    if column.name in target.columns:
                        require_values(self._conn, target, column)
                    else:
                        add_column(self._conn, self._pipeline, name, column)
        self._plans.forget()

    def _altered(self, table: TableSchema) -> sql.Identifier:
        """The table that gets the column: of a partition it is the whole that it belongs to."""
        root = self._conn.execute(
            "select rn.nspname, r.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " join pg_class r on r.oid = pg_partition_root(c.oid)"
            " join pg_namespace rn on rn.oid = r.relnamespace"
            " where c.relispartition and n.nspname = %s and c.relname = %s",
            [table.schema, table.name],
        ).fetchone()
        return sql.Identifier(*(root or (table.schema, table.name)))

    def _follow(self, message: SchemaMessage, ref: ChangeRef) -> None:
        if message.error:
            raise InternalError(f"{ref}: the source could not describe it", code="ddl-undescribed")
        if message.rows is not None:
            self._refill(message.rows, ref)
        elif message.changes:
            self._make_way({table for change in message.changes for table in _tables_of(change)})
            with self._session(ref):
                with self._limited_waits():
                    self._schema.follow(message, self.decision)
                if self.decision is not None:
                    approvals.forget(self._conn, self._pipeline)
            self._plans.forget()

    def _refill(self, rows: TableRows, ref: ChangeRef) -> None:
        """The rows of a table that DDL rewrote: it was emptied with the change."""
        name, without = rows.holder, self._plans.left_out
        if name in without.tables:
            return
        with self._session(ref):
            if name not in without.awaiting:
                refill(self._conn, rows, set(without.columns_of(*name)), into=name)
            if rows.last:
                with self._limited_waits():
                    self._schema.filled()
        if rows.last:
            self._plans.forget()

    def _join(self, join: Join, ref: ChangeRef, *, empty: bool) -> None:
        """The table's definition; its rows follow in messages of their own, or come with a copy. One that the
        replica goes without stays away with all that follows."""
        self._leaves_out_join = (join.schema, join.table) in self._plans.left_out.tables
        if self._leaves_out_join:
            return
        version = self._plans.find_version(join.schema, join.table, join.columns)
        with self._session(ref, refused=join_refused), self._limited_waits():
            self._taken = take_in(self._conn, join, version, at=self._place)
            if not self._taken.is_prepared:
                give_table(self._conn, join.rights, self._schema.policies, replica=self._replica)
            self._note_rows(join, empty=empty)
        columns = sql.SQL(", ").join(map(sql.Identifier, join.columns))
        name = sql.Identifier(join.schema, join.table)
        self._joining = sql.SQL("copy {} ({}) from stdin").format(name, columns)
        self._plans.forget()

    def _note_rows(self, join: Join, *, empty: bool) -> None:
        """One that joins again may have awaited its copy before it left."""
        self._joined = name = (join.schema, join.table)
        deferred.take_back(self._conn, self._pipeline, deferred.JOINS_LATER, qualified(*name))
        if not empty:
            left_out.has_rows(self._conn, self._pipeline, name)
            return
        self._schema.await_copy(name)

    @contextlib.contextmanager
    def _limited_waits(self) -> Iterator[None]:
        self._conn.execute(_LOCK_TIMEOUT)
        yield
        self._conn.execute(_NO_LOCK_TIMEOUT)

    def _copy_rows(self, rows: bytes, ref: ChangeRef) -> None:
        if self._leaves_out_join:
            return
        if self._joining is None:
            raise InternalError(f"{ref}: rows came before their table", code="join-malformed")
        with self._session(ref), self._conn.cursor() as cursor, cursor.copy(self._joining) as copy:
            copy.write(rows)

    def _make_keys(self, content: bytes, ref: ChangeRef) -> None:
        """A table that others prepared keeps the keys that they gave it."""
        if self._leaves_out_join:
            return
        keys = _understood(JoinKeys.from_json, content, ref)
        if self._taken.is_prepared:
            keys = JoinKeys(awaited=keys.awaited)
        elif self._taken.is_attached:
            keys = without_inherited(keys)
        with self._session(ref), self._limited_waits():
            make_keys(
                self._conn,
                self._pipeline,
                keys,
                replica_role=self._replica_role,
                of=self._joined,
                awaiting=left_out.read(self._conn, self._pipeline).awaiting,
            )
        self._plans.forget()

    @contextlib.contextmanager
    def _session(
        self, ref: ChangeRef, *, refused: Callable[[psycopg.Error, str], KeepstreamError] = sql_error
    ) -> Iterator[None]:
        """The session outside of the pipeline, in the same transaction. `refused`: what an error means that
        says nothing of the replica's schema or contents."""
        with self._pipe.suspended():
            try:
                yield
            except ApprovalNeeded:
                raise
            except psycopg.Error as error:
                meaning = refusal(error, ref, str(ref), self._replica)
                if meaning.code == "sql-refused":
                    meaning = refused(error, str(ref))
                raise meaning from error
            except OperatorNeeded as error:
                raise OperatorNeeded(f"{ref}: {error.message}", code=error.code, hint=error.hint) from error


def _tables_of(change: ObjectChange) -> Iterator[TableName]:
    for state in (change.before, change.after):
        if state is not None and change.class_ == "table":
            yield state["schema"], state["name"]


def _understood(parse: Callable[[bytes], Parsed], content: bytes, ref: ChangeRef) -> Parsed:
    try:
        return parse(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InternalError(
            f"{ref}: its content is not understood ({type(error).__name__}: {error})",
            code="join-malformed",
            hint=IF_NEWER,
        ) from error
