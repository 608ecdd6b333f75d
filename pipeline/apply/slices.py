"""What is gathered until it is worth sending: changes in source order, and what they are of each table.

Plain rows are kept as the log has them, and only decoded where somebody needs their values one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from connectors.postgres.apply.errors import SourceRef
from connectors.postgres.apply.set_plans import SetPlan, SetRows
from pipeline.apply.backlog import Whole
from schemas.change import Change
from schemas.changecodec import decode_changes, split_by_table

SLICE_CHANGES = 16_000
SLICE_BYTES = 6 * 1024 * 1024
WIDE_BYTES = 256 * 1024
"""Larger rows go one by one: sets hold several copies of a row in memory."""


class Run(NamedTuple):
    """Changes of one source transaction that stand together; `ordinals` are theirs. (A tuple: there are
    many.)"""

    source: SourceRef
    ordinals: Sequence[int]
    changes: Sequence[Change]

    @property
    def block(self) -> None:
        return None


class Encoded(NamedTuple):
    """The same of changes of one row each, as the log has them."""

    source: SourceRef
    first_ordinal: int
    change_count: int
    block: bytes

    def decoded(self) -> Run:
        """Raises RefusedData (`frame-format`)."""
        count = self.change_count
        ordinals = range(self.first_ordinal, self.first_ordinal + count)
        return Run(self.source, ordinals, decode_changes(self.block, count))


@dataclass(slots=True)
class Gathered:
    """A slice's changes of one table: in one block as the log has them, or decoded. No row is wider than
    `widest_bytes`."""

    count: int
    widest_bytes: int
    block: bytes | None = None
    changes: Sequence[Change] = ()
    _rows: tuple[SetPlan, SetRows] | None = None

    def goes_as_sets(self, least: int) -> bool:
        """Whether there are enough, and none too wide."""
        return self.count >= least and self.widest_bytes <= WIDE_BYTES

    def rows(self, plan: SetPlan) -> SetRows:
        """Made once for a plan. Raises NotNettable."""
        if self._rows is None or self._rows[0] is not plan:
            made = plan.rows_of(self.changes) if self.block is None else plan.rows_in(self.block, self.count)
            self._rows = plan, made
        return self._rows[1]


@dataclass(slots=True)
class Slice:
    """What is gathered, in source order."""

    runs: list[Run | Whole | Encoded] = field(default_factory=list)
    changes: int = 0
    size_bytes: int = 0
    widest_bytes: int = 0
    """No row is wider: what the largest run takes."""
    _by_table: dict[bytes, Gathered] | None = None

    def take(self, wholes: Sequence[Whole], at: int) -> int:
        """Take whole transactions from index `at` on, until it is full or one has more than
        `SLICE_CHANGES` rows, or other changes than rows; the index after them. Raises RefusedData
        (`frame-format`)."""
        for index in range(at, len(wholes)):
            whole = wholes[index]
            transaction = whole.transaction
            if self.is_full or transaction.change_count > SLICE_CHANGES or not whole.plain:
                return index
            self._by_table = None
            size_bytes = len(transaction.changes)
            self.runs.append(whole)
            self.changes += transaction.change_count
            self.size_bytes += size_bytes
            if size_bytes > self.widest_bytes:
                self.widest_bytes = size_bytes
        return len(wholes)

    def add(self, run: Run | Whole | Encoded, changes: int, size_bytes: int) -> None:
        self._by_table = None
        self.runs.append(run)
        self.changes += changes
        self.size_bytes += size_bytes
        self.widest_bytes = max(self.widest_bytes, size_bytes)

    @property
    def is_full(self) -> bool:
        return self.changes >= SLICE_CHANGES or self.size_bytes >= SLICE_BYTES

    def decoded(self) -> list[Run]:
        return [_decoded(run) for run in self.runs]

    def by_table(self) -> dict[bytes, Gathered]:
        """In each table's order."""
        if self._by_table is None:
            self._by_table = self._split()
        return self._by_table

    def _split(self) -> dict[bytes, Gathered]:
        blocks = [run.block for run in self.runs]
        if split_by_table is None or None in blocks:
            return self._decoded_by_table()
        split = split_by_table(blocks)
        return {table: Gathered(count, widest, block) for table, (count, block, widest) in split.items()}

    def _decoded_by_table(self) -> dict[bytes, Gathered]:
        by_table: dict[bytes, list[Change]] = {}
        for run in self.decoded():
            for change in run.changes:
                by_table.setdefault(change.table, []).append(change)
        widest = self.widest_bytes
        return {
            table: Gathered(
                len(changes), max(map(size_of, changes)) if widest > WIDE_BYTES else widest, changes=changes
            )
            for table, changes in by_table.items()
        }


def size_of(change: Change) -> int:
    """Bytes of its rows."""
    return len(change.row or b"") + len(change.old_row or b"")


def _decoded(run: Run | Whole | Encoded) -> Run:
    if isinstance(run, Run):
        return run
    if isinstance(run, Encoded):
        return run.decoded()
    transaction = run.transaction
    source = SourceRef(transaction.xid, transaction.commit_lsn)
    return Run(source, range(transaction.change_count), run.changes)


def only(run: Run, tables: set[bytes]) -> Run:
    """The changes of a run that are of these tables."""
    kept = [(o, c) for o, c in zip(run.ordinals, run.changes, strict=True) if c.table in tables]
    return Run(run.source, [o for o, _ in kept], [c for _, c in kept])
