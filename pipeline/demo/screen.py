"""What the demo shows: steps, work in progress, and a live table; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_PLAIN_WIDTH = 130
_TELL_EVERY_S = 3.0
_LIVE_ROWS = 16


class Screen:
    """One story on one terminal or pipe. `say` and the others may be called from one thread only."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=_PLAIN_WIDTH)
        self._start = time.monotonic()
        self._steps = 0

    def step(self, title: str) -> None:
        self._steps += 1
        self.console.print()
        self.console.print(Text(f"{self._steps}  {title}", style="bold"))

    def say(self, text: str, style: str = "") -> None:
        if self.console.is_terminal:
            self.console.print(Padding(Text(text, style=style), (0, 0, 0, 3)))
        else:
            self.console.print(Text(f"   {text}"), soft_wrap=True)

    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    @contextmanager
    def working(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show that something takes its time; the function given says what it is at, whenever it likes."""
        start = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(f"   {text}") as status:
                yield lambda news: status.update(Text(f"   {text} · {news}")) if news else None
        else:
            self.say(f"{text} …")
            yield self._rarely(text)
        self.say(f"{text}: done in {time.monotonic() - start:.1f} s", style="green")

    def _rarely(self, text: str) -> Callable[[str], None]:
        told = time.monotonic()

        def tell(news: str) -> None:
            nonlocal told
            if news and time.monotonic() > told + _TELL_EVERY_S:
                told = time.monotonic()
                self.say(f"{text} · {news}")

        return tell

    @contextmanager
    def rolling(self, columns: Sequence[str]) -> Iterator[Rolling]:
        """A table that grows at its end: the last rows on a terminal, one line a row otherwise."""
        rolling = Rolling(self, columns)
        if self.console.is_terminal:
            with Live(get_renderable=rolling.render, console=self.console, refresh_per_second=4):
                yield rolling
        else:
            self.console.print(rolling.line(columns))
            yield rolling

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str) -> None:
        table = Table(title=title, title_justify="left", title_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*map(Text, row))
        self.console.print(table)


class Rolling:
    """Rows of figures, and events between them."""

    def __init__(self, screen: Screen, columns: Sequence[str]) -> None:
        self._console = screen.console
        self._columns = columns
        self._rows: deque[Sequence[str]] = deque(maxlen=_LIVE_ROWS)

    def add(self, row: Sequence[str]) -> None:
        self._rows.append(row)
        if not self._console.is_terminal:
            self._console.print(self.line(row))

    def event(self, text: str, style: str) -> None:
        """A line that stays on the screen when the rows have rolled away."""
        self._console.print(Text(f"   {text}", style=style))

    def line(self, cells: Sequence[str]) -> Text:
        return Text("   " + "  ".join(cell.rjust(11) for cell in cells))

    def render(self) -> Table:
        table = Table(box=None, padding=(0, 2))
        for column in self._columns:
            table.add_column(column, justify="right", header_style="dim", min_width=9)
        for row in self._rows:
            table.add_row(*row)
        return table
