"""Prepared statements for changes: found by kind of change, made when a kind comes for the first time."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from connectors.postgres.apply import statements
from connectors.postgres.apply.catalog import TargetTable, are_referred_to, load_table, load_tables
from connectors.postgres.apply.keychecks import KeyCheck, key_checks
from connectors.postgres.apply.pipe import Pipe
from connectors.postgres.apply.set_plans import SetPlan, make_plan
from connectors.postgres.apply.statements import Bind, Old, Statement
from connectors.postgres.binary.binding import LargeForm, large_form
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.ddl import left_out
from connectors.postgres.ddl.left_out import LeftOut
from connectors.postgres.replica import deferred
from connectors.postgres.replica.fitting import require_fit, require_quiet, unfilled
from connectors.postgres.replica.progress import audit
from connectors.postgres.session import Session
from schemas.avro import key_decoder, row_decoder
from schemas.change import Change, Operation
from schemas.ddl.kinds import Kind
from schemas.errors import InternalError
from schemas.identifiers import qualified
from schemas.rowform import RowDecoder
from schemas.table import TableSchema

logger = logging.getLogger("keepstream.apply")

OLDER_ROWS: Final = (
    "keep what they have in it; `keepstream snapshot`, or `verify --repair`, gives them the source's values"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to send one kind of change: decode, bind, execute `name`. `large`: the same of a large one."""

    name: bytes
    statement: Statement
    bind: Bind
    decode_row: RowDecoder
    decode_old: RowDecoder
    checks: tuple[KeyCheck, ...]
    large: LargeForm


