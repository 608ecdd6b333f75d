"""Following schema changes on a replica, in the open target transaction: judged by policy, then made.

What a replica refuses stops it, and the target transaction is rolled back; the next start tries again. What
no row needs (a foreign key, a default) and cannot be made is kept in keepstream.deferred_ddl instead, and so
is what a policy ignores.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.apply.added_column import CANNOT_MAKE
from connectors.postgres.ddl import partitions, rights
from connectors.postgres.ddl.approvals import Decision, WaitingStep
from connectors.postgres.ddl.lacking import Lacking
from connectors.postgres.ddl.refusals import LACKED, refusal
from connectors.postgres.ddl.render import shown, statement
from connectors.postgres.ddl.set_aside import ForeignKey, SetAside
from connectors.postgres.ddl.silence import forget_forced, keep_forced, silence
from connectors.postgres.limits.relaxing import relax_but
from connectors.postgres.replica import deferred
from connectors.postgres.replica.deferred import (
    IGNORED,
    ROLE_MAY_NOT,
    Deferred,
    because_awaiting,
    because_policy,
)
from connectors.postgres.session import Session
from schemas.ddl.diff import steps as steps_of
from schemas.ddl.kinds import Kind, Policy
from schemas.ddl.message import SchemaMessage
from schemas.ddl.step import Manner, Name, Phase, Step
from schemas.errors import KeepstreamError, OperatorNeeded
from schemas.identifiers import qualified

logger = logging.getLogger("keepstream.apply")

Policies = Mapping[Kind, Policy]

_FOREIGN_KEY: Final = "foreign key"
_DEFAULT: Final = "default"
_UNTOLD: Final = frozenset({Kind.OWNER, Kind.GRANTS, Kind.OTHER, Kind.COMMENT})
"""What is ignored of these is not kept: a replica has its own."""

_CANNOT_KEEP_KEY: Final = (
    psycopg.ProgrammingError,
    psycopg.IntegrityError,
    psycopg.NotSupportedError,
    psycopg.errors.LockNotAvailable,
)
_GONE_WITH_COLUMN: Final = (
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedObject,
    psycopg.errors.UndefinedTable,
)
_DEPENDED_ON: Final = psycopg.errors.DependentObjectsStillExist

# What long statements need is not what single rows do; bodies may name what comes later.
_BEGIN: Final = (
    "set local check_function_bodies = off; set local enable_seqscan = on; set local enable_hashjoin = on;"
    " set local enable_mergejoin = on"
)
_END: Final = (
    "set local check_function_bodies = on; set local enable_seqscan = off; set local enable_hashjoin = off;"
    " set local enable_mergejoin = off"
)


class ApprovalNeeded(KeepstreamError):
    """A policy pauses at a step of this transaction, and nobody has decided yet. No error for people."""


class Refused(Exception):
    """A step that the replica's server refused."""

    def __init__(self, step: Step, error: psycopg.Error) -> None:
        super().__init__(step, error)
        self.step = step
        self.error = error


def pauses(step: Step, policies: Policies) -> bool:
    """Whether it waits for an operator. That a table is emptied for its new rows is no change of its own."""
    is_change = step.manner is not Manner.EMPTY and not step.is_new
    return is_change and policies[step.kind] is Policy.PAUSE


def leaves_out(step: Step, policies: Policies) -> bool:
    """Whether policies say that the replica goes without it. Of what it does not own, the owner's own rights
    are none."""
    is_foreign = step.of_owner and policies[Kind.OWNER] is Policy.IGNORE
    return is_foreign or policies[step.kind] is Policy.IGNORE


def waiting_steps(
    messages: Sequence[SchemaMessage], policies: Policies, version: int
) -> tuple[WaitingStep, ...]:
    """All steps of a transaction's messages as people see them. `version`: as `steps` has it."""
    return tuple(
        WaitingStep(step.kind.value, step.shown, shown(step), pauses(step, policies))
        for message in messages
        for step in steps_of(message, version)
        if not (step.is_new and leaves_out(step, policies))
    )


def server_version(conn: Session) -> int:
    """Such as 18."""
    return conn.info.server_version // 10000


