"""The contracts between the pipeline and the change log's homes.

`ChangeLog` has two implementations, `connectors.log.kafka` and `connectors.log.directory`; the suite
in tests/contract runs on both. A log is one sequence of opaque records. A *place* is an int that
names where a record stands: ordered, not dense, only valid for the log that gave it. What the
records mean, and which of them are valid, is `schemas.frame` and `schemas.validity`, not the log's
business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from schemas.finding import Finding


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it stands in the log. `next_place` is where a reader goes on after it."""

    place: int
    next_place: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Bounds:
    """`first`: place of the oldest record kept; `end`: place after the newest. Equal when empty."""

    first: int
    end: int


class LogReader(Protocol):
    """Reads records in log order, from one place on. Not thread-safe."""

    def read(self, timeout_s: float) -> list[Record]:
        """The next records, at least one as soon as there is one, or [] after `timeout_s`.

        In order, none skipped, none twice; at most a few MiB a call unless one record is larger.
        Directory: bytes past the valid length that a later epoch named for a file are never returned.
        Raises PlaceTrimmed (`log-trimmed`) if the place is gone, HistoryBroken (`log-recreated`) if
        the log is shorter than the place or another log, RetryLater (`log-unreachable`).
        """
        ...

    def close(self) -> None: ...


class LogWriter(Protocol):
    """Appends the records of one epoch (P8). One thread uses it."""

    @property
    def start_place(self) -> int:
        """The place of this epoch's CAPTURE_START record."""
        ...

    @property
    def pace_s(self) -> float:
        """How far apart records of a steady stream should be: each costs log and readers a round."""
        ...

    def append(self, record: bytes, *, boundary: bool = False) -> None:
        """Accept a record, in order. Accepted promises nothing; see `durable`.

        Blocks while too much is in flight. `boundary`: a reader may begin at this record (an ANCHOR);
        a log made of files starts a new file with it. Raises LogFenced, RetryLater.
        """
        ...

    def is_idle(self, timeout_s: float) -> bool:
        """Whether every accepted record has its answer, for which it waits up to `timeout_s`. That says
        nothing of P8."""
        ...

    def durable(self, timeout_s: float) -> int:
        """How many records after CAPTURE_START are durable in the sense of P8, as one prefix.

        Waits until the number grew since the last call or `timeout_s` passed (0: only looks).
        Raises LogFenced if a record cannot be proven ours and contiguous; nothing after that is
        ever reported durable.
        """
        ...

    def close(self) -> None:
        """Release connections and files; does not wait for records in flight."""
        ...


class ChangeLog(Protocol):
    """One change log. Methods raise RetryLater (`log-unreachable`) when its servers are away."""

    @property
    def name(self) -> str:
        """What messages call it: the URL without secrets, with topic or folder."""
        ...

    def exists(self) -> bool: ...

    def create(self) -> None:
        """Make the log with the settings that the protocol needs; nothing happens if it exists.

        Kafka: one partition, not compacted, retention −1, acks and min.insync.replicas as the
        configuration says. Raises OperatorNeeded where it exists with settings that lose data.
        """
        ...

    def bounds(self) -> Bounds:
        """Raises HistoryBroken (`log-missing`) if the log does not exist."""
        ...

    def rewind(self, place: int, times: int = 1, *, first: int) -> int:
        """A place at or before which at least one earlier record stands and reading can begin:
        Kafka some hundred records before `place`, directory the start of the previous file. `times`: so
        often at once. `first`: as `bounds` told it, returned when there is nothing earlier."""
        ...

    def reader(self, place: int | None = None) -> LogReader:
        """A reader that begins at `place`; None: at the oldest record."""
        ...

    def expect_epoch(self) -> None:
        """An epoch of this log, which exists, will soon be begun: do in the background what that takes.
        Waits for nothing and raises nothing."""
        ...

    def expect_reader(self) -> None:
        """The same for a reader. The log may be missing."""
        ...

    def begin_epoch(self, epoch: int, record: bytes, *, is_ignorable: Callable[[bytes], bool]) -> LogWriter:
        """Append a CAPTURE_START record durably and return the writer of that epoch.

        `is_ignorable(value)` says of a record that somebody else wrote between ours whether every
        reader ignores it (P8). Directory: creates the epoch's file exclusively; raises LogFenced
        (`epoch-taken`) if it exists. The caller then reads the log up to `start_place` (P5).
        """
        ...

    def trim(self, before: int) -> None:
        """Delete records before `before`, as far as the home can (P12). The caller chose an anchor
        that it has read as valid."""
        ...

    def inspect(self) -> list[Finding]:
        """What `check` must know of the log's home: settings, replication, free space. Never writes."""
        ...

    def put_report(self, stage: str, report: bytes) -> None:
        """Publish a stage's newest status report beside the log, for `status` on any host."""
        ...

    def reports(self) -> Mapping[str, bytes]:
        """The newest report of each stage. Reports are hints; truth is in slot, log and replica."""
        ...

    def destroy(self) -> str:
        """Delete the log and its reports for good (`teardown`). Returns what stays, in words, if anything."""
        ...

    def close(self) -> None: ...
