"""Tryton's database in the source server: made once by Tryton itself, then restored from the cache.

The cached dump is named after everything it depends on: the pinned packages, the scripts that fill it, and
PostgreSQL's major version.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.dev.environment import DATABASE, Environment
from pipeline.dev.folders import cache_folder
from pipeline.dev.postgres_server import binaries
from pipeline.dev.process import server_account
from schemas.errors import OperatorNeeded

MODULES = ("sale_opportunity", "marketing", "party_relationship")

_ROOT = Path(__file__).parents[2]
_LOCK = _ROOT / "requirements-demo.lock"
_SCRIPTS = ("names", "tryton", "tryton_business", "tryton_company")

Tell = Callable[[str], None]


class Crm:
    """The database `crm` of a source server, owned by the application's role as in real life."""

    def __init__(self, servers: Environment) -> None:
        self._url = urlsplit(servers.owner_dsn)
        self._major = (servers.source.data / "PG_VERSION").read_text().strip()

    @property
    def is_cached(self) -> bool:
        return self._dump.exists()

    def make(self, tell: Tell) -> None:
        """Fill the empty database. `tell` hears what is going on, a few words at a time."""
        if self.is_cached:
            self._restore()
        else:
            self._install(tell)
            self._save()

    def command(self, module: str, *arguments: str) -> list[str]:
        """A module of this package that works inside Tryton, as a process of its own."""
        return [sys.executable, "-P", "-m", f"pipeline.demo.{module}", DATABASE, *arguments]

    def environment(self) -> dict[str, str]:
        """Passwords travel here, never on a command line. Documents stay in the database, as bytea."""
        return {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "TRYTOND_DATABASE_URI": self._url._replace(path="/").geturl(),
            "TRYTOND_ATTACHMENT__FILESTORE": "false",
        }

    @property
    def _dump(self) -> Path:
        digest = sha256(f"postgresql {self._major}".encode())
        for path in (_LOCK, *(Path(__file__).with_name(f"{name}.py") for name in _SCRIPTS)):
            digest.update(path.read_bytes())
        return cache_folder(server_account()) / f"demo-crm-{digest.hexdigest()[:16]}.dump"

    def _install(self, tell: Tell) -> None:
        admin = str(Path(sys.executable).with_name("trytond-admin"))
        with _admin_password() as password_file:
            environment = {**self.environment(), "TRYTONPASSFILE": password_file}
            update = [admin, "-vv", "-d", DATABASE, "--activate-dependencies", "-u", *MODULES]
            _run([*update, "--email", "admin@example.com", "-p"], environment, lambda s: tell(_act(s)))
        _run(self.command("tryton_company"), self.environment(), tell)

    def _save(self) -> None:
        draft = self._dump.with_suffix(f".{os.getpid()}")
        _run([*self._tool("pg_dump"), "--format=custom", f"--file={draft}"], self._libpq(), lambda _: None)
        draft.rename(self._dump)

    def _restore(self) -> None:
        restore = [*self._tool("pg_restore"), "--no-owner", "--exit-on-error", "--jobs=2", str(self._dump)]
        _run(restore, self._libpq(), lambda _: None)

    def _tool(self, name: str) -> list[str]:
        url = self._url
        location = f"host={url.hostname} port={url.port} dbname={DATABASE} user={url.username}"
        return [str(binaries() / name), f"--dbname={location}"]

    def _libpq(self) -> dict[str, str]:
        return {**os.environ, "PGPASSWORD": unquote(self._url.password or "")}


@contextmanager
def _admin_password() -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", prefix="keepstream-demo-") as file:
        file.write(secrets.token_urlsafe(18))
        file.flush()
        yield file.name


def _act(line: str) -> str:
    """What Tryton's log says it is doing, empty for other lines."""
    found = re.search(r"trytond\.modules (\w+ (?:register|load) \S+)", line)
    return f"Tryton: {found[1]}" if found else ""


def _run(command: list[str], environment: dict[str, str], tell: Tell) -> None:
    """Run a step, telling its lines as they come. Raises OperatorNeeded (`demo-step-failed`)."""
    last: list[str] = []
    with subprocess.Popen(
        command,
        env=environment,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = [*last[-7:], line.rstrip()]
            tell(line.strip())
    if process.returncode:
        raise OperatorNeeded(
            f"{Path(command[0]).name} ended with {process.returncode}: {' / '.join(last)}",
            code="demo-step-failed",
            hint="Run `./demo` again; if it fails again, report this line.",
        )
