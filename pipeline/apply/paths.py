"""Which path a run of changes takes into the open target transaction (P15).

    exact    one statement a change, in source order: always right
    fast     the net change of each table, as sets: where that is provably equal, and worth it

Changes are gathered into slices. In a slice, a table with many changes goes as sets and the others one by
one: nothing on a replica ties tables together (no trigger fires, no foreign key is checked). What the replica
refuses as sets is undone to the savepoint and sent again one by one, so that the exact path has the last word
about what is right and what is divergence.

Sets of one slice are written in a thread of their own while the next slice is made ready: that thread mostly
waits for the replica. Until it has ended (`_settle`) nobody else uses the session.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

from connectors.postgres.apply.errors import SourceRef
from connectors.postgres.apply.set_plans import SetPlan, SetRows
from connectors.postgres.apply.sets import SetRefused
from connectors.postgres.apply.writer import ReplicaWriter
from pipeline.apply import slices
from pipeline.apply.backlog import Whole
from pipeline.apply.slices import Encoded, Gathered, Run, Slice, only, size_of
from pipeline.background import in_background
from schemas.barrier import barrier_of
from schemas.change import Change
from schemas.errors import UsageError
from schemas.netchange import NotNettable

logger = logging.getLogger("keepstream.apply")


def least_set_changes(environment: Mapping[str, str]) -> int:
    """`LEAST_SET_CHANGES` there. Raises UsageError (`variable-invalid`)."""
    text = environment.get("KEEPSTREAM_SET_CHANGES", "100")
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise UsageError(
            f"KEEPSTREAM_SET_CHANGES is no number of changes: {text!r}",
            code="variable-invalid",
            hint="It is for tests of Keepstream: `unset KEEPSTREAM_SET_CHANGES`.",
        )
    return int(text)


LEAST_SET_CHANGES = least_set_changes(os.environ)
"""So many changes of one table are worth the round trips that sets take. Tests set the variable, so that
small transactions go as sets, too."""
HUGE_BYTES = 4 * 1024 * 1024
"""Of a larger row nothing is gathered and nothing kept while it is sent."""
_PATIENCE_SLICES = 64


_Set = tuple[SetPlan, SetRows, int]
"""How, what, and of how many changes."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A slice whose sets are being written. as_sets: how many changes of which tables go as sets."""

    slice: Slice
    as_sets: dict[str, int]
    written: Future[None]


