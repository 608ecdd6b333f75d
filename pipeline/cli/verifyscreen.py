"""What `verify` and `snapshot` show on stderr: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipeline.logs import say
from pipeline.printable import printable
from pipeline.quantities import human_seconds

if TYPE_CHECKING:
    from pipeline.copy.progress import CopyProgress
    from pipeline.verify.progress import VerifyProgress

_LINE_EVERY_S = 10.0


class VerifyScreen:
    """Enter it before the work begins. Its methods may be called from any thread."""

    def __init__(self, verb: str = "verify") -> None:
        self._verb = verb
        self._bar: Any = None
        self._task: Any = None
        self._line_at = time.monotonic()
        self._told = ""

    def __enter__(self) -> VerifyScreen:
        if sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, text: str) -> None:
        """One line; not again before there was another."""
        if text != self._told:
            self._told, self._line_at = text, time.monotonic()
            self._write(text)

    def show(self, seen: VerifyProgress) -> None:
        self._advance(seen.bytes_done, seen.bytes_total, describe(seen))

    def show_copy(self, seen: CopyProgress) -> None:
        self._advance(seen.bytes_done, seen.bytes_estimated or 0, describe_copy(seen))

    def _advance(self, bytes_done: int, bytes_total: int, text: str) -> None:
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self._verb, total=None)
            self._bar.update(self._task, total=max(bytes_total, 1), completed=bytes_done, description=text)
        elif time.monotonic() - self._line_at >= _LINE_EVERY_S:
            self.tell(text)

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(printable(f"{self._verb}: {text}"), markup=False, highlight=False)
        else:
            say(f"{self._verb}: {text}")


def describe(seen: VerifyProgress) -> str:
    """`12 of 224 tables, 1,204,113 rows, 310,000 rows/s, 42.0 s left`."""
    left = "" if seen.eta_s is None else f", {human_seconds(seen.eta_s)} left"
    tables = f"{seen.tables_done} of {seen.tables_total} tables"
    return f"{tables}, {seen.rows:,} rows, {seen.rows_per_s:,.0f} rows/s{left}"


def describe_copy(seen: CopyProgress) -> str:
    """`1 of 3 tables copied, 1,204,113 rows, 310,000 rows/s, 42.0 s left`."""
    left = "" if seen.eta_s is None else f", {human_seconds(max(0.0, seen.eta_s))} left"
    tables = f"{seen.tables_done} of {seen.tables_total} tables copied"
    return f"{tables}, {seen.rows_done:,} rows, {seen.rows_per_s or 0:,.0f} rows/s{left}"


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

    return Progress(
        SpinnerColumn(),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(file=sys.stderr),
        transient=True,
    )
