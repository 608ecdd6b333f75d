"""The copies that apply makes by itself, of tables that came without their rows (decision 019).

One copy runs at a time, in the background, of all tables at once that have not failed yet. One that failed is
tried on its own, after a pause, so that it keeps no other from being copied. What the replica's own list says
decides: a table that left it, whoever copied it, is forgotten here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from connectors.postgres.catalog.publication import TableName
from pipeline.background import in_background
from pipeline.backoff import Backoff
from pipeline.copy.progress import CopyProgress, figures
from pipeline.quantities import human_seconds
from pipeline.reports import ReportedError
from schemas.errors import InternalError, KeepstreamError, RetryLater, Unhealthy
from schemas.identifiers import qualified

logger = logging.getLogger("keepstream.apply")

FIRST_S: Final = 2.0
LONGEST_S: Final = 300.0
"""The pause after a failure. It is no shorter than the attempt was, in which the replica may have stood
still, or, where a person must mend what failed, than all such attempts together."""
_PATIENCE_S: Final = 5.0
"""How long a copy that is told to end may take to let go of the servers."""
_NAMED: Final = 3
_TOLD_FROM: Final = 0.02
"""The share from which on the speed so far says how long the rest takes."""


class CopyTables(Protocol):
    """Copies those of the tables that still await it, exactly. Raises KeepstreamError; what was copied before
    that stays. `tell` and `on_progress` are called from its thread."""

    def __call__(
        self,
        tables: Sequence[TableName],
        *,
        stop: threading.Event,
        tell: Callable[[str], None],
        on_progress: Callable[[CopyProgress], None],
    ) -> object: ...


def _pauses() -> Backoff:
    return Backoff(first_s=FIRST_S, longest_s=LONGEST_S)


@dataclass(slots=True)
class _Tried:
    """A table whose copy was tried. error: of the last attempt, if it failed. due_at: by
    `time.monotonic()`. spent_s: in attempts that only a person could have made succeed."""

    due_at: float = 0.0
    error: ReportedError | None = None
    spent_s: float = 0.0
    pauses: Backoff = field(default_factory=_pauses)

    def pause(self) -> None:
        """After an attempt that ended well."""
        self.error = None
        self._wait(0.0)

    def fail(self, took_s: float, error: KeepstreamError) -> None:
        self.error = ReportedError.of(error)
        if not isinstance(error, RetryLater | Unhealthy):
            self.spent_s += took_s
        self._wait(max(took_s, self.spent_s))

    def _wait(self, at_least_s: float) -> None:
        self.due_at = time.monotonic() + max(at_least_s, self.pauses.next_s())


@dataclass(slots=True)
class _Running:
    """One attempt. doing: what it said last."""

    tables: tuple[TableName, ...]
    stop: threading.Event = field(default_factory=threading.Event)
    began_at: float = field(default_factory=time.monotonic)
    done: Future[object] = field(default_factory=Future)
    doing: str = "it begins"
    progress: CopyProgress | None = None

    def tell(self, text: str) -> None:
        self.doing = text

    def show(self, seen: CopyProgress) -> None:
        self.progress = seen
        self.doing = told_progress(seen)


class AwaitedCopies:
    """Of one applier, for the life of its process. The applier's thread calls `see` and `end`; what is shown
    may be asked for from any. `copy` None: an operator copies."""

    def __init__(self, copy: CopyTables | None) -> None:
        self._copy = copy
        self._tried: dict[TableName, _Tried] = {}
        self._running: _Running | None = None
        self._told: str | None = None
        self._lock = threading.Lock()

    @property
    def is_automatic(self) -> bool:
        return self._copy is not None

    @property
    def is_running(self) -> bool:
        return self._running is not None

    def see(self, awaiting: Iterable[TableName], *, free: bool) -> None:
        """The replica's list as it is now. `free`: nobody holds the replica, and it is at the log's end, so
        that a copy may begin."""
        if self._copy is None:
            return
        awaiting = set(awaiting)
        with self._lock:
            for table in self._tried.keys() - awaiting:
                del self._tried[table]
        if free and self._running is None and (due := self._due(awaiting)):
            self._begin(self._copy, due)

    def end(self) -> None:
        """The copy that runs is told to end, and waited for if it does soon."""
        running = self._running
        if running is not None:
            running.stop.set()
            wait([running.done], timeout=_PATIENCE_S)

    @property
    def waiting_for(self) -> str:
        """What the replica stands still for while a copy holds it."""
        running = self._running
        if running is None:
            return "a copy to end"
        return f"the copy of {_names(running.tables)}: {running.doing}"

    def details(self) -> dict[str, object]:
        """For the stage's report: `copy`, the figures of the one that runs, and `awaited_copies`. Empty where
        an operator copies."""
        if self._copy is None:
            return {}
        running = self._running
        with self._lock:
            tried = dict(self._tried)
        failed = {
            qualified(*table): each.error.model_dump() | {"retry_s": each.due_at - time.monotonic()}
            for table, each in tried.items()
            if each.error is not None
        }
        seen = running.progress if running is not None else None
        said: dict[str, object] = {
            "running": [qualified(*table) for table in running.tables] if running is not None else [],
            "doing": running.doing if running is not None else None,
            "failed": failed,
        }
        return {"awaited_copies": said, **({"copy": figures(seen)} if seen is not None else {})}

    def _due(self, awaiting: Iterable[TableName]) -> tuple[TableName, ...]:
        now = time.monotonic()
        with self._lock:
            due = [table for table in sorted(awaiting) if self._tries_of(table).due_at <= now]
            fresh = tuple(table for table in due if self._tries_of(table).error is None)
            return fresh or tuple(sorted(due, key=lambda table: self._tries_of(table).due_at)[:1])

    def _tries_of(self, table: TableName) -> _Tried:
        return self._tried.get(table) or _Tried()

    def _begin(self, copy: CopyTables, tables: tuple[TableName, ...]) -> None:
        self._running = running = _Running(tables)
        is_news = not any(self._tries_of(table).error for table in tables)
        level = logging.INFO if is_news else logging.DEBUG
        logger.log(level, "copy of tables that await it begins", extra={"tables": _names(tables)})
        work = partial(copy, tables, stop=running.stop, tell=running.tell, on_progress=running.show)
        running.done = in_background(work, name="awaited copies")
        running.done.add_done_callback(partial(self._ended, running))

    def _ended(self, running: _Running, done: Future[object]) -> None:
        try:
            self._judge(running, _understood(done.exception()))
        finally:  # else no copy would begin any more
            self._running = None

    def _judge(self, running: _Running, error: KeepstreamError | None) -> None:
        took_s = time.monotonic() - running.began_at
        if error is None:
            self._told = None
            for tried in self._all_tried(running.tables):
                tried.pause()  # one that leaves its table on the list must not run on and on
            logger.info(
                "copy of tables that await it ended",
                extra={"tables": _names(running.tables), "took_s": round(took_s, 1)},
            )
        elif running.stop.is_set() or error.code == "replica-held":
            logger.info(
                "copy of tables that await it gives way", extra={"code": error.code, "error": error.message}
            )
        else:
            for tried in self._all_tried(running.tables):
                tried.fail(took_s, error)
            self._say(error, running.tables)

    def _all_tried(self, tables: Sequence[TableName]) -> list[_Tried]:
        with self._lock:
            return [self._tried.setdefault(table, _Tried()) for table in tables]

    def _say(self, error: KeepstreamError, tables: Sequence[TableName]) -> None:
        """Once a kind, until a copy works again: `status` shows it all the time."""
        level = logging.DEBUG if error.code == self._told else logging.WARNING
        self._told = error.code
        logger.log(
            level,
            "copy of tables that await it failed, and is tried again",
            extra={
                "tables": _names(tables),
                "code": error.code,
                "error": error.message,
                "fix": error.hint,
            },
        )


def told_progress(seen: CopyProgress) -> str:
    """`45 %, about 20.0 s left`."""
    share = seen.bytes_done / seen.bytes_estimated if seen.bytes_estimated else 0.0
    is_known = seen.eta_s is not None and share > _TOLD_FROM
    left = f", about {human_seconds(max(0.0, seen.eta_s or 0.0))} left" if is_known else ""
    return f"{min(99, int(100 * share))} %{left}"


def _names(tables: Sequence[TableName]) -> str:
    shown = ", ".join(qualified(*table) for table in tables[:_NAMED])
    return shown if len(tables) <= _NAMED else f"{shown} and {len(tables) - _NAMED} more"


def _understood(error: BaseException | None) -> KeepstreamError | None:
    """A bug of ours in a copy does not end apply."""
    if error is None or isinstance(error, KeepstreamError):
        return error
    logger.error("a copy failed unexpectedly", exc_info=error)
    return InternalError(
        f"the copy failed unexpectedly ({type(error).__name__})",
        code="internal",
        hint="Its traceback stands in the applier's output: report it as a bug.",
    )
