"""What `verify` says while it waits: each thing once, on a terminal and in a pipe."""

from __future__ import annotations

import io
import sys
import time

import pytest

from pipeline.cli.verifyscreen import VerifyScreen


class Stderr(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_is_said_again_only_after_another(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stderr, now = Stderr(terminal=terminal), [100.0]
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with VerifyScreen() as screen:
        for text in ("waiting", "waiting", "nobody applies", "nobody applies", "waiting"):
            screen.tell(text)
            now[0] += 3600
    said = stderr.getvalue()
    assert (said.count("verify: waiting"), said.count("verify: nobody applies")) == (2, 1)
