"""Writing source transactions into a replica, exactly (P13): one target transaction at a time.

    begin(old, new)        the compare-and-set goes first
    apply(source, …)       changes in source order, as often as there are transactions or parts
    write_set(…)           the net change of many, where that is provably equal (P15)
    commit()               everything was answered and touched as many rows as it should; then COMMIT
    rollback()             after any failure, and to abandon a transaction

Answers come while more is being sent, so an error may be raised by a later call than the one that
caused it; it names its own transaction and change. Nothing is committed before all were good.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from connectors.failpoints import failpoint
from connectors.postgres.apply.barriers import BarrierWriter
from connectors.postgres.apply.errors import SourceRef, change_ref, explained, miscount, named_by
from connectors.postgres.apply.keychecks import KeyLookups
from connectors.postgres.apply.pipe import Pipe, Uncounted
from connectors.postgres.apply.plans import Plans
from connectors.postgres.apply.set_plans import SetPlan, SetRows
from connectors.postgres.apply.sets import SetWriter
from connectors.postgres.apply.statements import Statement, Values
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.ddl.approvals import Decision
from connectors.postgres.ddl.follow import Policies, SchemaFollower
from connectors.postgres.replica import claim as claims
from connectors.postgres.replica.claim import Claim, PositionLost
from connectors.postgres.replica.progress import audit
from connectors.postgres.sequences.setting import Behind, Setting, find_behind, set_sequences
from connectors.postgres.session import Session, notice_lost_client, wrapped
from schemas.change import Change
from schemas.ddl.kinds import DEFAULTS
from schemas.errors import InternalError
from schemas.lsn import Lsn, Position
from schemas.sequence import SequenceValue
from schemas.table import TableSchema

PREPARED_LIMIT: Final = 2000
_ADVANCE: Final = "compare-and-set of keepstream.progress"
_BEGIN: Final = Uncounted("begin")
_COMMIT: Final = Uncounted("commit")


class ReplicaWriter:
    """One claimed replica session. Not thread-safe. `replica` is the name that hints tell the operator.

    tables: the log's table versions by id; may grow. policies: for schema changes. should_stop: lets a wait
    for the replica end early, with RetryLater (`stopped`).
    """

    def __init__(
        self,
        conn: Session,
        claim: Claim,
        tables: Mapping[bytes, TableSchema],
        *,
        replica: str,
        policies: Policies = DEFAULTS,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._conn = conn
        self._claim = claim
        self._replica = replica
        self.replica_role = _prepare_session(conn)
        self._pipe = Pipe(conn, miscounted=self._miscounted, should_stop=should_stop)
        self._plans = Plans(
            conn,
            self._pipe,
            tables,
            pipeline=claim.name,
            replica=replica,
            replica_role=self.replica_role,
        )
        self._keys = KeyLookups()
        self._sets = SetWriter(conn, self._pipe, should_stop)
        self._barriers = BarrierWriter(
            conn,
            self._pipe,
            self._plans,
            pipeline=claim.name,
            replica=replica,
            replica_role=self.replica_role,
            schema=SchemaFollower(
                conn,
                pipeline=claim.name,
                replica=replica,
                replica_role=self.replica_role,
                policies=policies,
            ),
            make_way=self._make_way,
        )

    def decide(self, decision: Decision | None) -> None:
        """What becomes, in the target transactions from now on, of schema changes that a policy pauses at."""
        self._barriers.decision = decision

    def begin(self, old: Lsn, new: Position, *, place: str) -> None:
        """Start a target transaction that moves the replica from `old` to `new`, or fails as a whole."""
        failpoint("apply.before_begin")
        if self._pipe.prepared > PREPARED_LIMIT or self._sets.is_full:
            with wrapped("giving prepared statements up"):
                self._forget()
        with explained(self._replica):
            self._pipe.open()
            self._pipe.run(b"begin", tag=_BEGIN)
            self.move(old, new, place=place)
            self._plans.take_up()
            if not self.replica_role:
                # statements that were one on the source are several here
                self._pipe.run(b"set constraints all deferred", tag=_BEGIN)
        failpoint("apply.after_cas")

    def move(self, old: Lsn, new: Position, *, place: str) -> None:
        """The compare-and-set once more: a transaction whose end was not known at `begin`."""
        with explained(self._replica):
            self._pipe.run(claims.ADVANCE, self._claim.advance(old, new, place=place), tag=_ADVANCE)

    def apply(self, source: SourceRef, changes: Iterable[Change], ordinals: Iterable[int]) -> None:
        """Send changes of one source transaction, named by their ordinals there.

        Raises Divergence where a change did not touch exactly one row, PositionLost, RetryLater,
        OperatorNeeded (`replica-schema` and others).
        """
        with explained(self._replica), named_by(source, self._replica):
            for ordinal, change in zip(ordinals, changes, strict=True):
                if change.payload is not None:
                    self._barriers.apply(source, ordinal, change)
                else:
                    self._send_row(source, ordinal, change)

    def apply_huge(self, source: SourceRef, held: list[Change], ordinal: int) -> None:
        """The same of one change that only `held` holds: it is taken out, so that no more is kept of its row
        than what libpq needs; a bytea is sent in binary form."""
        with explained(self._replica):
            self._send_large(source, ordinal, held.pop())

    def _send_large(self, source: SourceRef, ordinal: int, change: Change) -> None:
        plan = self._plans.find(change)
        if plan is None:
            return
        decode, old_is_key = plan.large.decode_row, change.old_row is None
        row, old = change.row, change.old_row or change.old_key
        del change
        size = len(row or b"") + len(old or b"")
        values = decode(row, 0) if row is not None else ()
        del row
        old_values = (plan.decode_old if old_is_key else decode)(old, 0) if old is not None else ()
        del old
        if plan.checks:
            self._keys.note(plan.checks, values, (source, ordinal))
        parameters, values, old_values = plan.bind(values, old_values), (), ()
        tag = plan.statement, source, ordinal
        self._pipe.send(plan.name, parameters, tag, size, plan.large.formats)

    def _send_row(self, source: SourceRef, ordinal: int, change: Change) -> None:
        plan = self._plans.find(change)
        if plan is None:
            return
        row, old = change.row, change.old_row or change.old_key
        values = plan.decode_row(row, 0) if row is not None else ()
        old_values = plan.decode_old(old, 0) if old is not None else ()
        size = len(row or b"") + len(old or b"")
        del change, row, old
        self._pipe.send(plan.name, plan.bind(values, old_values), (plan.statement, source, ordinal), size)
        if plan.checks:
            self._keys.note(plan.checks, values, (source, ordinal))

    def has_met(self, table_ids: Iterable[bytes]) -> bool:
        """Whether `meet` has nothing to ask for these table versions of the log."""
        return self._plans.has_met(table_ids)

    def meet(self, table_ids: Iterable[bytes]) -> None:
        """Look their tables up in one go, before changes of them come. Raises what `apply` does for changes
        that were sent before."""
        with explained(self._replica):
            self._plans.meet(table_ids)

    def set_plan(self, table_id: bytes) -> SetPlan | None:
        """How to write a table version of the log with `sets`; None where that is not provably equal.
        Raises what `apply` would."""
        with explained(self._replica):
            return self._plans.set_plan(table_id)

    def begin_sets(self) -> None:
        """A savepoint for sets. Single changes may be sent between this and the first `write_set`."""
        with explained(self._replica):
            self._sets.begin()

    def write_set(self, plan: SetPlan, sets: SetRows) -> None:
        """Send the net change of one table. Raises SetRefused: everything since `begin_sets` was undone; and
        what `apply` does, for single changes that were sent before."""
        with explained(self._replica):
            self._sets.write(plan, sets)

    def settle_sets(self) -> None:
        """Wait until all sets were answered. Raises what `write_set` does."""
        with explained(self._replica):
            self._sets.settle()

    def knows_set_plan(self, table_id: bytes) -> bool:
        """Whether `set_plan` answers without asking the replica."""
        return self._plans.knows_set_plan(table_id)

    def table_name(self, table_id: bytes) -> tuple[str, str]:
        """(schema, name) of a table version of the log."""
        table = self._plans.table(table_id)
        return table.schema, table.name

    def sequences_behind(self, wanted: Iterable[SequenceValue]) -> Behind:
        """Which sequences of the replica are to be set to get to these values. No transaction may be open."""
        with explained(self._replica):
            return find_behind(self._conn, wanted)

    def set_sequences(self, settings: Sequence[Setting]) -> None:
        """Set them, inside the open target transaction."""
        with explained(self._replica), self._pipe.suspended():
            set_sequences(self._conn, settings)

    def audit(self, action: str, *, reason: str, at: Position, details: str) -> None:
        """Write down what an operator did, inside the open target transaction."""
        with explained(self._replica), self._pipe.suspended():
            audit(self._conn, self._claim.name, action, reason=reason, position=at, details=details)

    def push(self) -> None:
        """Let the replica work on what was sent, while we wait for something else."""
        with explained(self._replica):
            self._pipe.push()

    def touch(self) -> None:
        """Wait for all answers inside of the open transaction, and be heard of though there is nothing to
        send. Raises what `apply` does."""
        with explained(self._replica):
            self._pipe.run(b"select 1", tag=_BEGIN)
            self._pipe.sync()

    def commit(self) -> None:
        """Wait for all answers, then commit. If the session is lost in COMMIT, its outcome is unknown:
        take the replica over anew and read the row (P14)."""
        with explained(self._replica):
            self._keys.send(self._look_up)
            self._pipe.push()
            failpoint("apply.mid_transaction")
            self._pipe.sync()
            failpoint("apply.before_commit")
            self._pipe.run(b"commit", tag=_COMMIT)
            self._pipe.push()
            failpoint("apply.inside_commit")
            self._pipe.sync()
            self._pipe.close()
        if self._conn.info.transaction_status != TransactionStatus.IDLE:
            raise InternalError("COMMIT did not end the target transaction", code="commit-refused")
        self._sets.end()
        failpoint("apply.after_commit")

    def _make_way(self, tables: Collection[TableName]) -> None:
        """Before DDL on these tables: what was sent for them is settled, nothing of ours refers to them."""
        self._keys.send(self._look_up, tables)
        with self._pipe.suspended():
            self._conn.execute("deallocate all")
            self._sets.give_up_stages()
        self._pipe.forget()
        self._plans.forget()

    def _look_up(self, statement: Statement, values: Values, ref: tuple[SourceRef, int]) -> None:
        self._pipe.run(statement.sql, values, tag=(statement, *ref))

    def rollback(self) -> None:
        """Abandon the open transaction, if there is one. Raises RetryLater if the session is lost."""
        self._keys.forget()
        with wrapped("rolling back"):
            self._sets.abandon()
            if self._pipe.is_open:
                self._pipe.drain()
                self._pipe.close()
            self._conn.rollback()
            self._forget()

    def flush(self) -> None:
        """Return when everything committed so far is durable on the replica. Its position counts as
        durable only then.

        Raises PositionLost if the replica is no longer ours.
        """
        with wrapped("flushing the replica"), self._conn.transaction():
            self._conn.execute("set local synchronous_commit = on")
            cursor = psycopg.RawCursor(self._conn)
            cursor.execute(claims.TOUCH, [value.decode() for value in self._claim.touch()])
            if cursor.rowcount != 1:
                raise _lost()

    def close(self) -> None:
        """End the session; an open transaction is rolled back by the server."""
        with contextlib.suppress(psycopg.Error):
            self._conn.close()

    def _forget(self) -> None:
        self._plans.forget()
        self._pipe.forget()
        self._conn.execute("deallocate all")
        self._sets.forget()

    def _miscounted(self, tag: object, rows: int) -> None:
        ref = change_ref(tag)
        if ref is None:
            raise _lost()
        raise miscount(ref, rows, self._replica)


def _lost() -> PositionLost:
    return PositionLost("the replica is not where, or not whose, it was", code="position-lost")


# Plans are made once per session, so a plan made for a table that was empty must not scan it when it is big;
# and sets, whose size the planner does not know, find their rows by the key, one by one.
# A commit may be lost in a crash only together with the progress row, and then comes again from the log.
_SESSION: Final = (
    "set synchronous_commit = off; set enable_seqscan = off; set enable_hashjoin = off;"
    " set enable_mergejoin = off; set jit = off"
)


def _prepare_session(conn: Session) -> bool:
    """Set up the session; returns whether triggers and foreign keys are off."""
    with wrapped("preparing the replica's session"):
        conn.execute(_SESSION)
        notice_lost_client(conn, within_s=5)
        try:
            conn.execute("set session_replication_role = replica")
        except psycopg.errors.InsufficientPrivilege:
            return False
    return True
