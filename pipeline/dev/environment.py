"""`keepstream dev`: a source, a replica and, where Java and Maven are there, a Kafka, in one folder.

    FOLDER/source/…    PostgreSQL with wal_level=logical and a database `crm`
    FOLDER/replica/…   PostgreSQL with an empty database `crm`
    FOLDER/kafka/…     Apache Kafka
    FOLDER/roles.json  the roles' passwords, readable by their owner only

They run on after the command that started them. `up` starts what is down, `down` ends only the
processes that `up` recorded.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psycopg
from psycopg import sql

from pipeline.dev.folders import data_folder
from pipeline.dev.kafka_server import EmbeddedKafka, why_no_kafka
from pipeline.dev.postgres_server import EmbeddedPostgres
from pipeline.dev.process import server_account
from schemas.errors import OperatorNeeded

DATABASE = "crm"
OWNER_ROLE = "crm"
PRODUCT_ROLE = "keepstream"
_SETTINGS = {"max_connections": "200", "max_prepared_transactions": "10"}
_SOURCE_SETTINGS = {
    **_SETTINGS,
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
}


class Kafka(StrEnum):
    """Whether the environment has a Kafka: where it can be had, always, never."""

    AUTO = "auto"
    REQUIRED = "required"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """`address` is what clients connect to, without a password; empty if it never started."""

    name: str
    running: bool
    pid: int | None
    address: str


@dataclass(frozen=True, slots=True)
class Environment:
    """One folder with its servers. Nothing is started by making the object."""

    folder: Path

    @property
    def source(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.folder / "source", settings=_SOURCE_SETTINGS)

    @property
    def replica(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.folder / "replica", settings=_SETTINGS)

    @property
    def kafka(self) -> EmbeddedKafka:
        return EmbeddedKafka(self.folder / "kafka")

    @property
    def source_dsn(self) -> str:
        """The product's role, which is no superuser."""
        return self._dsn(self.source, PRODUCT_ROLE)

    @property
    def owner_dsn(self) -> str:
        """The role under which an application owns and writes the source's tables."""
        return self._dsn(self.source, OWNER_ROLE)

    @property
    def replica_dsn(self) -> str:
        return self._dsn(self.replica, PRODUCT_ROLE)

    @property
    def kafka_url(self) -> str:
        return f"kafka://{self.kafka.bootstrap}"

    @property
    def directory_url(self) -> str:
        return f"file://{self.folder / 'log'}"

    @property
    def log_url(self) -> str:
        """Kafka's where one was started here, otherwise the directory's."""
        return self.kafka_url if self.kafka.exists() else self.directory_url

    @property
    def _roles(self) -> Path:
        return self.folder / "roles.json"

    def exists(self) -> bool:
        """Whether `up` was called here before."""
        return self._roles.exists()

    def up(self, *, kafka: Kafka = Kafka.AUTO) -> None:
        """Start what is down and make the roles and databases. Idempotent."""
        if kafka is Kafka.REQUIRED:
            _require_kafka()
        self.folder.mkdir(parents=True, exist_ok=True)
        passwords = self._passwords()
        for server, make in ((self.source, _make_source), (self.replica, _make_replica)):
            server.start()
            make(server, passwords)
        if kafka is not Kafka.NONE and not why_no_kafka():
            self.kafka.start()

    def down(self) -> list[str]:
        """End the servers that `up` started; the names of those that ran. Data stays. Idempotent."""
        running = [server.name for server in self.status() if server.running]
        for server in (self.kafka, self.source, self.replica):
            server.stop()
        return running

    def status(self) -> list[ServerStatus]:
        states = [_postgres_status("source", self.source), _postgres_status("replica", self.replica)]
        kafka = self.kafka
        if kafka.exists():
            states.append(ServerStatus("kafka", kafka.is_running(), kafka.pid, kafka.bootstrap))
        return states

    def _passwords(self) -> Mapping[str, str]:
        path = self._roles
        if not path.exists():
            names = (OWNER_ROLE, PRODUCT_ROLE)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump({name: secrets.token_urlsafe(18) for name in names}, file)
        passwords: Mapping[str, str] = json.loads(path.read_text())
        return passwords

    def _dsn(self, server: EmbeddedPostgres, role: str) -> str:
        return server.dsn(DATABASE, user=role, password=self._passwords()[role])


def default_folder() -> Path:
    """Where `keepstream dev` works unless told otherwise: reachable for the servers' account, too."""
    return data_folder(server_account()) / "dev"


def _require_kafka() -> None:
    missing = why_no_kafka()
    if missing:
        raise OperatorNeeded(
            f"Kafka cannot be started here: {missing}",
            code="kafka-unavailable",
            hint="Install Java 17 or newer and Maven, for example with "
            "`apt-get install default-jre-headless maven`, or work without Kafka.",
        )


def _postgres_status(name: str, server: EmbeddedPostgres) -> ServerStatus:
    address = f"127.0.0.1:{server.port}" if server.exists() else ""
    return ServerStatus(name, server.is_running(), server.pid, address)


def _make_source(server: EmbeddedPostgres, passwords: Mapping[str, str]) -> None:
    """The application owns the tables; the product may replicate, read, and publish for the owner."""
    product, owner = sql.Identifier(PRODUCT_ROLE), sql.Identifier(OWNER_ROLE)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        _make_role(connection, OWNER_ROLE, passwords)
        _make_role(connection, PRODUCT_ROLE, passwords)
        _make_database(connection, owner=OWNER_ROLE)
        connection.execute(sql.SQL("alter role {} replication").format(product))
        connection.execute(
            sql.SQL("grant pg_read_all_data, pg_read_all_stats, {} to {}").format(owner, product)
        )
        connection.execute(
            sql.SQL("grant create on database {} to {}").format(sql.Identifier(DATABASE), product)
        )


def _make_replica(server: EmbeddedPostgres, passwords: Mapping[str, str]) -> None:
    """The product owns the database and may switch triggers and foreign keys off."""
    product = sql.Identifier(PRODUCT_ROLE)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        _make_role(connection, PRODUCT_ROLE, passwords)
        _make_database(connection, owner=PRODUCT_ROLE)
        connection.execute(sql.SQL("grant set on parameter session_replication_role to {}").format(product))


def _make_role(
    connection: psycopg.Connection[tuple[object, ...]], role: str, passwords: Mapping[str, str]
) -> None:
    if not connection.execute("select from pg_roles where rolname = %s", [role]).fetchall():
        connection.execute(
            sql.SQL("create role {} login password {}").format(
                sql.Identifier(role), sql.Literal(passwords[role])
            )
        )


def _make_database(connection: psycopg.Connection[tuple[object, ...]], *, owner: str) -> None:
    if not connection.execute("select from pg_database where datname = %s", [DATABASE]).fetchall():
        connection.execute(
            sql.SQL("create database {} owner {}").format(sql.Identifier(DATABASE), sql.Identifier(owner))
        )
