"""How an error looks on stderr: `error[code]: message` and `hint: …`, or one JSON object."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from pathlib import Path
from types import TracebackType

from pipeline.logs import LogFormat
from pipeline.printable import printable_json, printable_lines
from schemas.errors import InternalError, KeepstreamError


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
    hint = f"\nhint: {error.hint}" if error.hint else ""
    return printable_lines(f"error[{error.code}]: {error.message}{hint}")


def describe_unexpected(error: BaseException, trace: TracebackType | None) -> InternalError:
    """A bug as an error. Not its text, which may hold row values or secrets: its type and place."""
    frames = traceback.extract_tb(trace)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return InternalError(
        f"unexpected {type(error).__name__}{place}",
        code="internal",
        hint="This is a bug in Keepstream: report it with the traceback that --log-level debug shows.",
    )
