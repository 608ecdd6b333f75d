"""The loop between log and replica: plan a step, take it, wait where there is none."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from connectors.failpoints import failpoint
from connectors.postgres.apply.errors import SourceRef
from connectors.postgres.ddl import left_out
from connectors.postgres.ddl.follow import ApprovalNeeded
from connectors.postgres.replica import hold, progress
from connectors.postgres.replica.claim import Loss, PositionLost, explain
from connectors.postgres.replica.progress import HoldKind
from pipeline.apply.approval import ReadAgain
from pipeline.apply.awaited import AwaitedCopies
from pipeline.apply.counters import Counters
from pipeline.apply.grouping import (
    ApplyPart,
    Blocked,
    Brakes,
    Group,
    Limits,
    Move,
    RollBack,
    SetSequences,
    Step,
)
from pipeline.apply.opened import OpenReplica
from pipeline.apply.options import ApplyOptions
from pipeline.apply.paths import Paths
from pipeline.apply.slices import Encoded
from schemas.change import Change
from schemas.errors import KeepstreamError, RetryLater
from schemas.frame import Part, PartChanges, Transaction
from schemas.lsn import Lsn, Position

STANDING_EVERY_S = 10.0
"""How often a position is moved when nothing else happens: each move costs the replica a WAL record."""
LOOK_EVERY_S = 1.0
TOUCH_EVERY_S = 5.0
_READ_S = 0.5
_PLENTY_BYTES = 64 * 1024
"""A read that brings less has come to the log's end: what is there is applied before more is waited for."""
_READ_BESIDE_S = 0.004
"""So often the log is asked for more while the replica works."""
_HELD_LOOK_S = 0.25