class Paths:
    """Sends changes through a writer whose target transaction is open. `set_changes`, `single_changes`: how
    many went which way; `refused`: how often sets were undone."""

    def __init__(self, writer: ReplicaWriter) -> None:
        self.set_changes = 0
        self.single_changes = 0
        self.refused = 0
        self._writer = writer
        self._gathered = Slice()
        self._ready = Slice()
        self._under_way: UnderWay | None = None
        self._patience: dict[str, tuple[int, int]] = {}

    def add(self, source: SourceRef, changes: Iterable[Change], *, first_ordinal: int = 0) -> int:
        """Take changes of one source transaction; returns the ordinal after them.

        An error may be raised by a later call than the one that caused it. Raises what
        `ReplicaWriter.apply` does.
        """
        ordinal = first_ordinal
        rows: list[Change] = []
        ordinals: list[int] = []
        for change in changes:
            if change.payload is None and size_of(change) > HUGE_BYTES:
                held = [change]
                del change
                self._gather(source, ordinals, rows)
                rows, ordinals = [], []
                self.push()
                self._writer.apply_huge(source, held, ordinal)
                self.single_changes += 1
            elif change.payload is None:
                rows.append(change)
                ordinals.append(ordinal)
                if len(rows) >= slices.SLICE_CHANGES:
                    self._gather(source, ordinals, rows)
                    rows, ordinals = [], []
            elif barrier_of(change) is not None:
                self._gather(source, ordinals, rows)
                rows, ordinals = [], []
                self.push()
                self._writer.apply(source, (change,), (ordinal,))
            ordinal += 1
        self._gather(source, ordinals, rows)
        return ordinal

    def add_encoded(self, run: Encoded) -> int:
        """The same as `add`, of changes that are not decoded."""
        self._gathered.add(run, run.change_count, len(run.block))
        if self._gathered.is_full:
            self._send()
        return run.first_ordinal + run.change_count

    def add_whole(self, transactions: Sequence[Whole]) -> None:
        """Take whole transactions: the same as `add` for each, and fast for many small ones."""
        at = self._take_ready(transactions)
        while at < len(transactions):
            taken = self._gathered.take(transactions, at)
            if self._gathered.is_full:
                self._send()
            elif taken < len(transactions):
                whole, taken = transactions[taken], taken + 1
                self.add(SourceRef(whole.transaction.xid, whole.transaction.commit_lsn), whole.changes)
            at = taken

    def get_ready(self, transactions: Sequence[Whole]) -> None:
        """Make ready what may be the first slice of these, which `add_whole` may be given next. Asks the
        replica nothing. Raises RefusedData (`frame-format`)."""
        ready = Slice()
        ready.take(transactions, 0)
        for table, gathered in ready.by_table().items() if ready.changes >= LEAST_SET_CHANGES else ():
            if gathered.goes_as_sets(LEAST_SET_CHANGES) and self._writer.knows_set_plan(table):
                plan = self._writer.set_plan(table)
                if plan is not None:
                    with contextlib.suppress(NotNettable):
                        gathered.rows(plan)
        self._ready = ready

    def _take_ready(self, transactions: Sequence[Whole]) -> int:
        """Begin with the slice that was made ready, if it is what comes; how many of them it holds."""
        ready, self._ready = self._ready, Slice()
        count = len(ready.runs)
        if not count or self._gathered.runs or any(map(operator.is_not, ready.runs, transactions)):
            return 0
        if count > len(transactions):
            return 0
        self._gathered = ready
        if ready.is_full:
            self._send()
        return count

    def send(self) -> bool:
        """Send everything that was taken; returns whether sets of it are under way."""
        self._send()
        return self._under_way is not None

    def is_written(self, timeout_s: float) -> bool:
        """Whether the sets that are under way are written by then; so it is where none are."""
        under_way = self._under_way
        return under_way is None or bool(wait([under_way.written], timeout_s).done)

    def push(self) -> None:
        """Send everything that was taken, and wait until sets were answered."""
        self._send()
        self._settle()

    def forget(self) -> None:
        """The target transaction will be rolled back. Returns when the session is free."""
        if self._under_way is not None:
            wait([self._under_way.written])
        self._gathered, self._under_way = Slice(), None

    def _gather(self, source: SourceRef, ordinals: Sequence[int], rows: Sequence[Change]) -> None:
        if not rows:
            return
        size_bytes = sum(map(size_of, rows))
        self._gathered.add(Run(source, ordinals, rows), len(rows), size_bytes)
        if self._gathered.is_full:
            self._send()

    def _send(self) -> None:
        if not self._gathered.runs:
            return
        gathered, self._gathered = self._gathered, Slice()
        if gathered.changes < LEAST_SET_CHANGES:
            self._settle()
            runs = gathered.decoded()
            self._meet({change.table for run in runs for change in run.changes})
            self._send_singly(runs)
            return
        sets, singles = self._divide(gathered)
        self._settle()
        if not sets:
            self._send_singly(singles)
            return
        as_sets = {plan.name: count for plan, _, count in sets}
        written = in_background(lambda: self._write(sets, singles), name="apply sets")
        self._under_way = UnderWay(gathered, as_sets, written)

    def _write(self, sets: list[_Set], singles: list[Run]) -> None:
        """In the other thread."""
        self._writer.begin_sets()
        for run in singles:
            self._writer.apply(run.source, run.changes, run.ordinals)
        for plan, rows, _ in sets:
            self._writer.write_set(plan, rows)
        self._writer.settle_sets()

    def _settle(self) -> None:
        """Wait until the slice that is under way is written; if its sets were refused, and so it was undone,
        send it again on the exact path."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        try:
            under_way.written.result()
        except SetRefused as refusal:
            self.refused += 1
            self._lose_patience(refusal.table)
            logger.info("sets refused", extra={"table": refusal.table, "reason": refusal.reason})
            self._send_singly(under_way.slice.decoded())
            return
        for table, count in under_way.as_sets.items():
            self.set_changes += count
            self._regain_patience(table)
        self.single_changes += under_way.slice.changes - sum(under_way.as_sets.values())

    def _send_singly(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._writer.apply(run.source, run.changes, run.ordinals)
            self.single_changes += len(run.changes)

    # what goes as sets

    def _divide(self, gathered: Slice) -> tuple[list[_Set], list[Run]]:
        """The sets of a slice, and what is left of it."""
        by_table = gathered.by_table()
        self._meet(by_table.keys())
        sets = dict(self._sets(by_table))
        left = by_table.keys() - sets.keys()
        if not left:
            return list(sets.values()), []
        runs = gathered.decoded()
        if not sets:
            return [], runs
        return list(sets.values()), [rest for run in runs if (rest := only(run, left)).changes]

    def _sets(self, by_table: dict[bytes, Gathered]) -> Iterator[tuple[bytes, _Set]]:
        versions = Counter(self._writer.table_name(table) for table in by_table)
        for table, gathered in by_table.items():
            alone = versions[self._writer.table_name(table)] == 1  # else their order among each other counts
            if not alone or not gathered.goes_as_sets(LEAST_SET_CHANGES):
                continue
            plan = self._plan(table)
            if plan is None or not self._is_patient(plan.name):
                continue
            try:
                yield table, (plan, gathered.rows(plan), gathered.count)
            except NotNettable as reason:
                logger.debug("changes not netted", extra={"table": plan.name, "reason": str(reason)})

    def _meet(self, tables: Collection[bytes]) -> None:
        if not self._writer.has_met(tables):
            self._settle()  # the replica is asked
            self._writer.meet(tables)

    def _plan(self, table: bytes) -> SetPlan | None:
        if not self._writer.knows_set_plan(table):
            self._settle()  # the replica is asked
        return self._writer.set_plan(table)

    def _is_patient(self, table: str) -> bool:
        """Whether to try sets: after each refusal twice as many slices are sent singly."""
        wait, refusals = self._patience.get(table, (0, 0))
        if wait:
            self._patience[table] = wait - 1, refusals
        return not wait

    def _regain_patience(self, table: str) -> None:
        wait, refusals = self._patience.get(table, (0, 0))
        if refusals:
            self._patience[table] = wait, refusals - 1

    def _lose_patience(self, table: str) -> None:
        refusals = self._patience.get(table, (0, 0))[1] + 1
        self._patience[table] = min(_PATIENCE_SLICES, 2**refusals), refusals
