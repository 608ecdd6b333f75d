"""How an error looks on stderr: `error[code]: message` and `hint: …`, or one JSON object."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from types import TracebackType

from pipeline.logs import LogFormat
from schemas.errors import InternalError, KeepstreamError

CUT_OFF = 141
"""Exit code where nobody reads stdout any more, as shells give it for SIGPIPE."""


def report_error(error: KeepstreamError, log_format: LogFormat = LogFormat.TEXT) -> None:
    sys.stderr.write(render_error(error, log_format) + "\n")
    sys.stderr.flush()


def render_error(error: KeepstreamError, log_format: LogFormat) -> str:
    if log_format is LogFormat.JSON:
        return json.dumps(
            {
                "level": "error",
                "event": "ended by an error",
                "code": error.code,
                "error": error.message,
                "hint": error.hint,
                "exit_code": error.exit_code,
            },
            ensure_ascii=False,
        )
    hint = f"\nhint: {error.hint}" if error.hint else ""
    return f"error[{error.code}]: {error.message}{hint}"


def describe_unexpected(error: BaseException, trace: TracebackType | None) -> InternalError:
    """A bug as an error. Not its text, which may hold row values or secrets: its type and place."""
    frames = traceback.extract_tb(trace)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return InternalError(
        f"unexpected {type(error).__name__}{place}",
        code="internal",
        hint="This is a bug in Keepstream: report it with the traceback that --log-level debug shows.",
    )
