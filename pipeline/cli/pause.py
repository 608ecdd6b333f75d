"""`keepstream pause REPLICA`: hold a replica where it stands, from any host (P16)."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.invocation import LONGEST_S, invocation
from pipeline.cli.output import print_text
from pipeline.logs import say

app = typer.Typer()


@app.command()
def pause(
    context: typer.Context,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="Its name in the configuration.")],
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, max=LONGEST_S, help="Seconds; then exit code 7.")
    ] = 60.0,
) -> None:
    """Hold REPLICA at the position that it has now, until `keepstream resume REPLICA`.

    A transaction that is being applied is finished first. Until it is, at most --timeout seconds, this waits;
    if it gives up, or is killed, nothing has changed.
    """
    from connectors.postgres.replica.hold import between_transactions, hold
    from connectors.postgres.replica.progress import HoldKind
    from connectors.postgres.session import connect
    from pipeline.app import replica_conninfo
    from schemas.lsn import format_lsn

    config = invocation(context).config
    with connect(replica_conninfo(config, replica), purpose=f"pause:{config.name}:{replica}") as session:
        held_at = between_transactions(
            session,
            lambda: hold(session, config.name, HoldKind.PAUSE, replica=replica),
            limit_s=timeout_s,
            on_wait=lambda: say(f"waiting for the transaction that {replica} is applying"),
        )
    print_text(f"{replica} is paused at {format_lsn(held_at)}")
