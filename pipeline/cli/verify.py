"""`keepstream verify REPLICA`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.invocation import invocation

if TYPE_CHECKING:
    from pipeline.verify.result import TableResult, VerifyResult

app = typer.Typer()


@app.command()
def verify(
    context: typer.Context,
    replica: Annotated[str, typer.Argument(help="A replica's name in keepstream.yaml.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=32, help="Tables compared at a time.")] = 2,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Seconds until both sides must stand at one LSN.")
    ] = 300.0,
) -> None:
    """Compare a replica with the source at one LSN, every table. Exit code 6 if anything differs."""
    from pipeline.app import verify_options
    from pipeline.cli.output import print_json
    from pipeline.signals import stop_on_signals
    from pipeline.verify.run import verify as run

    called = invocation(context)
    config = called.config
    options = verify_options(config, replica, workers=workers, timeout_s=timeout_s)
    result = run(
        options,
        tables=config.source.tables,
        keyless=config.source.keyless,
        stop=stop_on_signals(),
        say=lambda text: typer.echo(f"verify: {text}", err=True),
        on_table=_say_table,
    )
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)
    if not result.identical:
        raise typer.Exit(6)


def _say_table(result: TableResult) -> None:
    if not result.identical:
        typer.echo(f"verify: {result.table} differs", err=True)


def _print(result: VerifyResult) -> None:
    from pipeline.cli.output import human_seconds, print_table, print_text

    rows = [
        (table.table, table.rows, "identical" if table.identical else _summary(table))
        for table in result.tables
    ]
    print_table(("table", "rows", "result"), rows)
    for table in result.tables:
        for key in table.differing_keys:
            print_text(f"{table.table}: {key}")
        if table.differing > len(table.differing_keys):
            print_text(f"{table.table}: and {table.differing - len(table.differing_keys)} more")
    for left_out in result.not_replicated:
        print_text(f"not compared: {left_out.table} ({left_out.reason})")
    differing = sum(not table.identical for table in result.tables)
    verdict = "identical" if result.identical else f"{differing} of {len(result.tables)} tables differ"
    print_text(
        f"{verdict} at LSN {result.lsn}: {len(result.tables)} tables, {result.rows} rows,"
        f" {human_seconds(result.took_s)}; the replica was held for {human_seconds(result.held_s)}"
    )


def _summary(table: TableResult) -> str:
    return table.problem or f"DIFFERS in {table.differing} rows ({table.replica_rows} on the replica)"
