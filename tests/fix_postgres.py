"""`source` and `replica`: fresh databases on real servers, used under the roles that users are told to make.

The servers live as long as the run (one pair a worker); databases, slots and grants as long as a test.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest
from psycopg import sql

from connectors.postgres.catalog.grants import Chosen, replica_grants, source_grants
from pipeline.dev.postgres_server import EmbeddedPostgres, binaries
from pipeline.dev.process import require
from tests.postgres_releases import release_programs

PRODUCT = "keepstream"
OWNER = "crm"
FAST = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB", "max_connections": "200"}
SOURCE_SETTINGS = {
    **FAST,
    "wal_level": "logical",
    "max_wal_senders": "50",
    "max_replication_slots": "50",
    "max_prepared_transactions": "10",
}

REPLICA_SETTINGS = {**FAST, "max_prepared_transactions": "10"}
_SLOT_S = 20.0

Row: TypeAlias = tuple[Any, ...]


def psql(database: Database, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The script, piped in, as the superuser."""
    program = [str(binaries() / "psql"), "-X", "-q", "-d", database.admin_dsn, *options]
    return subprocess.run(program, input=script, text=True, capture_output=True, check=False)


@dataclass
class Database:
    """A database of one test. `dsn` is the product's own role, which is no superuser."""

    server: EmbeddedPostgres
    name: str
    owner: str
    passwords: Mapping[str, str]
    _connection: psycopg.Connection[Row] | None = field(default=None, repr=False)
    _connected_to: int | None = None

    @property
    def dsn(self) -> str:
        return self._dsn_of(PRODUCT)

    @property
    def password(self) -> str:
        """Of the product's role: to prove that it stands in no log and no process list."""
        return self.passwords[PRODUCT]

    @property
    def owner_dsn(self) -> str:
        """The role that owns the tables: an application on the source, the product on a replica."""
        return self._dsn_of(self.owner)

    @property
    def admin_dsn(self) -> str:
        """The superuser, connected to this database."""
        return self.server.dsn(self.name)

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[Row]:
        """A new connection as the owner of the tables; the caller closes it."""
        return psycopg.connect(self.owner_dsn, autocommit=autocommit)

    def execute(self, statement: str, parameters: Sequence[object] | None = None) -> list[Row]:
        """Run SQL as the owner of the tables, each call in a transaction of its own; rows if there are any.

        Without parameters it may be several statements; the rows are the last one's.
        """
        if self._connection is None or self._connection.closed or self._connected_to != self.server.pid:
            self.disconnect()
            self._connection, self._connected_to = self.connect(), self.server.pid
        return _rows(self._connection, statement, parameters)

    def execute_as_admin(self, statement: str, parameters: Sequence[object] | None = None) -> list[Row]:
        with psycopg.connect(self.admin_dsn, autocommit=True) as connection:
            return _rows(connection, statement, parameters)

    def await_free_slot(self, name: str) -> None:
        """Its walsender ends some time after its client has."""
        active = "select from pg_replication_slots where slot_name = %s and active"
        require(
            lambda: not self.execute_as_admin(active, [name]), _SLOT_S, what=f"the release of slot {name}"
        )

    def drop_slot(self, name: str) -> None:
        self.await_free_slot(name)
        self.execute_as_admin("select pg_drop_replication_slot(%s)", [name])

    def grant_ownership(self) -> None:
        """Let the product do what only the tables' owner may: publish them, alter their replica identity."""
        self.execute_as_admin(
            f"grant {self.owner} to {PRODUCT}; grant create on database {self._quoted_name} to {PRODUCT}"
        )

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def drop(self) -> None:
        """Leave the server as it was before: no slot, prepared transaction, database or granted ownership."""
        self.disconnect()
        for (name,) in self.execute_as_admin(
            "select gid from pg_prepared_xacts where database = current_database()"
        ):
            self.execute_as_admin(f"rollback prepared '{name}'")
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            # A process that the test left behind must not come back between these steps.
            connection.execute(f"alter database {self._quoted_name} allow_connections false".encode())
            _drop_slots(connection, self.name)
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(self.name)))
            if self.owner != PRODUCT:
                connection.execute(
                    sql.SQL("revoke {} from {}").format(sql.Identifier(self.owner), sql.Identifier(PRODUCT))
                )

    @property
    def _quoted_name(self) -> str:
        return sql.Identifier(self.name).as_string()

    def _dsn_of(self, role: str) -> str:
        return self.server.dsn(self.name, user=role, password=self.passwords[role])


def _rows(
    connection: psycopg.Connection[Row], statement: str, parameters: Sequence[object] | None
) -> list[Row]:
    cursor = connection.execute(statement, parameters)
    while cursor.nextset():
        pass
    return cursor.fetchall() if cursor.description is not None else []


