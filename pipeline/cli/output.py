"""Results on stdout: JSON, JSON lines, tables and plain lines. Nothing else writes to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.quantities import human_bytes, human_seconds

__all__ = [
    "console",
    "human_bytes",
    "human_seconds",
    "print_json",
    "print_json_line",
    "print_table",
    "print_text",
]

PIPE_WIDTH = 200
"""Columns of a table that does not go to a terminal: wide, so that lines can be searched."""


def print_json(value: Any) -> None:
    """One document, indented."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
    sys.stdout.flush()


def print_json_line(value: Any) -> None:
    """One object on one line, for streams."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def print_text(text: str) -> None:
    """One result as it is, with a line break."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Columns of text; None is shown as `-`. Values are never read as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if value is None else str(value)) for value in row))
    console().print(table)


def console() -> Any:
    """A rich Console on stdout; colours only on a terminal."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
