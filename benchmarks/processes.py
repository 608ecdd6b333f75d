"""Processor time of a process and everything that it started, from /proc, and who has to wait for it."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_UTIME, _CSTIME = 11, 14  # counted from the state, the first field after the name
_LEAST = b"19"
_REFUSED_S = 0.1


def cpu_s(pid: int) -> float:
    """Seconds used so far by the process, its living descendants, and those that they have waited for."""
    return sum(_own_cpu_s(member) for member in family(pid))


def put_last(pid: int) -> None:
    """The process and its descendants work only while nobody else wants to (SCHED_IDLE). So does what they
    start, unless that makes a session of its own, as each of PostgreSQL's processes does."""
    for member in family(pid):
        try:
            for task in Path(f"/proc/{member}/task").iterdir():
                os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
            _put_session_last(member)
        except (FileNotFoundError, ProcessLookupError):
            continue


def _put_session_last(pid: int) -> None:
    """Where Linux shares processor time among sessions (sched_autogroup_enabled), a process's own priority
    counts among those of its session only."""
    path = Path(f"/proc/{pid}/autogroup")
    while path.exists():
        try:
            path.write_bytes(_LEAST)
            return
        except BlockingIOError:  # ten a second are allowed to an ordinary user
            time.sleep(_REFUSED_S)
        except OSError as error:
            if error.errno != errno.EINVAL:  # of a process that is about to end
                raise
            return


def family(pid: int) -> list[int]:
    """The process and its living descendants."""
    members = [pid]
    for member in members:  # grows while it is read
        members += _children(member)
    return members


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _own_cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[_UTIME : _CSTIME + 1])) * _TICK_S
