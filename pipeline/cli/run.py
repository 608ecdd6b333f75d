"""`keepstream run`: every stage of the file, supervised."""

from __future__ import annotations

import sys

import typer

from pipeline.cli.invocation import Invocation, invocation

app = typer.Typer()


@app.command()
def run(context: typer.Context) -> None:
    """Run every stage of the file, supervised, in the foreground. SIGTERM ends it.

    Checks first and makes nothing if an error is found; then makes publication and slot, copies into
    empty replicas, and streams.
    """
    from pipeline.signals import end_on_sigterm, stop_on_signals

    end_on_sigterm()

    from pipeline.check import require_fit
    from pipeline.supervisor import CAPTURE, Supervisor

    called = invocation(context)
    called.set_up_logs()
    require_fit(called.config)
    stop = stop_on_signals()
    commands = {CAPTURE: _command(called, "capture")}
    for name in called.config.replicas:
        commands[name] = _command(called, "apply", name)
    raise typer.Exit(Supervisor(commands, stop).run())


def _command(called: Invocation, *verb: str) -> list[str]:
    """`-P`: what lies in the working folder is never imported."""
    return [sys.executable, "-P", "-m", "pipeline.cli", *called.arguments(), *verb]
