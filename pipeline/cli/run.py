"""`keepstream run`: every stage of the file, supervised."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import typer

from pipeline.cli.invocation import Invocation, invocation
from schemas.errors import UsageError

app = typer.Typer()


@app.command()
def run(context: typer.Context) -> None:
    """Run every stage of the file, supervised, in the foreground. SIGTERM ends it.

    Checks first and makes nothing if an error is found; then makes publication and slot, copies into
    empty replicas, and streams.
    """
    from pipeline.signals import end_on_sigterm, stop_on_signals

    end_on_sigterm()

    from connectors.postgres.session import connect
    from pipeline import purposes
    from pipeline.app import source_conninfo
    from pipeline.check import require_fit
    from pipeline.supervisor import CAPTURE, Supervisor

    called = invocation(context)
    called.set_up_logs()
    config = called.config
    _refuse_pipe(called.path)
    require_fit(config)
    stop = stop_on_signals()
    commands = {CAPTURE: _command(called, "capture")}
    for name in config.replicas:
        commands[name] = _command(called, "apply", name)
    # teardown sees it while the stages start, or wait to be restarted
    with closing(connect(source_conninfo(config), purpose=purposes.run(config.name))):
        raise typer.Exit(Supervisor(commands, stop).run())


def _refuse_pipe(path: Path) -> None:
    """Every stage reads the configuration for itself, and again later."""
    if path.is_fifo():
        raise UsageError(
            f"run cannot take its configuration from a pipe: {path}",
            code="config-pipe",
            hint="Write it into a file and name that: keepstream -c FILE run",
        )


def _command(called: Invocation, *verb: str) -> list[str]:
    """`-P`: what lies in the working folder is never imported."""
    return [sys.executable, "-P", "-m", "pipeline.entry", *called.arguments(), *verb]
