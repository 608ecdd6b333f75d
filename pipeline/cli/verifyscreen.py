"""What `verify` shows on stderr while it works: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipeline.logs import say
from pipeline.printable import printable
from pipeline.quantities import human_seconds

if TYPE_CHECKING:
    from pipeline.verify.progress import VerifyProgress

_LINE_EVERY_S = 10.0


class VerifyScreen:
    """Enter it before the verification begins. Its methods may be called from any thread."""

    def __init__(self) -> None:
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
        text = describe(seen)
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task("comparing", total=None)
            self._bar.update(
                self._task, total=max(seen.bytes_total, 1), completed=seen.bytes_done, description=text
            )
        elif time.monotonic() - self._line_at >= _LINE_EVERY_S:
            self.tell(text)

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(printable(f"verify: {text}"), markup=False, highlight=False)
        else:
            say(f"verify: {text}")


def describe(seen: VerifyProgress) -> str:
    """`12 of 224 tables, 1,204,113 rows, 310,000 rows/s, 42.0 s left`."""
    left = "" if seen.eta_s is None else f", {human_seconds(seen.eta_s)} left"
    tables = f"{seen.tables_done} of {seen.tables_total} tables"
    return f"{tables}, {seen.rows:,} rows, {seen.rows_per_s:,.0f} rows/s{left}"


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
