"""Capture in a thread of the test, and what the log then holds, decoded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from connectors.interfaces import ChangeLog
from pipeline.capture.options import CaptureOptions
from pipeline.capture.stage import CaptureStage
from pipeline.config.model import Keyless, Tables
from pipeline.dev.process import require
from pipeline.follow import Follower, follow_from_start
from pipeline.reports import StageReport
from schemas.avro import RowCodec
from schemas.change import Change
from schemas.errors import KeepstreamError
from schemas.frame import Anchor, CaptureStart, Heartbeat, Part, PartChanges, Sequences, Transactions
from schemas.sequence import SequenceValue
from tests.fix_postgres import Database


class RunningCapture:
    """A capture stage in a thread, and what became of it."""

    def __init__(self, options: CaptureOptions) -> None:
        self.stop = threading.Event()
        self.reports: list[StageReport] = []
        self.error: KeepstreamError | None = None
        self._stage = CaptureStage(options, self.stop, self.reports.append)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._stage.run()
        except KeepstreamError as error:
            self.error = error

    @property
    def waiting_for(self) -> str | None:
        return self._stage.snapshot().waiting_for

    @property
    def last_error(self) -> str | None:
        """The code of the newest error that it lives with."""
        error = self._stage.snapshot().last_error
        return error.code if error else None

    @property
    def schema_changes(self) -> Any:
        """What it says of their tracking."""
        return self._stage.snapshot().details["schema_changes"]

    def end(self) -> None:
        self.stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def ended_with(self) -> KeepstreamError:
        """The error that ended it by itself."""
        self._thread.join(20)
        assert self.error is not None
        return self.error


@contextmanager
def capturing(options: CaptureOptions) -> Iterator[RunningCapture]:
    running = RunningCapture(options)
    try:
        yield running
    finally:
        running.end()
    assert running.error is None


_followers: list[Follower] = []


def close_readers() -> None:
    """Of all contents that were read; a reader of Kafka holds connections."""
    while _followers:
        _followers.pop().close()


@dataclass(frozen=True)
class Committed:
    """One whole transaction of the log."""

    xid: int
    commit_lsn: int
    end_lsn: int
    changes: tuple[Change, ...]


class LogContent:
    """Everything valid in a log, decoded. `heartbeats`: their LSNs, and how many transactions came before.
    `sequences`: how many came before, and a value."""

    def __init__(self, log: ChangeLog) -> None:
        self.log = log
        self.follower: Follower = follow_from_start(log)
        _followers.append(self.follower)
        self.committed: list[Committed] = []
        self.heartbeats: list[tuple[int, int]] = []
        self.anchors: list[Anchor] = []
        self.sequences: list[tuple[int, SequenceValue]] = []
        self.parts = 0
        self._parts = PartChanges()
        self._open: list[Change] = []

    @property
    def transactions(self) -> list[list[Change]]:
        """Their changes alone."""
        return [list(one.changes) for one in self.committed]

    def read(self) -> LogContent:
        for followed in self.follower.read(0.2):
            body = followed.frame.body
            if isinstance(body, Transactions):
                self.committed += [
                    Committed(t.xid, t.commit_lsn, t.end_lsn, tuple(t.iter_changes()))
                    for t in body.transactions
                ]
            elif isinstance(body, Part):
                self._take_part(body)
            elif isinstance(body, CaptureStart):
                self._parts, self._open = PartChanges(), []
            elif isinstance(body, Heartbeat):
                self.heartbeats.append((body.at.lsn, len(self.committed)))
            elif isinstance(body, Sequences):
                self.sequences += [(len(self.committed), value) for value in body.values]
            else:
                self.anchors.append(body)
        return self

    def _take_part(self, part: Part) -> None:
        self.parts += 1
        self._open += self._parts.feed(part)
        if part.commit is not None:
            changes, self._open = tuple(self._open), []
            self.committed.append(Committed(part.xid, part.commit_lsn, part.commit.end_lsn, changes))

    def wait(self, condition: Callable[[LogContent], bool], what: str) -> None:
        require(lambda: condition(self.read()), 20.0, what=what)

    def wait_for(self, transactions: int) -> None:
        self.wait(lambda c: len(c.committed) >= transactions, f"{transactions} transactions")

    def rows(self, table: str) -> list[tuple[str, list[bytes | None]]]:
        """(operation, new row or old key) of every change of one table."""
        found = []
        for change in (change for one in self.committed for change in one.changes):
            version = self.follower.tables.get(change.table)
            if version is None or version.qualified_name != table:
                continue
            codec = RowCodec(version)
            if change.row is not None:
                found.append((change.operation.name, codec.decode_row(change.row)))
            elif change.old_key is not None:
                found.append((change.operation.name, codec.decode_key(change.old_key)))
        return found

    def ids(self, table: str) -> list[int]:
        """The first column of every change of one table."""
        return [int(row[0] or b"") for _, row in self.rows(table)]


def begun(log: ChangeLog) -> LogContent:
    """The log's content, once its first ANCHOR stands."""
    require(log.exists, 20.0, what="the log")
    content = LogContent(log)
    content.wait(lambda c: c.follower.chain.promised, "the first anchor")
    return content


def capture_options(source: Database, log: ChangeLog, **changes: Any) -> CaptureOptions:
    """Of a capture whose slot's name no other test has."""
    options = CaptureOptions(
        name="crm",
        source=source.dsn,
        log=log,
        publication="keepstream_crm",
        slot=f"keepstream_{source.name}",
        tables=Tables(),
        keyless=Keyless.EXCLUDE,
    )
    return replace(options, **changes)


def once(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, action: Callable[[], object], *, hit: int = 1
) -> list[str]:
    """Run `action` at one hit of a failpoint, by default the first, inside the capture's thread. Returns
    a list that holds the hits."""
    hits: list[str] = []

    def failpoint(reached: str) -> None:
        if reached == name:
            hits.append(reached)
            if len(hits) == hit:
                action()

    monkeypatch.setattr(f"{module}.failpoint", failpoint)
    return hits
