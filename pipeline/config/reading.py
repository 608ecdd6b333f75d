"""The bytes of keepstream.yaml: a file's, or what somebody writes into a pipe, such as `-c /dev/stdin` and
`-c <(…)` name."""

from __future__ import annotations

import os
import select
import stat
from contextlib import suppress
from pathlib import Path

from schemas.errors import ConfigError

PIPE_PATIENCE_S = 5.0
"""So long a pipe may be without anybody who could write to it."""


def read_bytes(path: Path) -> bytes:
    """All of it, of a pipe until its last writer has closed it. Raises OSError, ConfigError
    (`config-unreadable`)."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode):
            return file.read()
        if not stat.S_ISFIFO(mode):
            raise ConfigError(
                f"{path} is neither a file nor a pipe",
                code="config-unreadable",
                hint="Name the configuration with `keepstream -c FILE …` or $KEEPSTREAM_CONFIG.",
            )
        begun = _await_writer(file.fileno(), path)
        os.set_blocking(file.fileno(), True)
        return begun + file.read()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _await_writer(pipe: int, path: Path) -> bytes:
    """What was read on the way. A writer may take its time, as a program does that fetches secrets."""
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    begun = b""
    while not begun and not waiting.poll(PIPE_PATIENCE_S * 1000):
        with suppress(BlockingIOError):  # it is open for writing
            begun = os.read(pipe, 1)
            if not begun:
                raise ConfigError(
                    f"nobody writes to the pipe {path}",
                    code="config-unreadable",
                    hint=f"Start what writes the configuration into it: `cat keepstream.yaml > {path}`.",
                )
    return begun
