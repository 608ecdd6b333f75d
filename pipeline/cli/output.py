"""Results on stdout: JSON, JSON lines, SQL, tables and plain lines. Nothing else writes to stdout.

No control character of what is shown gets to the terminal raw.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.printable import printable, printable_json, printable_sql
from pipeline.quantities import human_bytes, human_seconds

__all__ = [
    "console",
    "human_bytes",
    "human_seconds",
    "json_line",
    "print_json",
    "print_json_line",
    "print_sql",
    "print_table",
    "print_text",
    "styled",
]

if TYPE_CHECKING:
    from rich.text import Text

PIPE_WIDTH = 200
"""Columns of a table that does not go to a terminal: wide, so that lines can be searched."""


def print_json(value: Any) -> None:
    """One document, indented."""
    sys.stdout.write(printable_json(json.dumps(value, ensure_ascii=False, indent=2)) + "\n")
    sys.stdout.flush()


def print_json_line(value: Any) -> None:
    """One object on one line, for streams."""
    sys.stdout.write(json_line(value) + "\n")
    sys.stdout.flush()


def json_line(value: Any) -> str:
    return printable_json(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def print_text(text: str) -> None:
    """One result in one line."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def print_sql(text: str) -> None:
    """SQL to be run as it is printed."""
    sys.stdout.write(printable_sql(text) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Columns of text; None is shown as `-`. Values are never read as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(styled("-" if value is None else str(value)) for value in row))
    console().print(table)


def styled(text: str, style: str = "") -> Text:
    """One line or cell for rich, never read as markup."""
    from rich.text import Text

    return Text(printable(text), style=style)


def console() -> Any:
    """A rich Console on stdout; colours only on a terminal."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
