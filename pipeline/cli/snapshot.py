"""`keepstream snapshot REPLICA TABLE…`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.invocation import LONGEST_S, invocation
from pipeline.signals import INTERRUPTED

if TYPE_CHECKING:
    import threading

    from pipeline.cli.verifyscreen import VerifyScreen
    from pipeline.snapshot.recopy import CopyWish
    from pipeline.snapshot.run import SnapshotResult
    from pipeline.verify.meeting import VerifyOptions
    from pipeline.verify.scope import Scope

app = typer.Typer()

logger = logging.getLogger("keepstream.snapshot")


@app.command()
def snapshot(
    context: typer.Context,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="Its name in the configuration.")],
    tables: Annotated[
        list[str], typer.Argument(metavar="TABLE…", help="schema.table; a partitioned one: its partitions.")
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for keepstream.audit on the replica.")] = "",
    truncate: Annotated[
        bool,
        typer.Option(
            "--truncate", help="Empty tables by TRUNCATE: no dead rows, but the replica's readers wait."
        ),
    ] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=1,
            max=LONGEST_S,
            help="Seconds until the replica must stand at one LSN with the source, and for each lock; else"
            " 300 and its delay.",
        ),
    ] = None,
) -> None:
    """Copy tables of a running replica anew, whatever they hold now.

    The replica stands still, at the LSN of the source's snapshot, until they are copied; then it goes on.
    Each table is replaced in one transaction: it has all its old rows, or all the source's.
    """
    from pipeline.app import verify_options
    from pipeline.cli.output import print_json
    from pipeline.cli.verifyscreen import VerifyScreen
    from pipeline.selection import parse_tables
    from pipeline.signals import stop_on_signals
    from pipeline.snapshot.recopy import CopyWish
    from pipeline.verify.scope import Scope

    config = invocation(context).config
    options = verify_options(config, replica, workers=1, timeout_s=timeout_s, verb="snapshot")
    scope = Scope(config.source.tables, config.source.keyless, parse_tables(tables))
    stop = stop_on_signals()
    with VerifyScreen("snapshot") as screen:
        result = _run(options, scope, CopyWish(reason, truncate), stop, screen)
    if result is None:
        logger.warning("snapshot stopped before the end; what was copied stands in keepstream.audit")
        raise typer.Exit(INTERRUPTED)
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)


def _run(
    options: VerifyOptions, scope: Scope, wanted: CopyWish, stop: threading.Event, screen: VerifyScreen
) -> SnapshotResult | None:
    """In a thread, so that a server that hangs cannot keep us from ending. None: stopped."""
    from pipeline.cli.stoppable import until_stopped
    from pipeline.snapshot.run import snapshot as copy_tables

    def work() -> SnapshotResult:
        return copy_tables(options, scope, wanted, stop=stop, tell=screen.tell, on_progress=screen.show_copy)

    return until_stopped(work, name="snapshot", stop=stop)


def _print(result: SnapshotResult) -> None:
    from pipeline.cli.output import human_seconds, print_table, print_text
    from schemas.lsn import format_lsn

    print_table(
        ("table", "rows", "LSN", "took"),
        [
            (table.table, table.rows, format_lsn(table.lsn), human_seconds(table.took_s))
            for table in result.tables
        ],
    )
    for table in result.tables:
        if table.own_columns:
            names = ", ".join(table.own_columns)
            print_text(f"{table.table}: only the replica has {names}: every row has the default there")
    print_text(
        f"copied {len(result.tables)} tables, {result.rows} rows, in {human_seconds(result.took_s)};"
        f" the replica stood still for {human_seconds(result.held_s)}"
    )
