"""`keepstream [-c FILE] VERB`: global options, and how every error ends.

stdout holds results only. Exit codes: 0 ok, 1 failure, 2 usage, 3 config, 4 precondition,
5 unreachable, 6 difference found, 7 unhealthy, 130 interrupted, 141 nobody reads the results any more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from pipeline.cli.errors import describe_unexpected, report_error, show_traceback
from pipeline.cli.invocation import Invocation, invocation
from pipeline.cli.streams import CUT_OFF, OutputFailed, ReaderGone
from pipeline.cli.verbs import VerbGroup
from pipeline.logs import LogFormat, LogLevel
from pipeline.signals import INTERRUPTED
from pipeline.version import VERSION
from schemas.errors import KeepstreamError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="keepstream",
    cls=VerbGroup,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keep replicas of a PostgreSQL database in sync through one self-verifying change log.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keepstream {VERSION}")
        raise typer.Exit


def _set_config(context: typer.Context, path: Path | None) -> None:
    if path is not None:
        invocation(context).config_path = path


def _set_format(context: typer.Context, log_format: LogFormat | None) -> None:
    if log_format is not None:
        invocation(context).log_format = log_format
        invocation(context).set_up_logs()


def _set_level(context: typer.Context, log_level: LogLevel | None) -> None:
    if log_level is not None:
        invocation(context).log_level = log_level
        invocation(context).set_up_logs()


@app.callback()
def _globals(
    config_file: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            metavar="FILE",
            callback=_set_config,
            expose_value=False,
            help="The configuration; else $KEEPSTREAM_CONFIG, else ./keepstream.yaml.",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(callback=_set_format, expose_value=False, help="How logs on stderr look; else text."),
    ] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(callback=_set_level, expose_value=False, help="What is logged; else info."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, expose_value=False, help="Show it."),
    ] = False,
) -> None:
    """Options have done their work in their callbacks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code. Never raises a deliberate error."""
    current = Invocation()
    current.set_up_logs()
    sys.excepthook = lambda kind, error, trace: _report_unexpected(current, kind, error, trace)
    try:
        code = _run(current, arguments)
        sys.stdout.flush()
    except OutputFailed as error:
        report_error(error, current.log_format)
        return error.exit_code
    except ReaderGone:
        return CUT_OFF
    return code


def _run(current: Invocation, arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(
            args=None if arguments is None else list(arguments),
            prog_name="keepstream",
            standalone_mode=False,
            obj=current,
        )
    except KeepstreamError as error:
        report_error(error, current.log_format)
        return error.exit_code
    except typer.TyperException as error:
        report_error(_usage_error(error), current.log_format)
        return UsageError.exit_code
    except typer.Abort:
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _usage_error(error: Any) -> UsageError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "keepstream"
    message = error.format_message().rstrip(".").replace("Value error, ", "")
    return UsageError(
        message[:1].lower() + message[1:] or f"{path} needs a command",
        code="usage",
        hint=f"Run `{path} --help` for what it takes.",
    )


def _report_unexpected(
    current: Invocation,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """A bug: Python ends with exit code 1 after this."""
    if current.log_level is LogLevel.DEBUG:
        show_traceback(kind, error, trace)
    report_error(describe_unexpected(error, trace), current.log_format)
