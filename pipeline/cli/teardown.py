"""`keepstream teardown`: the end of a pipeline. Rows on replicas stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.invocation import invocation
from schemas.errors import UsageError

if TYPE_CHECKING:
    from pipeline.control.teardown import Removal

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
    from pipeline.control.teardown import list_removals, remove_all, require_stopped

    config = invocation(context).config
    if not yes:
        for planned in list_removals(config):
            print_text(_told(planned, "would remove", "would leave"))
        raise UsageError(
            "what teardown removes is gone for good",
            code="teardown-unconfirmed",
            hint="Run `keepstream teardown --yes`. Rows on replicas stay; to follow the source again they"
            " are copied anew.",
        )
    require_stopped(config)
    removed = 0
    for done in remove_all(config):
        removed += not done.sql
        print_text(_told(done, "removed", "left"))
    if not removed:
        print_text("nothing is left to remove")


def _told(removal: Removal, removes: str, leaves: str) -> str:
    if removal.sql:
        return f"{leaves} {removal.thing}: its owner removes it with: {removal.sql}"
    return f"{removes} {removal.thing}"
