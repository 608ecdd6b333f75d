"""The standard streams of the process, when they are closed, full, or nobody reads them.

A closed one is opened again, or the next file or socket would get its number and be written to. What cannot
be written to stdout raises one of two errors, once: what comes after it is thrown away.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any

from schemas.errors import OperatorNeeded

CUT_OFF = 141
"""Exit code where nobody reads stdout any more, as shells give it for SIGPIPE."""


class OutputFailed(OperatorNeeded):
    """The results cannot be written (`output-failed`)."""

    exit_code = 1


class ReaderGone(Exception):
    """Who read our results has seen enough. No OSError: typer and rich end with a code of their own then."""


def set_up_streams() -> None:
    """Call it once, before anything is opened or written."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        _open_if_closed(number, mode)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")
    before = sys.stdout
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Results(1, "w", closefd=False)),
        encoding=before.encoding if before else "utf-8",
        errors=before.errors if before else "strict",
        line_buffering=os.isatty(1),
    )


def _open_if_closed(number: int, mode: int) -> None:
    """By the null device. One that is read only stands for stdout: writing to it fails as it must."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, mode)
        assert opened == number  # the lowest that is free
        os.set_inheritable(number, True)


class _Results(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            self._throw_away_the_rest()
            raise ReaderGone from None
        except OSError as error:
            self._throw_away_the_rest()
            raise OutputFailed(
                f"the results cannot be written to standard output: {error.strerror}",
                code="output-failed",
                hint="Look at where standard output goes: a full disk, or a closed file. What the command did"
                " before stays done.",
            ) from None

    def _throw_away_the_rest(self) -> None:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
