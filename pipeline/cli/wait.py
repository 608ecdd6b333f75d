"""`keepstream wait REPLICA`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.invocation import LONGEST_S, invocation
from pipeline.logs import say

app = typer.Typer()


@app.command()
def wait(
    context: typer.Context,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="Its name in the configuration.")],
    *,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout", min=0, max=LONGEST_S, help="Seconds; then exit code 7. Without it: for ever."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Return when REPLICA holds all that was committed on the source when this was called.

    Its sequences stand at or past the source's then, so that applications may write there at once.
    """
    from pipeline.app import read_reports_of, replica_conninfo, source_conninfo
    from pipeline.cli.output import human_seconds, print_json, print_text
    from pipeline.control.wait import WaitOptions, wait_for_replica
    from schemas.lsn import format_lsn

    config = invocation(context).config
    options = WaitOptions(
        name=config.name,
        replica=replica,
        source_conninfo=source_conninfo(config),
        replica_conninfo=replica_conninfo(config, replica),
        publication=config.publication_name,
        slot=config.slot_name,
        reports=lambda: read_reports_of(config),
        timeout_s=timeout_s,
        delay_s=config.replicas[replica].delay.total_seconds(),
    )
    waited = wait_for_replica(options, lambda text: say(f"wait: {text}"))
    for name in waited.missing:
        say(f"wait: {replica} has no sequence {name}")
    for name in waited.hidden:
        say(f"wait: sequence {name} was not waited for: the source role may not read it")
    if as_json:
        print_json(
            {
                "replica": replica,
                "lsn": format_lsn(waited.lsn),
                "position": format_lsn(waited.position),
                "took_s": round(waited.took_s, 3),
                "sequences": waited.sequences,
                "missing_sequences": list(waited.missing),
                "hidden_sequences": list(waited.hidden),
            }
        )
        return
    took = human_seconds(waited.took_s)
    print_text(f"{replica} holds everything before {format_lsn(waited.lsn)} (waited {took})")
