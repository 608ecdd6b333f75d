"""`keepstream capture`: one stage, source to log."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.invocation import invocation

app = typer.Typer()


@app.command()
def capture(
    context: typer.Context,
    *,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="End another capture that owns the slot.")
    ] = False,
) -> None:
    """Run capture alone: source to log. Ends with SIGTERM, or when an operator is needed."""
    from pipeline.signals import end_on_sigterm, stop_on_signals

    end_on_sigterm()

    from pipeline.app import capture_options, open_log
    from pipeline.board import Board
    from pipeline.capture.stage import CaptureStage
    from pipeline.memory import tune_memory

    called = invocation(context)
    called.set_up_logs()
    log = open_log(called.config)
    try:
        options = capture_options(called.config, log, take_over=take_over)
        tune_memory()
        CaptureStage(options, stop_on_signals(), Board(log).publish).run()
    finally:
        log.close()
