"""`keepstream log ls`: the change log's records, and which of them count."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.invocation import invocation

if TYPE_CHECKING:
    from pipeline.control.frames import Entry

_ROWS_AT_ONCE = 1000
"""A table's columns are as wide as its rows need, so these are held. A longer list is several tables."""

app = typer.Typer(no_args_is_help=True)


@app.callback()
def log() -> None:
    """Look into the change log."""


@app.command()
def ls(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=0, help="The newest so many records; 0: all.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the log's records, oldest first. Readers go by those whose verdict is start or accepted."""
    from pipeline.app import open_log
    from pipeline.cli.output import print_json_line
    from pipeline.control.frames import list_frames
    from pipeline.signals import stop_on_signals

    opened = open_log(invocation(context).config)
    try:
        entries = list_frames(opened, limit=limit, stop=stop_on_signals())
        if as_json:
            for entry in entries:
                print_json_line(entry.to_json())
        else:
            _print(entries)
    finally:
        opened.close()


def _print(entries: Iterator[Entry]) -> None:
    from pipeline.cli.output import print_text

    count = ignored = 0
    while rows := list(islice(entries, _ROWS_AT_ONCE)):
        _print_table(rows)
        count += len(rows)
        ignored += sum(entry.verdict not in ("start", "accepted") for entry in rows)
    print_text(f"{count} records" + (f", {ignored} of them ignored by every reader" if ignored else ""))


def _print_table(entries: list[Entry]) -> None:
    from pipeline.cli.output import human_bytes, print_table

    columns = ("place", "epoch", "number", "kind", "transactions", "changes", "first LSN", "last LSN")
    rows = [
        (
            *(each.place, each.epoch, each.number, each.kind, each.transactions, each.changes),
            *(each.first_lsn, each.last_lsn, human_bytes(each.bytes), each.verdict),
        )
        for each in entries
    ]
    print_table((*columns, "bytes", "verdict"), rows)
