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

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import NamedTuple

from connectors.postgres.apply_errors import SourceRef
from connectors.postgres.apply_sets import SetPlan, SetRefused
from connectors.postgres.writer import ReplicaWriter
from pipeline.apply.backlog import Loaded
from pipeline.background import in_background
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
HUGE_BYTES = 4 * 1024 * 1024
"""Of a larger row nothing is gathered and nothing kept while it is sent."""
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
    widest_bytes: int = 0
    """No row is wider: what the largest run takes."""

    def add(self, run: Run, size_bytes: int) -> None:
        self.runs.append(run)
        self.changes += len(run.changes)
        self.size_bytes += size_bytes
        self.widest_bytes = max(self.widest_bytes, size_bytes)

    @property
    def is_full(self) -> bool:
        return self.changes >= SLICE_CHANGES or self.size_bytes >= SLICE_BYTES


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
            if change.payload is None and _size_of(change) > HUGE_BYTES:
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

    def add_whole(self, transactions: Iterable[Loaded]) -> None:
        """Take whole transactions: the same as `add` for each, and fast for many small ones."""
        gathered = self._gathered
        for transaction, changes, plain in transactions:
            source = SourceRef(transaction.xid, transaction.commit_lsn)
            count = len(changes)
            if plain and count <= SLICE_CHANGES:
                gathered.add(Run(source, range(count), changes), len(transaction.changes))
                if gathered.is_full:
                    self._send()
            else:
                self.add(source, changes)
            gathered = self._gathered

    def send(self) -> bool:
        """Send everything that was taken; returns whether sets of it are under way."""
        self._send()
        return self._under_way is not None

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
        size_bytes = sum(map(_size_of, rows))
        self._gathered.add(Run(source, ordinals, rows), size_bytes)
        if self._gathered.is_full:
            self._send()

    def _send(self) -> None:
        if not self._gathered.runs:
            return
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
        as_sets = {plan.name: count for plan, _, count in sets}
        written = in_background(lambda: self._write(sets, singles), name="apply sets")
        self._under_way = UnderWay(gathered, as_sets, written)

    def _write(self, sets: list[_Set], singles: list[Run]) -> None:
        """In the other thread."""
        self._writer.begin_sets()
        for run in singles:
            self._writer.apply(run.source, run.changes, run.ordinals)
        for plan, net, _ in sets:
            self._writer.write_set(plan, net)
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
            self._send_singly(under_way.slice.runs)
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
        by_table: dict[bytes, list[Change]] = {}
        for run in gathered.runs:
            for change in run.changes:
                by_table.setdefault(change.table, []).append(change)
        sets = dict(self._nets(by_table, may_be_wide=gathered.widest_bytes > WIDE_BYTES))
        if not sets:
            return [], gathered.runs
        left = by_table.keys() - sets.keys()
        if not left:
            return list(sets.values()), []
        return list(sets.values()), [rest for run in gathered.runs if (rest := _only(run, left)).changes]

    def _nets(
        self, by_table: dict[bytes, list[Change]], *, may_be_wide: bool
    ) -> Iterator[tuple[bytes, _Set]]:
        versions = Counter(self._writer.table_name(table) for table in by_table)
        for table, changes in by_table.items():
            alone = versions[self._writer.table_name(table)] == 1  # else their order among each other counts
            if not alone or len(changes) < SET_CHANGES:
                continue
            if may_be_wide and any(map(_is_wide, changes)):
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


def _size_of(change: Change) -> int:
    """Bytes of its rows."""
    return len(change.row or b"") + len(change.old_row or b"")


def _is_wide(change: Change) -> bool:
    return len(change.row or b"") > WIDE_BYTES or len(change.old_row or b"") > WIDE_BYTES


def _only(run: Run, tables: set[bytes]) -> Run:
    """The changes of a run that are of these tables."""
    kept = [(o, c) for o, c in zip(run.ordinals, run.changes, strict=True) if c.table in tables]
    return Run(run.source, [o for o, _ in kept], [c for _, c in kept])
