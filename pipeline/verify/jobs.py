"""A comparison cut into parts: runs of blocks of one table on one side, which several sessions read.

Digests of parts add up, so neither side needs to know how the other one is cut. State only; the
threads that read are in `compare`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.digest import Blocks, Digest
from pipeline.verify.pairing import Pair

PART_BLOCKS: Final = 16_384
"""128 MiB of a table at a time: so long does an application's TRUNCATE wait for us at most."""


class Side(Enum):
    SOURCE = "source"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class Part:
    """One reading. `attempt`: of its job; a part of an earlier attempt counts for nothing."""

    job: Job
    side: Side
    table: SnapshotTable
    blocks: Blocks
    size_bytes: int
    attempt: int = 0


@dataclass(slots=True, eq=False)
class Job:
    """One pair of tables. left: parts that are still to be read. changed: one of its tables is no longer
    as the snapshot shows it."""

    pair: Pair
    left: int = 0
    attempt: int = 0
    changed: bool = False
    digests: dict[Side, Digest] = field(default_factory=lambda: dict.fromkeys(Side, Digest()))

    @property
    def equal(self) -> bool:
        return self.digests[Side.SOURCE] == self.digests[Side.REPLICA]

    def parts(self) -> list[Part]:
        found = []
        for side, tables in ((Side.SOURCE, self.pair.source.stored), (Side.REPLICA, self.pair.replica)):
            for table in tables:
                bounds = cut(table.blocks)
                size = table.size_bytes // len(bounds)
                found += [Part(self, side, table, blocks, size, self.attempt) for blocks in bounds]
        return found


def cut(blocks: int) -> Sequence[Blocks]:
    """The whole table as runs of blocks; the last one has no end, whatever was appended since."""
    starts = list(range(PART_BLOCKS, blocks, PART_BLOCKS))
    firsts: list[int | None] = [None, *starts]
    ends: list[int | None] = [*starts, None]
    return [Blocks(first, end) for first, end in zip(firsts, ends, strict=True)]


class Jobs:
    """All jobs of one meeting, largest first. Thread-safe. `on_done` is called with a job whose parts have
    all been read, or whose table changed; never twice, and by one thread at a time."""

    def __init__(self, pairs: Iterable[Pair], on_done: Callable[[Job], None]) -> None:
        self._on_done = on_done
        self._lock = threading.Lock()
        self._waiting: dict[Side, deque[Part]] = {side: deque() for side in Side}
        self.jobs = [Job(pair) for pair in sorted(pairs, key=lambda pair: -pair.source.size_bytes)]
        self._open = len(self.jobs)
        for job in self.jobs:
            self._enqueue(job)
            if not job.left:  # a partitioned table without partitions, on both sides
                self._done(job)

    def parts(self, side: Side) -> int:
        return len(self._waiting[side])

    @property
    def open(self) -> bool:
        """Whether some job is not done."""
        return self._open > 0

    def take(self, side: Side) -> Part | None:
        """The next part of this side; None: there is none now."""
        with self._lock:
            waiting = self._waiting[side]
            while waiting:
                part = waiting.popleft()
                if not self._is_void(part):
                    return part
            return None

    def read(self, part: Part, digest: Digest) -> None:
        with self._lock:
            if self._is_void(part):
                return
            job = part.job
            job.digests[part.side] += digest
            job.left -= 1
            if job.left == 0:
                self._done(job)

    def changed(self, part: Part) -> None:
        """The part's table is no longer as the snapshot shows it."""
        with self._lock:
            if not self._is_void(part):
                part.job.changed = True
                self._done(part.job)

    def widen(self, part: Part) -> bool:
        """Read the job's tables again, each column for itself; False if that was being done."""
        with self._lock:
            job = part.job
            if self._is_void(part):
                return True
            if job.pair.shape.wide:
                return False
            job.attempt += 1
            job.pair = replace(job.pair, shape=replace(job.pair.shape, wide=True))
            job.digests = dict.fromkeys(Side, Digest())
            self._enqueue(job)
            return True

    def _enqueue(self, job: Job) -> None:
        parts = job.parts()
        job.left = len(parts)
        for part in parts:
            self._waiting[part.side].append(part)

    def _is_void(self, part: Part) -> bool:
        return part.attempt != part.job.attempt or part.job.changed

    def _done(self, job: Job) -> None:
        self._open -= 1
        self._on_done(job)
