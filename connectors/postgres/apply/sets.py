"""Writing the net change of many changes at once: the fast path's SQL (P15).

    begin()            a savepoint
    write(rows)        sets of one table, as often as there are tables
    settle()           everything was answered and counted right
    SetRefused         everything since `begin` is undone; the changes must be written one by one

What a table is written with, in this order: passed keys are looked up (none may be there), DELETE by key,
UPDATE from a staging table, COPY. Each step is sent while the next one is being made ready and is waited
for only then. A step that touches another number of rows than it names is refused like one that fails:
the exact path then says which row it was.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString, NoReturn

import psycopg
from psycopg import sql

from connectors.failpoints import failpoint
from connectors.postgres.apply.pipe import STOP_GRACE_S, Pipe, Uncounted
from connectors.postgres.apply.set_plans import CopyRows, SetPlan, SetRows
from connectors.postgres.apply.statements import relation
from connectors.postgres.copy.copystream import finish_query, run_query, send_query, send_rows
from connectors.postgres.session import Session, sql_error
from schemas.errors import RetryLater

STAGES_LIMIT: Final = 50
"""Staging tables of one session. Each is emptied by every COMMIT that used one of them."""

_SAVEPOINT: Final = Uncounted("savepoint of the fast path")


class SetRefused(Exception):
    """The replica refused sets, or took another number of rows; everything since `begin` was undone.
    `table` is the log's name for where it happened."""

    def __init__(self, table: str, reason: str) -> None:
        super().__init__(f"{table}: {reason}")
        self.table = table
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Sent:
    """A step that is under way. `rows`: how many it must touch; None: that does not matter."""

    plan: SetPlan
    rows: int | None


class SetWriter:
    """The fast path of one replica session, inside the target transaction that a ReplicaWriter began."""

    def __init__(self, conn: Session, pipe: Pipe, should_stop: Callable[[], bool]) -> None:
        self._conn = conn
        self._pipe = pipe
        self._should_stop = should_stop
        self._sent: _Sent | None = None
        self._stages: dict[SetPlan, sql.Identifier] = {}
        self._fresh: set[SetPlan] = set()
        self._used: set[SetPlan] = set()
        self._made = 0
        self._waited_since = 0.0

    def begin(self) -> None:
        """Set the savepoint. Single changes may be sent between this and the first `write`."""
        self._fresh.clear()
        self._pipe.run(b"savepoint keepstream_sets", tag=_SAVEPOINT)

    def write(self, plan: SetPlan, sets: SetRows) -> None:
        """Send the sets of one table. Raises SetRefused, RetryLater."""
        if self._pipe.is_open:
            self._pipe.sync()
            self._pipe.close()
        if sets.passed is not None:
            self._by_key(plan, sets.passed, _IS_THERE, touches=0)
        if sets.deleted is not None:
            self._by_key(plan, sets.deleted, _DELETE, touches=sets.deleted.count)
        for absent, rows in sets.updated.items():
            self._update(plan, absent, rows)
        if sets.inserted is not None:
            self._insert(plan, sets.inserted)
        failpoint("apply.sets_sent")

    def settle(self) -> None:
        """Wait for what was sent and give the savepoint up. Raises SetRefused, RetryLater."""
        self._answer()
        self._pipe.open()
        self._pipe.run(b"release savepoint keepstream_sets", tag=_SAVEPOINT)
        failpoint("apply.sets_settled")

    def abandon(self) -> None:
        """The target transaction will be rolled back: cancel what is under way."""
        sent, self._sent = self._sent, None
        if sent is not None:
            with contextlib.suppress(psycopg.Error):  # ROLLBACK, which comes next, notices a lost session
                self._conn.cancel()
                finish_query(self._conn.pgconn, self._tick)

    def end(self) -> None:
        """The target transaction was committed: staging tables are empty again."""
        self._used.clear()

    def forget(self) -> None:
        """The target transaction was rolled back, or prepared statements are given up. Between target
        transactions only."""
        self._used.clear()
        if self._stages:
            self._stages.clear()
            self._conn.execute("discard temporary")

    def give_up_stages(self) -> None:
        """In the middle of a target transaction, which will alter what they are made of. If that is rolled
        back they are there again, and nobody's: so all go that the session has."""
        self._used.clear()
        self._stages.clear()
        self._conn.execute("discard temporary")

    @property
    def is_full(self) -> bool:
        """Whether `forget` should be called before the next target transaction."""
        return len(self._stages) >= STAGES_LIMIT

    def _by_key(self, plan: SetPlan, keys: CopyRows, text: LiteralString, *, touches: int) -> None:
        stage = self._stage(plan, plan.key, keys)
        query = plan.statements.get(text)
        if query is None:
            query = sql.SQL(text).format(relation(plan.target), stage, _same_key(plan)).as_string()
            plan.statements[text] = query
        self._send(plan, query, rows=touches)

    def _update(self, plan: SetPlan, absent: tuple[int, ...], rows: CopyRows) -> None:
        given = plan.given(absent)
        stage = self._stage(plan, given, rows)
        query = plan.statements.get(absent)
        if query is None:
            query = plan.statements[absent] = _update_sql(plan, stage, given)
        self._send(plan, query, rows=rows.count)

    def _insert(self, plan: SetPlan, rows: CopyRows) -> None:
        target = sql.Identifier(plan.target.schema, plan.target.name)
        self._copy(plan, _copy_sql(plan, target, plan.columns), rows)

    def _stage(self, plan: SetPlan, columns: Sequence[int], rows: CopyRows) -> sql.Identifier:
        """The plan's staging table, which then holds just these rows."""
        stage = self._stages.get(plan)
        if stage is None:
            self._made += 1
            stage = sql.Identifier("pg_temp", f"keepstream_stage_{self._made}")
            self._send(plan, _stage_sql(plan, stage), rows=None)
            self._stages[plan] = stage
            self._fresh.add(plan)
            plan.statements.clear()
        elif plan in self._used:
            self._send(plan, sql.SQL("truncate {}").format(stage).as_string(), rows=None)
        self._used.add(plan)
        self._copy(plan, _copy_sql(plan, stage, columns), rows)
        return stage

    def _copy(self, plan: SetPlan, query: str, rows: CopyRows) -> None:
        self._answer()
        try:
            send_rows(self._conn.pgconn, query, rows.text, self._tick)
        except psycopg.Error as error:
            self._failed(plan, error)
        self._sent = _Sent(plan, rows.count)

    def _send(self, plan: SetPlan, query: str, *, rows: int | None) -> None:
        self._answer()
        try:
            send_query(self._conn.pgconn, query, self._tick)
        except psycopg.Error as error:
            self._failed(plan, error)
        self._sent = _Sent(plan, rows)

    def _answer(self) -> None:
        """Wait for the step that is under way."""
        sent, self._sent = self._sent, None
        self._waited_since = time.monotonic()
        if sent is None:
            return
        try:
            results = finish_query(self._conn.pgconn, self._tick)
        except psycopg.Error as error:
            self._failed(sent.plan, error)
        if sent.rows is not None and results[-1].command_tuples != sent.rows:
            self._refuse(sent.plan, "rows-miscounted")

    def _failed(self, plan: SetPlan, error: psycopg.Error) -> NoReturn:
        meaning = sql_error(error, f"writing sets of {plan.name} to the replica")
        if isinstance(meaning, RetryLater):
            raise meaning from error
        self._refuse(plan, meaning.code)

    def _refuse(self, plan: SetPlan, reason: str) -> NoReturn:
        """Undo everything since `begin`."""
        sent, self._sent = self._sent, None
        try:
            if sent is not None:
                with contextlib.suppress(psycopg.DatabaseError):
                    finish_query(self._conn.pgconn, self._tick)
            undo = "rollback to savepoint keepstream_sets; release savepoint keepstream_sets"
            run_query(self._conn, undo, self._tick)
        except psycopg.Error as error:
            raise sql_error(error, "undoing sets on the replica") from error
        for made in self._fresh:
            del self._stages[made]
        self._fresh.clear()
        self._pipe.open()
        raise SetRefused(plan.name, reason)

    def _tick(self, rows: int, size_bytes: int) -> None:
        if self._should_stop() and time.monotonic() - self._waited_since > STOP_GRACE_S:
            raise RetryLater("stopped while the replica did not answer", code="stopped")