class SchemaFollower:
    """One replica's. `conn` has the target transaction open. replica: its name for hints."""

    def __init__(
        self, conn: Session, *, pipeline: str, replica: str, replica_role: bool, policies: Policies
    ) -> None:
        self._conn = conn
        self._pipeline = pipeline
        self._replica = replica
        self._replica_role = replica_role
        self.policies = policies
        self._lacking = Lacking(conn, pipeline=pipeline, replica=replica)
        self._set_aside = SetAside()
        self._dropped: frozenset[tuple[str, ...]] = frozenset()

    def follow(self, message: SchemaMessage, decision: Decision | None) -> None:
        """Take the message's steps. `decision`: what becomes of those that a policy pauses at.

        Raises ApprovalNeeded before anything was done, OperatorNeeded (`schema-refused`,
        `schema-object-missing`), RetryLater (`role-missing`, `role-not-granted` and others).
        """
        found = steps_of(message, server_version(self._conn))
        if decision is None and any(pauses(step, self.policies) for step in found):
            raise ApprovalNeeded("a schema change waits for approval", code="schema-waits")
        self._lacking.look()
        self._set_aside = SetAside()
        self._dropped = frozenset(step.object for step in found if step.kind is Kind.DROP_TABLE)
        ignored = [step for step in found if self._is_ignored(step, decision)]
        taken = [step for step in found if step not in ignored]
        taken = rights.takeable(self._conn, taken, self._replica)
        if not self._replica_role:
            self._conn.execute(
                "set constraints all immediate"
            )  # PostgreSQL alters no table with events pending
        self._conn.execute(_BEGIN)
        for step in ignored:
            self._ignore(step)
        try:
            self._take_all(taken)
        except Refused as refused:
            role = self._conn.info.user
            raise refusal(refused.step, refused.error, replica=self._replica, role=role) from refused.error
        self._conn.execute(_END)
        if not self._replica_role:
            self._conn.execute("set constraints all deferred")

    def await_copy(self, table: tuple[str, str]) -> None:
        """A table came without its rows. Keys to it wait for them: an empty table holds none of them true.
        Raises psycopg.Error."""
        self._lacking.await_copy(table)
        self._set_aside = SetAside()
        self._set_aside.take(self._conn, retyped=(), large={table})
        for key in self._set_aside.ready():
            self._make_again(key)

    def filled(self) -> None:
        """A table that was emptied has all its rows again. Raises psycopg.Error."""
        self._set_aside.awaited -= 1
        for key in self._set_aside.ready():
            self._make_again(key)

    def _make_again(self, key: ForeignKey) -> None:
        if any(self._lacking.awaits(table) for table in key.rows_of):
            self._keep_key(key, because_awaiting(qualified(*key.referenced)))
            return
        try:
            with self._conn.transaction():
                self._conn.execute(key.make())
                if key.comment is not None:
                    self._conn.execute(key.describe())
        except _CANNOT_KEEP_KEY as error:
            self._keep_key(key, _said(error))

    def _keep_key(self, key: ForeignKey, reason: str) -> None:
        for made in (key.make(), *([key.describe()] if key.comment is not None else [])):
            kept = Deferred(_FOREIGN_KEY, key.shown, reason, f"{made.as_string(self._conn)};")
            deferred.keep(self._conn, self._pipeline, kept)
        logger.warning("schema change left out", extra={"object": key.shown, "reason": reason})

    def _is_ignored(self, step: Step, decision: Decision | None) -> bool:
        if step.manner in (Manner.EMPTY, Manner.AWAIT, Manner.NOTHING):
            return step.manner is Manner.NOTHING  # rows have other values now, whoever wants that
        is_refused = decision is Decision.IGNORE and pauses(step, self.policies)
        return is_refused or leaves_out(step, self.policies)

    def _take_all(self, found: Sequence[Step]) -> None:
        """Those that go together are tried until they go, in whatever order they depend on each other."""
        going = [step for step in found if _goes(step)]
        if any(step.manner in (Manner.EMPTY, Manner.AWAIT) for step in found):
            retyped = {step.table for step in found if step.kind is Kind.ALTER_TYPE and step.column}
            large = {step.holder for step in found if step.manner is Manner.AWAIT}
            self._set_aside.take(self._conn, retyped=retyped, large=large)
        for step in found:
            if step in going:
                continue
            if step.phase > Phase.DROP_DEPENDANT:
                going = self._drop(going, Phase.DROP_DEPENDANT)
            if step.phase > Phase.DROP:
                going = self._drop(going, Phase.DROP)
            self._take(step)
        going = self._drop(going, Phase.DROP_DEPENDANT)
        self._drop(going, Phase.DROP)
        if self._lacking.awaiting and any(_adds_key(step) for step in found):
            self._set_aside.take(self._conn, retyped=(), large=self._lacking.awaiting)
        silent = {step.object for step in found if step.manner is Manner.SILENT}
        for key in self._set_aside.ready():
            self._make_again(key)
        for table in sorted(silent):
            silence(self._conn, self._pipeline, (table[0], table[1]), replica_role=self._replica_role)

    def _drop(self, going: Sequence[Step], phase: Phase) -> list[Step]:
        """Drop what is due; returns what is not, or waits for what is not."""
        due = [step for step in going if step.phase <= phase]
        later = [step for step in going if step.phase > phase]
        while due:
            left: list[Step] = []
            for step in due:
                error = self._try(step, _DEPENDED_ON)
                if error is not None:
                    left.append(step)
            if len(left) == len(due):
                if later:
                    return [*left, *later]
                self._take(left[0])
            due = left
        return later

    def _take(self, step: Step) -> None:
        self._lacking.note_rows(step)
        if self._is_moot(step):
            return
        if step.phase is Phase.ATTACH and step.unlisted:
            relax_but(self._conn, _parent_of(step), step.unlisted)
        if step.manner in (Manner.EMPTY, Manner.AWAIT):
            self._empty(step)
        elif step.manner is Manner.KEY:
            self._take_key(step)
        elif step.manner is Manner.FORGET_KEY:
            deferred.take_back(self._conn, self._pipeline, _FOREIGN_KEY, step.shown)
            self._set_aside.forget(step.table, step.member)
            self._run(step)
        elif step.manner is Manner.DEFAULT:
            self._take_default(step)
        elif step.manner is Manner.FORCE:
            keep_forced(self._conn, self._pipeline, step.object, shown(step))
        elif step.manner is Manner.FORGET_FORCE:
            forget_forced(self._conn, self._pipeline, step.object)
            self._run(step)
        elif step.kind in rights.RIGHTS:
            self._take_rights(step)
        elif self._lacking.may_lack_columns(step):
            self._take_if_it_can(step)
        else:
            self._run(step)
        if step.kind is Kind.CREATE_TABLE and step.phase is Phase.TABLE and step.unlisted:
            relax_but(self._conn, step.table, step.unlisted)
        self._lacking.note_gone(step)

    def _run(self, step: Step) -> None:
        """Of what a policy left out, or the replica lost, no comment is made."""
        if step.kind is Kind.COMMENT:
            error = self._try_statement(step, *LACKED)
            if error is not None:
                logger.warning("schema change left out", extra={"object": step.shown, "reason": _said(error)})
            return
        try:
            self._conn.execute(statement(step))
        except psycopg.Error as error:
            raise Refused(step, error) from error

    def _try(self, step: Step, *expected: type[psycopg.Error]) -> psycopg.Error | None:
        """The error if it is one of these, after which nothing of the step stays."""
        try:
            with self._conn.transaction():
                self._take(step)
        except Refused as refused:
            if not isinstance(refused.error, expected):
                raise
            return refused.error
        return None

    # What this replica lacks

    def _is_moot(self, step: Step) -> bool:
        """Whether there is nothing to do for it here. Raises OperatorNeeded (`schema-object-missing`)."""
        if step.since > server_version(self._conn):
            return True
        if step.whole and partitions.empties_whole(step):
            return self._lacking.has_left_out(step.holder)
        if step.whole and not partitions.is_mirrored(self._conn, step):
            self._pass_over(step)
            return True
        if step.needs is not None and not partitions.is_there(self._conn, step.needs):
            return self._is_moot_without(step, step.needs)
        if step.column and self._lacking.has_no_column(step):
            self._lacking.note_column(step)
            return True
        return step.inherited and self._has_parent(step.object)

    def _pass_over(self, step: Step) -> None:
        """A partition that is one on the source alone."""
        self._lacking.note_joined(step)
        if not self._lacking.awaits(step.holder):  # else its rows are not here
            partitions.require_rows_stay(step, self._dropped, replica=self._replica)
        else:
            self._lacking.note_unjoined(step)
        if step.manner is Manner.EMPTY:
            self._set_aside.awaited += 1

    def _is_moot_without(self, step: Step, table: tuple[str, str]) -> bool:
        if step.drops:
            self._lacking.note_gone(step)
            return True
        if self._lacking.has_left_out(table):
            self._lacking.note_table(step, table)
            return True
        if self._lacking.joins_later(table):
            self._lacking.note_gone(step)
            return True
        if step.kind in rights.RIGHTS:
            return True
        if (new := step.new_name) is not None and partitions.is_there(self._conn, new):
            self._lacking.note_gone(step)
            return True  # somebody called it so before
        name = sql.Identifier(*table).as_string()
        raise OperatorNeeded(
            f"{self._replica} has no {name}, which the source changes: {shown(step)}",
            code="schema-object-missing",
            hint=f"Make {name} on the replica as it was on the source before that, and start again. Or leave"
            f" changes of this kind out: `schema: {{policies: {{{step.kind}: ignore}}}}` in keepstream.yaml.",
        )

    def _has_parent(self, table: tuple[str, ...]) -> bool:
        query = (
            "select exists (select from pg_inherits"
            " where inhrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)))"
        )
        return self._conn.execute(query, table).fetchone() == (True,)

    # What may be missing

    def _take_key(self, step: Step) -> None:
        is_kept = self._lacking.rename_key(step)
        reason = self._refused_key(step) if self._replica_role else ROLE_MAY_NOT
        if reason is not None and not is_kept:
            self._lacking.keep(_FOREIGN_KEY, step, reason)

    def _refused_key(self, step: Step) -> str | None:
        try:
            with self._conn.transaction():
                self._conn.execute(statement(step))
        except _CANNOT_KEEP_KEY as error:
            return _said(error)
        return None

    def _take_default(self, step: Step) -> None:
        deferred.take_back(self._conn, self._pipeline, _DEFAULT, step.shown)
        error = self._try_statement(step, *CANNOT_MAKE)
        if error is not None:
            table, column = sql.Identifier(*step.object), sql.Identifier(step.column)
            self._conn.execute(sql.SQL("alter table only {} alter {} drop default").format(table, column))
            self._lacking.keep(_DEFAULT, step, _said(error))

    def _take_rights(self, step: Step) -> None:
        """What the replica goes without has no owner there; roles are there by now."""
        try:
            with self._conn.transaction():
                rights.take(self._conn, step)
        except LACKED as error:
            logger.warning("schema change left out", extra={"object": step.shown, "reason": _said(error)})
        except psycopg.Error as error:
            raise Refused(step, error) from error

    def _take_if_it_can(self, step: Step) -> None:
        """It may be about a column that the replica goes without, or about what was left out for one."""
        noted = deferred.has_of_table(self._conn, self._pipeline, step.object)
        error = self._try_statement(step, *(_GONE_WITH_COLUMN if noted else _GONE_WITH_COLUMN[:1]))
        if error is not None:
            self._lacking.keep(IGNORED, step, _said(error))

    def _try_statement(self, step: Step, *expected: type[psycopg.Error]) -> psycopg.Error | None:
        try:
            with self._conn.transaction():
                self._conn.execute(statement(step))
        except expected as error:
            return error
        except psycopg.Error as error:
            raise Refused(step, error) from error
        return None

    def _ignore(self, step: Step) -> None:
        self._lacking.note_rows(step)
        if not step.is_new:
            logger.info("schema change ignored", extra={"kind": step.kind.value, "object": step.shown})
        if step.kind not in _UNTOLD:
            self._lacking.keep(IGNORED, step, because_policy(step.kind))
        if step.kind is Kind.CREATE_TABLE and step.phase is Phase.TABLE:
            self._lacking.leave_out(step.table)
        elif step.kind is Kind.ADD_COLUMN:
            self._lacking.leave_out(step.table, step.column)

    def _empty(self, step: Step) -> None:
        if step.manner is Manner.AWAIT:
            self._lacking.await_copy(step.holder)
        else:
            self._set_aside.awaited += 1
        tables = {step.holder if partitions.empties_whole(step) else step.table}
        if step.manner is Manner.AWAIT and partitions.is_there(self._conn, step.table):
            tables.add(step.table)  # which is to become a partition of the whole
        try:
            for table in sorted(tables):
                self._make_empty(table)
        except psycopg.Error as error:
            raise Refused(step, error) from error

    def _make_empty(self, table: tuple[str, str]) -> None:
        """A table that others refer to cannot be truncated; no key of theirs acts on our writes."""
        is_partitioned = partitions.is_partitioned(self._conn, table)
        name = sql.SQL("{}" if is_partitioned else "only {}").format(sql.Identifier(*table))
        try:
            with self._conn.transaction():
                self._conn.execute(sql.SQL("truncate {}").format(name))
        except psycopg.errors.FeatureNotSupported:
            self._conn.execute(sql.SQL("delete from {}").format(name))


def _adds_key(step: Step) -> bool:
    """Which can be made while both tables are empty, and then binds rows of the one that has some first."""
    return step.manner is Manner.KEY and step.phase is Phase.FOREIGN_KEY


def _goes(step: Step) -> bool:
    """Whether it drops an object as a whole."""
    return step.drops and step.needs is None


def _parent_of(step: Step) -> tuple[str, str]:
    """Of a step that attaches a table, or lets it inherit."""
    named = step.statement[-1 if step.kind is Kind.INHERITANCE else 1]
    assert isinstance(named, Name)
    return (named.parts[0], named.parts[1])


def _said(error: psycopg.Error) -> str:
    return error.diag.message_primary or type(error).__name__
