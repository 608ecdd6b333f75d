"""Server processes: started in a session of their own, recognised by pid *and* start time, stopped.

A pid alone is never trusted: after a reboot or a long time it names somebody else's process. As root,
servers run under an unprivileged account, because PostgreSQL refuses root.
"""

from __future__ import annotations

import os
import pwd
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.processes import boot_id, started_at
from schemas.errors import OperatorNeeded, Unhealthy

_UNPRIVILEGED = "nobody"
_POLL_S = 0.02

# Below the range from which systems take ports for outgoing connections: a server that restarts finds
# its port free.
_PORTS = range(15_000, 32_000)


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, never mistaken for a later one with the same pid."""

    pid: int
    started: str

    def is_alive(self) -> bool:
        return process_id(self.pid) == self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process is gone."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def wait(self, timeout_s: float) -> bool:
        """Whether the process has ended within `timeout_s`."""
        return wait_until(lambda: not self.is_alive(), timeout_s)


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a server runs as. `other`: not as ourselves, so it needs folders that it can reach."""

    name: str
    uid: int
    gid: int
    other: bool


def process_id(pid: int) -> ProcessId | None:
    """The identity of a running process; None if there is none or it is a zombie."""
    if not Path("/proc/self/stat").exists():
        return _process_id_by_ps(pid)
    started = started_at(pid)
    return None if started is None else ProcessId(pid, f"{boot_id()}/{started}")


def _process_id_by_ps(pid: int) -> ProcessId | None:
    """Where there is no /proc (macOS)."""
    ask = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else ProcessId(pid, started.strip())


def server_account() -> Account:
    """Ourselves, or as root an unprivileged account."""
    if os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, other=False)
    entry = pwd.getpwnam(_UNPRIVILEGED)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, other=True)


def require_reachable(path: Path, account: Account) -> None:
    """Raise OperatorNeeded (`folder-unreachable`) if `account` cannot enter every folder above `path`."""
    if not account.other:
        return
    for folder in reversed(path.resolve().parents):
        if folder.exists() and not folder.stat().st_mode & 0o001:
            raise OperatorNeeded(
                f"user {account.name} cannot reach {path}: {folder} is closed to others",
                code="folder-unreachable",
                hint=f"As root, servers run as {account.name}: choose a folder below /var/lib or /var/tmp, "
                f"or open this one with `chmod o+x {folder}`.",
            )


class ServerProcess(subprocess.Popen[bytes]):
    """A process that is meant to outlive the object, and often the process, that started it."""

    def __del__(self) -> None:
        """Popen's own would warn that the process is still running."""


def launch(
    command: Sequence[str | Path],
    *,
    account: Account,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> ServerProcess:
    """Start a process in a session of its own, so that neither Ctrl-C nor our end reaches it."""
    with open(log, "ab") as output:
        return ServerProcess(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(environment),
            start_new_session=True,
            user=account.uid if account.other else None,
            group=account.gid if account.other else None,
            extra_groups=[] if account.other else None,
        )


def run(
    command: Sequence[str | Path],
    *,
    account: Account,
    environment: Mapping[str, str] | None = None,
    folder: Path = Path("/"),
) -> str:
    """Run a short command as `account` in `folder`; its output. Raises OperatorNeeded (`command-failed`)."""
    finished = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        cwd=folder,
        env=_environment(environment),
        user=account.uid if account.other else None,
        group=account.gid if account.other else None,
        extra_groups=[] if account.other else None,
    )
    if finished.returncode:
        raise OperatorNeeded(
            f"{Path(command[0]).name} ended with {finished.returncode}: {last_lines(finished.stdout)}",
            code="command-failed",
            hint="Mend what its output names and run the command again.",
        )
    return finished.stdout


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """Built anew: what stands in ours may be secret from the account that the server runs under."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", **(more or {})}


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OperatorNeeded(
        f"no free port between {_PORTS.start} and {_PORTS.stop} on 127.0.0.1",
        code="no-free-port",
        hint="Stop servers that are no longer needed: `ss -ltn` lists them.",
    )


def answers_on(port: int) -> bool:
    """Whether something accepts connections on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether `condition` came true within `timeout_s`; looked at least once."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def require(condition: Callable[[], bool], timeout_s: float, *, what: str) -> None:
    """Wait for `condition`. Raises Unhealthy (`server-timeout`) naming `what`."""
    if not wait_until(condition, timeout_s):
        raise Unhealthy(
            f"{what} did not happen within {timeout_s:g} s",
            code="server-timeout",
            hint="Look at the server.log in the server's folder.",
        )


def last_lines(text: str, count: int = 5) -> str:
    return " / ".join(text.strip().splitlines()[-count:])