_IS_THERE: Final = "select from {} t, {} s where {}"
_DELETE: Final = "delete from {} t using {} s where {}"


def _columns(plan: SetPlan, columns: Sequence[int]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(plan.table.columns[i].name) for i in columns)


def _same_key(plan: SetPlan) -> sql.Composed:
    """Of `t` and `s`, by the operator that the key's index has."""
    columns = [plan.target.columns[plan.table.columns[i].name] for i in plan.key]
    return sql.SQL(" and ").join(
        sql.SQL("t.{0} {1} s.{0}").format(sql.Identifier(column.name), sql.SQL(column.equals))
        for column in columns
    )


def _stage_sql(plan: SetPlan, stage: sql.Identifier) -> str:
    """A table of the same columns and types, without anything that would refuse or act on rows."""
    made = sql.SQL("create temporary table {} on commit delete rows as select {} from {} with no data")
    return made.format(stage, _columns(plan, plan.columns), relation(plan.target)).as_string()


def _copy_sql(plan: SetPlan, into: sql.Identifier, columns: Sequence[int]) -> str:
    return sql.SQL("copy {} ({}) from stdin").format(into, _columns(plan, columns)).as_string()


def _update_sql(plan: SetPlan, stage: sql.Identifier, given: Sequence[int]) -> str:
    names = [sql.Identifier(plan.table.columns[i].name) for i in given if i not in plan.key]
    target, same = relation(plan.target), _same_key(plan)
    if not names:
        return sql.SQL(_IS_THERE).format(target, stage, same).as_string()
    assigned = sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(name) for name in names)
    return sql.SQL("update {} t set {} from {} s where {}").format(target, assigned, stage, same).as_string()
