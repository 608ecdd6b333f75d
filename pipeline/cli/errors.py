"""How an error looks on stderr: `error[code]: message` and `hint: …`, or one JSON object."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from pathlib import Path
from types import TracebackType

from pipeline.logs import LogFormat
from pipeline.printable import printable, printable_json, printable_lines
from schemas.errors import ConfigError, InternalError, KeepstreamError, UsageError


def report_error(error: KeepstreamError, log_format: LogFormat = LogFormat.TEXT) -> None:
    """Where it cannot be said, the exit code still says it."""
    with contextlib.suppress(OSError):
        sys.stderr.write(render_error(error, log_format) + "\n")
        sys.stderr.flush()


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(printable_lines("".join(traceback.format_exception(kind, error, trace))))


def render_error(error: KeepstreamError, log_format: LogFormat) -> str:
    if log_format is LogFormat.JSON:
        said = {
            "level": "error",
            "event": "ended by an error",
            "code": error.code,
            "error": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        return printable_json(json.dumps(said, ensure_ascii=False))
    # a name may hold line breaks: what stands behind them must not look like a line of ours
    shown = printable_lines if isinstance(error, ConfigError | UsageError) else printable
    hint = printable_lines(error.hint).replace("\n", "\n  ")
    return f"error[{error.code}]: {shown(error.message)}" + (f"\nhint: {hint}" if hint else "")


def describe_unexpected(error: BaseException, trace: TracebackType | None) -> InternalError:
    """A bug as an error. Not its text, which may hold row values or secrets: its type and place."""
    frames = traceback.extract_tb(trace)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return InternalError(
        f"unexpected {type(error).__name__}{place}",
        code="internal",
        hint="This is a bug in Keepstream: report it with the traceback that --log-level debug shows.",
    )
