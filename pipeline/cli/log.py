"""`keepstream log ls`: the change log's records, and which of them count."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.invocation import invocation

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
        entries = [entry.to_json() for entry in list_frames(opened, limit=limit, stop=stop_on_signals())]
    finally:
        opened.close()
    if as_json:
        for entry in entries:
            print_json_line(entry)
    else:
        _print(entries)


def _print(entries: list[dict[str, Any]]) -> None:
    from pipeline.cli.output import human_bytes, print_table, print_text

    columns = ("place", "epoch", "number", "kind", "transactions", "changes", "first LSN", "last LSN")
    rows = [
        (
            *(entry[name] for name in ("place", "epoch", "number", "kind", "transactions", "changes")),
            entry["first_lsn"],
            entry["last_lsn"],
            human_bytes(entry["bytes"]),
            entry["verdict"],
        )
        for entry in entries
    ]
    print_table((*columns, "bytes", "verdict"), rows)
    ignored = sum(entry["verdict"] not in ("start", "accepted") for entry in entries)
    print_text(
        f"{len(entries)} records" + (f", {ignored} of them ignored by every reader" if ignored else "")
    )
