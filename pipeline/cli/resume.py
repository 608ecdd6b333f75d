"""`keepstream resume REPLICA`: end a pause, or a hold that `apply --until` left."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.invocation import LONGEST_S, invocation
from pipeline.cli.output import print_text
from pipeline.logs import say

app = typer.Typer()


@app.command()
def resume(
    context: typer.Context,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="Its name in the configuration.")],
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, max=LONGEST_S, help="Seconds; then exit code 7.")
    ] = 60.0,
) -> None:
    """Let REPLICA go on from where it is held. A verification that is under way ends without a result."""
    from connectors.postgres.replica.hold import between_transactions, release
    from connectors.postgres.replica.progress import require
    from connectors.postgres.session import connect
    from pipeline.app import replica_conninfo

    config = invocation(context).config
    with connect(replica_conninfo(config, replica), purpose=f"resume:{config.name}:{replica}") as session:
        position = require(session, config.name).position
        was_held = between_transactions(
            session,
            lambda: release(session, config.name),
            limit_s=timeout_s,
            on_wait=lambda: say(f"waiting for the transaction that {replica} is applying"),
        )
    print_text(f"{replica} goes on from {position}" if was_held else f"{replica} was not held")
