"""`keepstream teardown`: the end of a pipeline. Rows on replicas stay."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.invocation import invocation
from schemas.errors import UsageError

app = typer.Typer()


@app.command()
def teardown(
    context: typer.Context,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without it only say what would go.")] = False,
) -> None:
    """Remove slot, publication, progress rows and log of this pipeline. The replicas keep their rows.

    Refuses while a stage runs. Can be called again if it was cut off.
    """
    from pipeline.cli.output import print_text
    from pipeline.control.teardown import list_things, remove_all, require_stopped

    config = invocation(context).config
    if not yes:
        for thing in list_things(config):
            print_text(f"would remove {thing}")
        raise UsageError(
            "teardown removes all of this for good",
            code="teardown-unconfirmed",
            hint="Run `keepstream teardown --yes`. Rows on replicas stay; to follow the source again they"
            " are copied anew.",
        )
    require_stopped(config)
    removed = 0
    for done in remove_all(config):
        removed += not done.sql
        if done.sql:
            print_text(f"left {done.thing}: its owner removes it with: {done.sql}")
        else:
            print_text(f"removed {done.thing}")
    if not removed:
        print_text("nothing is left to remove")