class Applier:
    """Applies until `stop`, or until the end that the options name. One thread uses it; others may look at
    `blocked`: why it waits now, None while it works; and at `ordinal`: how many changes of an unfinished
    transaction were applied."""

    def __init__(
        self,
        opened: OpenReplica,
        options: ApplyOptions,
        stop: threading.Event,
        counters: Counters,
        awaited: AwaitedCopies,
    ) -> None:
        self.blocked: Blocked | None = None
        self.ordinal = 0
        self.opened = opened
        self.paths = Paths(opened.writer)
        self._options = options
        self._stop = stop
        self._counters = counters
        self._awaited = awaited
        self._moved_at = time.monotonic()
        self._looked_at = time.monotonic()
        self._parts = PartChanges()
        self._failure: KeepstreamError | None = None
        self._only_reads = False

    def run(self) -> bool:
        """Returns whether the end that the options name was reached, durably; False: `stop`.

        Raises RetryLater (open the replica anew) and what only an operator can mend.
        """
        try:
            return self._run()
        finally:
            self.paths.forget()

    def _run(self) -> bool:
        opened = self.opened
        while not self._stop.is_set():
            self._counters.beat_at = time.monotonic()
            step = opened.planner.next(self._brakes(), self._counters.limits())
            if not isinstance(step, Blocked):
                self._unblock()
                self._take(step)
            elif self._is_end(step):
                opened.writer.flush()
                return True
            else:
                self._wait(step)
        return False

    def _unblock(self) -> None:
        """Who was held or delayed stood still because of that, and not because it is stuck."""
        if self.blocked not in (None, Blocked.LOG_END):
            self._counters.last_change_at = time.monotonic()
        self.blocked = None

    def _brakes(self) -> Brakes:
        delay_us = self._options.delay_us
        return Brakes(
            hold=self.opened.hold,
            due_before=time.time_ns() // 1000 - delay_us if delay_us else None,
            until_time=self._options.until_time,
            unapproved=self.opened.approval.unapproved,
        )

    def _is_end(self, blocked: Blocked) -> bool:
        opened, options = self.opened, self._options
        if options.until_lsn is not None:
            return opened.planner.position.lsn >= options.until_lsn
        if options.until_time is not None and blocked is Blocked.END_TIME:
            hold.hold(opened.session, options.name, HoldKind.UNTIL, replica=options.replica)
            return True
        return False

    def _take(self, step: Step) -> None:
        started = time.monotonic()
        try:
            if isinstance(step, Group):
                self._apply_group(step, started)
            elif isinstance(step, ApplyPart):
                self._apply_part(step, started)
            elif isinstance(step, RollBack):
                self._roll_back(step)
            elif isinstance(step, SetSequences):
                self._set_sequences(step)
            elif isinstance(step, Move):
                self._move(step.position)
        except PositionLost:
            self._abandon()
            self._find_out()

    def _apply_group(self, group: Group, started: float) -> None:
        opened = self.opened
        planner = opened.planner
        try:
            self._commit_group(group)
        except RetryLater:
            raise
        except ApprovalNeeded:
            self._wait_for_approval(group.transactions[-1].transaction, group.transactions[-1].changes)
            return
        except KeepstreamError:
            if len(group.transactions) == 1:
                raise
            self._abandon()
            planner.one_by_one(len(group.transactions))
            return
        planner.done(group)
        self._moved(group.transactions[-1].transaction.commit_lsn)
        if len(group.transactions) > 1:
            self._counters.behind_at = time.monotonic()
        self._counters.count(
            transactions=len(group.transactions),
            changes=group.changes,
            size_bytes=group.size_bytes,
            took_s=time.monotonic() - started,
        )

    def _commit_group(self, group: Group) -> None:
        writer, planner = self.opened.writer, self.opened.planner
        self._decide(group.transactions[0].transaction)
        writer.begin(planner.position.lsn, group.position, place=planner.hint)
        self.paths.add_whole(group.transactions)
        if self.paths.send():
            self._get_ready(group)
        self.paths.push()
        writer.commit()

    def _get_ready(self, group: Group) -> None:
        """Read what comes next, and make it ready, while the replica works: a log that is read in our own
        thread brings nothing by itself. If that fails, first this group is committed, and nothing is read any
        more."""
        planner, limits = self.opened.planner, self._counters.limits()
        if self._failure is not None:
            return
        try:
            self._read_more(limits, beside_bytes=group.size_bytes)
            self.paths.get_ready(planner.following(group, limits))
            while planner.wants_more(limits, beside_bytes=group.size_bytes):
                if self.paths.is_written(_READ_BESIDE_S):
                    return
                if self._feed(0.0) and not planner.has_ready:
                    self.paths.get_ready(planner.following(group, limits))
        except KeepstreamError as error:
            self._failure = error

    def _apply_part(self, step: ApplyPart, started: float) -> None:
        opened, part = self.opened, step.part
        planner, writer = opened.planner, opened.writer
        if not planner.inside:
            self._parts, self.ordinal, self._only_reads = PartChanges(), 0, False
            self.opened.approval.begin()
            self._decide(part)
            writer.begin(planner.position.lsn, _past(part), place=planner.hint)
        first = self.ordinal
        source = SourceRef(part.xid, part.commit_lsn)
        if self._only_reads:
            self._read_part(step)
            return
        if self._parts.are_rows_in(part):
            self.ordinal = self.paths.add_encoded(Encoded(source, first, part.change_count, part.changes))
        else:
            changes = self.opened.approval.watching(self._parts.feed(part))
            try:
                self.ordinal = self.paths.add(source, changes, first_ordinal=first)
            except ApprovalNeeded:
                self._abandon()
                self._only_reads = True
                deque(changes, maxlen=0)  # what is left of the part is watched as it passes, too
                self._end_reading(step)
                return
        failpoint("apply.part_applied")
        if step.position is not None:
            self.paths.push()
            writer.move(_past(part).lsn, step.position, place=planner.hint)
            writer.commit()
            self._moved(part.commit_lsn)
        planner.done(step)
        self._counters.behind_at = time.monotonic()
        self._counters.count(
            transactions=1 if part.commit is not None else 0,
            changes=self.ordinal - first,
            size_bytes=len(part.changes),
            took_s=time.monotonic() - started,
        )

    def _decide(self, transaction: Transaction | Part) -> None:
        self.opened.writer.decide(self.opened.approval.decision_for(transaction.commit_lsn))

    def _wait_for_approval(self, transaction: Transaction | Part, changes: Sequence[Change]) -> None:
        self._abandon()
        self.opened.approval.begin()
        self.opened.approval.see(changes)
        self.opened.approval.wait(transaction)

    def _read_part(self, step: ApplyPart) -> None:
        """Of a transaction that must be approved: what else it has is looked at, and nothing applied."""
        if not self._parts.are_rows_in(step.part):
            self.opened.approval.see(self._parts.feed(step.part))
        self._end_reading(step)

    def _end_reading(self, step: ApplyPart) -> None:
        if step.position is not None:
            self.opened.approval.wait(step.part)
            raise ReadAgain("a transaction in parts waits for approval", code="schema-waits")
        self.opened.planner.done(step)

    def _roll_back(self, step: RollBack) -> None:
        self._abandon()
        self.opened.planner.done(step)

    def _abandon(self) -> None:
        """Nothing of the open target transaction is committed."""
        self.paths.forget()
        self.opened.writer.rollback()

    def _move(self, position: Position) -> None:
        opened = self.opened
        planner = opened.planner
        opened.writer.begin(planner.position.lsn, position, place=planner.hint)
        opened.writer.commit()
        planner.done(Move(position))
        self._moved(None)

    def _set_sequences(self, step: SetSequences) -> None:
        """Nothing is written where none is behind."""
        opened = self.opened
        planner, writer = opened.planner, opened.writer
        for some in writer.sequences_behind(step.values).portions():
            writer.begin(planner.position.lsn, planner.position, place=planner.hint)
            writer.set_sequences(some)
            writer.commit()
            self._counters.sequences += len(some)
        planner.done(step)

    def _moved(self, commit_lsn: Lsn | None) -> None:
        self._moved_at = time.monotonic()
        if commit_lsn is not None:
            self._counters.last_commit_lsn = commit_lsn

    def _find_out(self) -> None:
        """The compare-and-set was lost: by a hold we did not know of, or start again from the row."""
        opened = self.opened
        row = progress.read(opened.session, opened.claim.name)
        loss = explain(opened.claim, row, old=opened.planner.position)
        if loss is Loss.HELD and not opened.planner.inside:
            opened.look()
            return
        raise RetryLater(
            f"the replica is no longer at {opened.planner.position}",
            code="position-moved",
            hint="Apply goes on from where the replica is. If this comes again and again, run only one"
            " `keepstream apply` or `run` per replica.",
        )

    def _wait(self, blocked: Blocked) -> None:
        opened = self.opened
        if blocked is Blocked.LOG_END:
            self._stand()
            if opened.planner.inside:
                self._stay_in_touch()
            elif self._look():
                self._see_awaiting()
            if not self._read():
                self.blocked = blocked
                if not opened.follower.waits_for_epoch:  # else what came was ignored, and will come again
                    self._counters.log_end_at = time.time()
        else:
            self.blocked = blocked
            self._stop.wait(_HELD_LOOK_S)
            self._look(now=blocked is Blocked.HELD)
            if blocked is Blocked.UNAPPROVED:
                self.opened.approval.look()

    def _stay_in_touch(self) -> None:
        """Inside of a transaction whose rest is missing the session would be silent: another applier would
        take the replica over (P14), and nobody would notice that the session died."""
        if self._only_reads:
            return
        if time.monotonic() - self._looked_at >= TOUCH_EVERY_S:
            self._looked_at = time.monotonic()
            self.paths.push()
            self.opened.writer.touch()
        elif not self.paths.send():
            self.opened.writer.push()

    def _stand(self) -> None:
        """Move to where the log says nothing is missing: rarely, but at once if somebody waits there."""
        hold = self.opened.hold
        if hold is not None or time.monotonic() - self._moved_at >= STANDING_EVERY_S:
            move = self.opened.planner.stand(hold)
            if move is not None:
                self._take(move)

    def _read(self) -> bool:
        """Whether anything came: what was waited for, and where we are behind what is there beside it."""
        if self._failure is not None:
            raise self._failure
        backlog = self.opened.planner.backlog
        before_bytes = backlog.size_bytes
        came = self._feed(_READ_S)
        if backlog.size_bytes - before_bytes >= _PLENTY_BYTES:
            self._read_more(self._counters.limits())
        return came

    def _read_more(self, limits: Limits, *, beside_bytes: int = 0) -> None:
        """What is there, as long as the next group can take it. `beside_bytes`: of the backlog they are not
        for it."""
        planner = self.opened.planner
        while planner.wants_more(limits, beside_bytes=beside_bytes):
            before_bytes = planner.backlog.size_bytes
            self._feed(0.0)
            if planner.backlog.size_bytes - before_bytes < _PLENTY_BYTES:
                return

    def _feed(self, timeout_s: float) -> bool:
        followed = self.opened.follower.read(timeout_s)
        for frame in followed:
            self.opened.planner.backlog.feed(frame)
        return bool(followed)

    def _look(self, *, now: bool = False) -> bool:
        """Whether it was time to."""
        if not now and time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = time.monotonic()
        row = self.opened.look()
        if row.token != self.opened.claim.token or row.position != self.opened.planner.position:
            self._find_out()
        return True

    def _see_awaiting(self) -> None:
        """At the log's end: a copy that begins here soon is at one LSN with the source."""
        if self._awaited.is_automatic:
            awaiting = left_out.read(self.opened.session, self.opened.claim.name).awaiting
            self._awaited.see(awaiting, free=self.opened.hold is None)


def _past(part: Part) -> Position:
    """The first position that holds this part's transaction (P1), for a compare-and-set before its end is
    known: so a hold that we have not seen yet stops the transaction before its first change."""
    return Position(Lsn(part.commit_lsn + 1), part.xid, part.commit_time)
