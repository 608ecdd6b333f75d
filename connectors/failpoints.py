"""Named places at which a test can kill this process, to prove that nothing is lost there.

`KEEPSTREAM_FAILPOINT=name` kills at the first hit, `name:3` at the third, with SIGKILL: no
finally block runs, no buffer is flushed. Without the variable a hit costs one dictionary look-up.
`KEEPSTREAM_FAILPOINT_LOG` names a file to which every kill is appended, so that a test can prove
that its failpoint was hit.
"""

from __future__ import annotations

import os
import signal

_name, _, _count = os.environ.get("KEEPSTREAM_FAILPOINT", "").partition(":")
_remaining = {_name: int(_count or 1)} if _name else {}


def failpoint(name: str) -> None:
    """Die here if a test asked for it."""
    if name in _remaining:
        _remaining[name] -= 1
        if _remaining[name] == 0:
            _die(name)


def _die(name: str) -> None:
    path = os.environ.get("KEEPSTREAM_FAILPOINT_LOG")
    if path:
        with open(path, "a", encoding="utf-8") as log:
            log.write(f"{name} {os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)