class Plans:
    """The plans of one session. `tables` are the log's table versions and may grow."""

    def __init__(
        self,
        conn: Session,
        pipe: Pipe,
        tables: Mapping[bytes, TableSchema],
        *,
        pipeline: str,
        replica: str,
        replica_role: bool,
    ) -> None:
        self._conn = conn
        self._pipeline = pipeline
        self._pipe = pipe
        self._tables = tables
        self._replica = replica
        self._replica_role = replica_role
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._met: set[bytes] = set()
        self._described: dict[TableName, TargetTable] = {}
        self._targets: dict[TableName, TargetTable] = {}
        self._set_plans: dict[bytes, SetPlan | None] = {}
        self._fit: set[tuple[bytes, bool]] = set()
        self._referred_to: dict[tuple[tuple[str, str], ...], bool] = {}
        self._left_out: LeftOut | None = None

    def find(self, change: Change) -> Plan | None:
        """The plan for an INSERT, UPDATE or DELETE; None: the replica goes without that table's rows.

        Raises OperatorNeeded (`replica-schema`,
        `replica-triggers`, `replica-row-security`, `identity-missing`), InternalError (`table-unknown`)."""
        kind = (
            change.table,
            change.operation,
            change.absent,
            change.old_key is None,
            change.old_row is None,
        )
        return self._plans.get(kind) or self._make(kind, change)

    def set_plan(self, table_id: bytes) -> SetPlan | None:
        """How to write many changes of that table version at once; None: only one by one."""
        if table_id not in self._set_plans:
            table = self.table(table_id)
            if self.takes_no_rows(table):
                self._set_plans[table_id] = None
                return None
            target = self._fitting(table, inserting=False)
            insists = any(unfilled(table, target))  # an INSERT on its own says so
            self._set_plans[table_id] = None if insists else make_plan(table, target)
        return self._set_plans[table_id]

    def knows_set_plan(self, table_id: bytes) -> bool:
        """Whether `set_plan` answers without asking the replica."""
        return table_id in self._set_plans

    def table(self, table_id: bytes) -> TableSchema:
        """A table version of the log."""
        table = self._tables.get(table_id)
        if table is None:
            raise InternalError(
                f"the log uses table version {table_id.hex()} without having described it",
                code="table-unknown",
                hint="Start again: the reader then begins at an anchor. If it comes back, report a bug.",
            )
        return table

    def find_version(self, schema: str, name: str, columns: tuple[str, ...]) -> TableSchema | None:
        """The log's newest version of that table with just these columns; None if there is none yet."""
        for table in reversed(tuple(self._tables.values())):
            if (table.schema, table.name) == (schema, name) and table.column_names == columns:
                return table
        return None

    @property
    def left_out(self) -> LeftOut:
        """What this replica goes without; looked up once, too, and columns that were made meanwhile are taken
        up at once: rows may be found by them."""
        if self._left_out is None:
            self._left_out = self._read_left_out()
            if self._left_out.columns and self._take_up_columns():
                self._left_out = self._read_left_out()
        return self._left_out

    def _read_left_out(self) -> LeftOut:
        with self._pipe.suspended():
            return left_out.read(self._conn, self._pipeline)

    def take_up(self) -> None:
        """Columns that the replica went without, and that an operator has made since, are its own from this
        transaction on; so are the rows of a table that was copied. Who goes without none pays nothing for it.
        Behind the compare-and-set: a copy either was committed before that, or will not be (decision 012)."""
        if self._left_out is None:
            return
        if self._left_out.awaiting:
            self._take_up_tables(self._left_out.awaiting)
        if self.left_out.columns:
            self._take_up_columns()

    def _take_up_tables(self, awaiting: Collection[TableName]) -> None:
        now = self._read_left_out().awaiting
        for schema, table in sorted(set(awaiting) - now):
            logger.info(
                "table was copied: its changes are applied", extra={"table": qualified(schema, table)}
            )
        if now != awaiting:
            self.forget()

    def _take_up_columns(self) -> bool:
        """Whether there were any."""
        with self._pipe.suspended():
            made = left_out.take_up(self._conn, self._pipeline)
            for schema, table, column in made:
                what = {"table": qualified(schema, table), "column": column}
                reason = f"rows from before {OLDER_ROWS}"
                details = json.dumps(what)
                audit(self._conn, self._pipeline, "column-taken-up", reason=reason, details=details)
                logger.warning("column taken up", extra={**what, "note": reason})
                kept = qualified(schema, table, column)
                add = deferred.because_policy(Kind.ADD_COLUMN)
                deferred.take_back(self._conn, self._pipeline, deferred.IGNORED, kept, reason=add)
                if self._finds_rows_by(schema, table, column):
                    left_out.await_copy(self._conn, self._pipeline, (schema, table), replica=self._replica)
        if made:
            self.forget()
        return bool(made)

    def _finds_rows_by(self, schema: str, table: str, column: str) -> bool:
        """Whether the log's newest version of the table has the column in its key: of rows without its
        values none would be found."""
        versions = reversed(tuple(self._tables.values()))
        newest = next((each for each in versions if (each.schema, each.name) == (schema, table)), None)
        if newest is None:
            return False
        return any(each.name == column and newest.is_found_by(each) for each in newest.columns)

    def is_left_out(self, table: TableSchema) -> bool:
        """Whether a policy has the replica go without the whole table."""
        return (table.schema, table.name) in self.left_out.tables

    def takes_no_rows(self, table: TableSchema) -> bool:
        """The same, or the table is there and awaits a copy of its rows."""
        return self.is_left_out(table) or (table.schema, table.name) in self.left_out.awaiting

    def has_met(self, table_ids: Iterable[bytes]) -> bool:
        """Whether `meet` has nothing to ask for them."""
        return self._met.issuperset(table_ids)

    def meet(self, table_ids: Iterable[bytes]) -> None:
        """Look up in one go what is about to be written to: many tables take little longer than one. What is
        wrong with a table is said when it is used."""
        new = set(table_ids) - self._met
        self._met |= new
        tables = [table for each in new if (table := self._tables.get(each)) is not None]
        names = {(table.schema, table.name) for table in tables if not self.takes_no_rows(table)}
        names -= self._targets.keys()
        if len(names) > 1:
            with self._pipe.suspended():
                self._described |= load_tables(self._conn, names, replica_role=self._replica_role)

    def target(self, table: TableSchema) -> TargetTable:
        """The replica's table of that name; looked up once, in the middle of a transaction if need be."""
        name = (table.schema, table.name)
        target = self._targets.get(name)
        if target is None:
            target = self._described.pop(name, None) or self._look_up(name)
            require_quiet(target, replica=self._replica, replica_role=self._replica_role)
            target = target.without(self.left_out.columns_of(*name))
            self._targets[name] = target
        return target

    def _look_up(self, name: TableName) -> TargetTable:
        with self._pipe.suspended():
            return load_table(self._conn, *name, replica_role=self._replica_role)

    def _fitting(self, table: TableSchema, *, inserting: bool) -> TargetTable:
        """The same, which can hold rows of this version."""
        target = self.target(table)
        if (table.id, inserting) not in self._fit:
            require_fit(table, target, replica=self._replica, inserting=inserting)
            self._fit.add((table.id, inserting))
        return target

    def are_referred_to(self, targets: Sequence[TargetTable]) -> bool:
        """Whether a table outside of `targets` has a foreign key to one of them; looked up once, too."""
        names = tuple((target.schema, target.name) for target in targets)
        if names not in self._referred_to:
            with self._pipe.suspended():
                self._referred_to[names] = are_referred_to(self._conn, targets)
        return self._referred_to[names]

    def forget(self) -> None:
        """The replica's schema changed, or prepared statements are gone."""
        self._fit.clear()
        self._plans.clear()
        self._met.clear()
        self._described.clear()
        self._targets.clear()
        self._set_plans.clear()
        self._referred_to.clear()
        self._left_out = None

    def _make(self, kind: tuple[object, ...], change: Change) -> Plan | None:
        table = self.table(change.table)
        if self.takes_no_rows(table):
            return None
        target = self._fitting(table, inserting=change.operation is Operation.INSERT)
        old = (
            Old.ROW if change.old_row is not None else Old.KEY if change.old_key is not None else Old.NOTHING
        )
        statement = _statement(table, target, change, old)
        checks = self._checks(table, change)
        looked_up = {index for check in checks for index in check.indexes}
        by_key = change.old_row is None
        plan = Plan(
            name=self._pipe.prepare(statement.sql, statement.what),
            statement=statement,
            bind=statements.bind(statement.refs),
            decode_row=row_decoder(table),
            decode_old=key_decoder(table) if by_key else row_decoder(table),
            checks=checks,
            large=large_form(table, target, statement.refs, old=old, but=looked_up),
        )
        self._plans[kind] = plan
        return plan

    def _checks(self, table: TableSchema, change: Change) -> tuple[KeyCheck, ...]:
        if change.row is None or not self._replica_role:
            return ()
        written = [i for i in range(len(table.columns)) if i not in change.absent]
        return key_checks(table, self.target(table), written)


def _statement(table: TableSchema, target: TargetTable, change: Change, old: Old) -> Statement:
    if change.operation is Operation.INSERT:
        return statements.insert(table, target)
    if change.operation is Operation.UPDATE:
        return statements.update(table, target, absent=change.absent, old=old)
    return statements.delete(table, target, old)
