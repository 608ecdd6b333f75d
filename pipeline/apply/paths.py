"""Which path a run of changes takes into the open target transaction (DESIGN §4, P15).

    exact    one statement a change, in source order: always right
    fast     the net change of each table, as sets: where that is provably equal, and worth it

Changes are gathered into slices. In a slice, a table with many changes goes as sets and the others one by
one: nothing on a replica ties tables together (no trigger fires, no foreign key is checked). What the replica
refuses as sets is undone to the savepoint and sent again one by one, so that the exact path has the last word
about what is right and what is divergence. The replica works on one slice while the next is made ready.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from connectors.postgres.apply_errors import SourceRef
from connectors.postgres.apply_sets import SetPlan, SetRefused
from connectors.postgres.writer import ReplicaWriter
from schemas.barrier import barrier_of
from schemas.change import Change
from schemas.netchange import NetChange, NotNettable

logger = logging.getLogger("keepstream.apply")

SLICE_CHANGES = 4_000
SLICE_BYTES = 2 * 1024 * 1024
SET_CHANGES = int(os.environ.get("KEEPSTREAM_SET_CHANGES", "100"))
"""So many changes of one table are worth the round trips that sets take. Tests set the variable, so that
small transactions go as sets, too."""
WIDE_BYTES = 256 * 1024
"""Larger rows go one by one: sets hold several copies of a row in memory."""
_PATIENCE_SLICES = 64


_Set = tuple[SetPlan, NetChange, int]
"""How, what, and of how many changes."""


class Run(NamedTuple):
    """Changes of one source transaction that stand together; `ordinals` are theirs. (A tuple: there are
    many.)"""

    source: SourceRef
    ordinals: Sequence[int]
    changes: Sequence[Change]


@dataclass(slots=True)
class Slice:
    """What is gathered, in source order."""

    runs: list[Run] = field(default_factory=list)
    changes: int = 0
    size_bytes: int = 0
    as_sets: dict[str, int] = field(default_factory=dict)
    """How many changes of which tables are under way as sets."""

    def add(self, run: Run, size_bytes: int) -> None:
        self.runs.append(run)
        self.changes += len(run.changes)
        self.size_bytes += size_bytes

    @property
    def is_full(self) -> bool:
        return self.changes >= SLICE_CHANGES or self.size_bytes >= SLICE_BYTES


class Paths:
    """Sends changes through a writer whose target transaction is open. `set_changes`, `single_changes`: how
    many went which way; `refused`: how often sets were undone."""

    def __init__(self, writer: ReplicaWriter) -> None:
        self.set_changes = 0
        self.single_changes = 0
        self.refused = 0
        self._writer = writer
        self._gathered = Slice()
        self._under_way: Slice | None = None
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
            if change.payload is None:
                rows.append(change)
                ordinals.append(ordinal)
                if len(rows) >= SLICE_CHANGES:
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

    def add_rows(self, source: SourceRef, changes: Sequence[Change], *, size_bytes: int) -> None:
        """The same for a transaction of rows alone."""
        for start in range(0, len(changes), SLICE_CHANGES):
            rows = changes[start : start + SLICE_CHANGES]
            part_bytes = size_bytes * len(rows) // len(changes)
            self._gather(source, range(start, start + len(rows)), rows, part_bytes)

    def push(self) -> None:
        """Send everything that was taken, and wait until sets were answered."""
        self._send()
        self._settle()

    def forget(self) -> None:
        """The target transaction was rolled back."""
        self._gathered, self._under_way = Slice(), None

    def _gather(
        self,
        source: SourceRef,
        ordinals: Sequence[int],
        rows: Sequence[Change],
        size_bytes: int | None = None,
    ) -> None:
        if not rows:
            return
        if size_bytes is None:
            size_bytes = sum([len(c.row or b"") + len(c.old_row or b"") for c in rows])
        self._gathered.add(Run(source, ordinals, rows), size_bytes)
        if self._gathered.is_full:
            self._send()

    def _send(self) -> None:
        gathered, self._gathered = self._gathered, Slice()
        if gathered.changes < SET_CHANGES:
            self._settle()
            self._send_singly(gathered.runs)
            return
        sets, singles = self._divide(gathered)
        self._settle()
        if not sets:
            self._send_singly(singles)
            return
        self._under_way = gathered
        gathered.as_sets = {plan.name: count for plan, _, count in sets}
        self._writer.begin_sets()
        self._send_singly(singles)
        try:
            for plan, net, _ in sets:
                self._writer.write_set(plan, net)
        except SetRefused as refusal:
            self._send_again(refusal)

    def _settle(self) -> None:
        if self._under_way is None:
            return
        try:
            self._writer.settle_sets()
        except SetRefused as refusal:
            self._send_again(refusal)
            return
        for table, count in self._under_way.as_sets.items():
            self.set_changes += count
            self._regain_patience(table)
        self._under_way = None

    def _send_again(self, refusal: SetRefused) -> None:
        """The exact path for a slice whose sets were undone."""
        self.refused += 1
        self._lose_patience(refusal.table)
        logger.info("sets refused", extra={"table": refusal.table, "reason": refusal.reason})
        undone, self._under_way = self._under_way, None
        assert undone is not None
        self.single_changes -= undone.changes - sum(undone.as_sets.values())  # undone with the sets
        self._send_singly(undone.runs)

    def _send_singly(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._writer.apply(run.source, run.changes, run.ordinals)
            self.single_changes += len(run.changes)

    # what goes as sets

    def _divide(self, gathered: Slice) -> tuple[list[_Set], list[Run]]:
        """The sets of a slice, and what is left of it."""
        by_table: dict[bytes, list[Change]] = {}
        for run in gathered.runs:
            for change in run.changes:
                by_table.setdefault(change.table, []).append(change)
        sets = dict(self._nets(by_table))
        if not sets:
            return [], gathered.runs
        left = by_table.keys() - sets.keys()
        if not left:
            return list(sets.values()), []
        return list(sets.values()), [rest for run in gathered.runs if (rest := _only(run, left)).changes]

    def _nets(self, by_table: dict[bytes, list[Change]]) -> Iterator[tuple[bytes, _Set]]:
        versions = Counter(self._writer.table_name(table) for table in by_table)
        for table, changes in by_table.items():
            alone = versions[self._writer.table_name(table)] == 1  # else their order among each other counts
            if not alone or len(changes) < SET_CHANGES or any(map(_is_wide, changes)):
                continue
            plan = self._plan(table)
            if plan is None or not self._is_patient(plan.name):
                continue
            try:
                yield table, (plan, plan.netting.net(changes), len(changes))
            except NotNettable as reason:
                logger.debug("changes not netted", extra={"table": plan.name, "reason": str(reason)})

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


def _is_wide(change: Change) -> bool:
    return len(change.row or b"") > WIDE_BYTES or len(change.old_row or b"") > WIDE_BYTES


def _only(run: Run, tables: set[bytes]) -> Run:
    """The changes of a run that are of these tables."""
    kept = [(o, c) for o, c in zip(run.ordinals, run.changes, strict=True) if c.table in tables]
    return Run(run.source, [o for o, _ in kept], [c for _, c in kept])
