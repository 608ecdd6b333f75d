"""Processes of this machine, and whether one of them lives.

A pid says little: a later process may have it, and a container has pids of its own, under the host's name
where it shares its network.
"""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_SELF = _PROC / "self"


def own_process() -> str | None:
    """`BOOT/PID_NAMESPACE/START`, which with its pid no other process has; None where there is no /proc."""
    here, started = _here(), started_at(os.getpid())
    return None if here is None or started is None else f"{here}/{started}"


def lives(pid: int, process: str | None) -> bool | None:
    """Whether a process that called itself so has not ended; None where that cannot be seen from here."""
    here = _here()
    if process is None or here is None or not process.startswith(f"{here}/"):
        return None
    try:
        started = started_at(pid)
    except PermissionError:
        return None  # /proc hides the processes of others
    if started is None:
        return None if _is_hidden(pid) else False
    return process == f"{here}/{started}"


def started_at(pid: int) -> str | None:
    """When a process began, in clock ticks since the boot; None if there is none, or it is a zombie."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def boot_id() -> str:
    """Of this boot of the machine. Raises FileNotFoundError where there is no /proc."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _here() -> str | None:
    """Where pids and start times can be compared."""
    try:
        return f"{boot_id()}/{(_SELF / 'ns/pid').readlink()}"
    except OSError:
        return None


def _is_hidden(pid: int) -> bool:
    """Whether a process of this number runs that /proc does not show."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not (_PROC / str(pid)).exists()
