"""`keepstream pause REPLICA`: hold a replica where it stands, from any host (P16)."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.invocation import invocation
from pipeline.cli.output import print_text

app = typer.Typer()


@app.command()
def pause(
    context: typer.Context,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="Its name in the configuration.")],
) -> None:
    """Hold REPLICA at the position that it has now, until `keepstream resume REPLICA`.

    A transaction that is being applied is finished first.
    """
    from connectors.postgres.hold import hold
    from connectors.postgres.progress import HoldKind
    from connectors.postgres.session import connect
    from pipeline.app import replica_conninfo
    from schemas.lsn import format_lsn

    config = invocation(context).config
    with connect(replica_conninfo(config, replica), purpose=f"pause:{config.name}:{replica}") as session:
        held_at = hold(session, config.name, HoldKind.PAUSE, replica=replica)
    print_text(f"{replica} is paused at {format_lsn(held_at)}")