def _drop_slots(connection: psycopg.Connection[Row], database: str) -> None:
    """Of this database; their walsenders are ended first and waited for, because an active slot stays."""
    mine = "from pg_replication_slots where database = %s"
    connection.execute(f"select pg_terminate_backend(active_pid) {mine} and active", [database])
    require(
        lambda: not connection.execute(f"select {mine} and active", [database]).fetchall(),
        _SLOT_S,
        what="the end of the walsenders",
    )
    connection.execute(f"select pg_drop_replication_slot(slot_name) {mine}", [database])


@dataclass(frozen=True)
class Server:
    """A running server with the roles that a user is told to make."""

    postgres: EmbeddedPostgres
    owner: str
    passwords: Mapping[str, str]

    grants: Callable[[str], str]

    def new_database(self, name: str | None = None) -> Database:
        name = f"crm_{secrets.token_hex(4)}" if name is None else name
        quoted = sql.Identifier(name), sql.Identifier(self.owner)
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {} owner {}").format(*quoted))
        database = Database(self.postgres, name, self.owner, self.passwords)
        database.execute_as_admin(self.grants(database.dsn))
        return database


def start_source(
    folder: Path, settings: Mapping[str, str] | None = None, *, programs: Path | None = None
) -> Server:
    """A source: an application's role owns the tables, the product may replicate and read. `programs`: of
    another server than the run's."""
    merged = {**SOURCE_SETTINGS, **(settings or {})}
    chosen = programs or release_programs("source")
    return _start(folder, merged, owner=OWNER, grants=_source_role, programs=chosen)


def start_replica(
    folder: Path, settings: Mapping[str, str] | None = None, *, programs: Path | None = None
) -> Server:
    """A replica: the product owns its database and may switch triggers and foreign keys off."""
    merged = {**REPLICA_SETTINGS, **(settings or {})}
    chosen = programs or release_programs("replica")
    return _start(folder, merged, owner=PRODUCT, grants=replica_grants, programs=chosen)


def _source_role(dsn: str) -> str:
    """What `init --grants` prints, without the publication: each test says what is published."""
    unused = "made_by_grants"
    grants = source_grants(dsn, publication=unused, chosen=Chosen((), ()))
    return f"{grants}\ndrop publication {unused};"


def _start(
    folder: Path,
    settings: Mapping[str, str],
    *,
    owner: str,
    grants: Callable[[str], str],
    programs: Path | None,
) -> Server:
    postgres = EmbeddedPostgres(folder, settings=settings, programs=programs)
    postgres.start()
    passwords = {role: secrets.token_hex(12) for role in (owner, PRODUCT)}
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        for role, password in passwords.items():
            connection.execute(f"create role {role} login password '{password}'")
    return Server(postgres, owner, passwords, grants)


@pytest.fixture(scope="session")
def source_server(run_folder: Path, worker_name: str) -> Server:
    return start_source(run_folder / f"source-{worker_name}")


@pytest.fixture(scope="session")
def replica_server(run_folder: Path, worker_name: str) -> Server:
    return start_replica(run_folder / f"replica-{worker_name}")


@pytest.fixture(scope="session")
def worker_name() -> str:
    return os.environ.get("PYTEST_XDIST_WORKER", "main")


@pytest.fixture
def source(source_server: Server) -> Iterator[Database]:
    """A fresh, empty source database; wal_level is logical."""
    database = source_server.new_database()
    yield database
    database.drop()


@pytest.fixture
def replica(replica_server: Server) -> Iterator[Database]:
    """A fresh, empty replica database on another server than `source`."""
    database = replica_server.new_database()
    yield database
    database.drop()


@pytest.fixture
def new_source(server_folder: Path) -> Iterator[Callable[..., Database]]:
    """`new_source(settings)`: a source on a server of the test's own, to crash, stop or configure."""
    yield from _makers(server_folder / "source", start_source)


@pytest.fixture
def new_replica(server_folder: Path) -> Iterator[Callable[..., Database]]:
    """`new_replica(settings)`: a replica on a server of the test's own."""
    yield from _makers(server_folder / "replica", start_replica)


@contextmanager
def frozen(server: EmbeddedPostgres) -> Iterator[None]:
    """The server with all its backends: it takes connections and answers nothing."""
    assert server.pid is not None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    pids = [server.pid, *map(int, children)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _makers(folder: Path, start: Callable[..., Server]) -> Iterator[Callable[..., Database]]:
    made: list[Database] = []

    def make(settings: Mapping[str, str] | None = None) -> Database:
        server = start(folder.with_name(f"{folder.name}-{len(made)}"), settings)
        made.append(server.new_database())
        return made[-1]

    yield make
    for database in made:
        database.disconnect()
        database.server.crash()
