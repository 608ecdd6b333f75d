"""Source, replica and Kafka of one run: fresh, on free ports of 127.0.0.1, gone with it.

Both PostgreSQL servers have the same settings, and what Keepstream is compared with works on the same
two. Nothing that keeps data safe is off: fsync, full_page_writes and synchronous_commit are on. Kafka's JVM
compiles its code once and quickly, and has done so before anything is measured: the optimising compiler works
for minutes, on one of two cores, and makes no difference that could be measured to a broker of this load.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.broker import forget_topics, warm_up
from pipeline.dev.guard import guard_ours
from pipeline.dev.kafka_server import EmbeddedKafka, why_no_kafka
from pipeline.dev.postgres_server import EmbeddedPostgres
from pipeline.dev.process import require
from pipeline.dev.record import kill_below

SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "logical",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_connections": "100",
    "max_wal_senders": "40",
    "max_replication_slots": "40",
    "max_worker_processes": "20",
    "max_logical_replication_workers": "10",
}
_SLOT_S = 30.0


class Home(Enum):
    """Where a pipeline keeps its log."""

    KAFKA = "kafka"
    DIRECTORY = "directory"


class Unavailable(Exception):
    """What a benchmark needs is not on this machine."""


@dataclass
class Servers:
    """`folder` is reachable for the servers' account; everything of the run lies below it."""

    folder: Path
    source: EmbeddedPostgres
    replica: EmbeddedPostgres
    kafka: EmbeddedKafka

    def log_url(self, home: Home) -> str:
        """Where a log can be made. Starts Kafka if it is needed, and warms it up. Raises Unavailable."""
        if home is Home.DIRECTORY:
            return f"file://{self.folder / 'log'}"
        missing = why_no_kafka()
        if missing:
            raise Unavailable(f"no Kafka here: {missing}")
        if not self.kafka.is_running():
            self.kafka.start()
            warm_up(self.kafka.bootstrap)
        return f"kafka://{self.kafka.bootstrap}"

    def best_home(self) -> Home:
        """Kafka where it can be had, as in production."""
        return Home.DIRECTORY if why_no_kafka() else Home.KAFKA

    def clear(self) -> None:
        """Drop every slot, subscription, database and log that a benchmark has made."""
        for server in (self.replica, self.source):
            for name in _databases(server):
                _drop_subscriptions(server.dsn(name))
        drop_slots(self.source)
        for server in (self.replica, self.source):
            for name in _databases(server):
                drop_database(server, name)
        if self.kafka.is_running():
            forget_topics(self.kafka.bootstrap)
        else:
            shutil.rmtree(self.kafka.folder, ignore_errors=True)
        shutil.rmtree(self.folder / "log", ignore_errors=True)
        self.settle()

    def restart_followers(self) -> None:
        """The replica, and Kafka when it is next needed: new processes have the usual priority."""
        self.replica.stop()
        self.replica.start()
        if self.kafka.is_running():
            self.kafka.stop()

    @contextmanager
    def without_autovacuum(self) -> Iterator[None]:
        """Its bursts over fresh catalogs write far more WAL than an idle pipeline, at random moments."""
        for server in (self.source, self.replica):
            _configure(server, "alter system set autovacuum = off")
        try:
            yield
        finally:
            for server in (self.source, self.replica):
                _configure(server, "alter system reset autovacuum")

    def settle(self) -> None:
        """Checkpoint both servers: no run pays for what an earlier one wrote."""
        for server in (self.source, self.replica):
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute("checkpoint")


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Servers for as long as the block runs; a guard ends them even if we are killed."""
    folder = Path(tempfile.mkdtemp(prefix="keepstream-bench-"))
    folder.chmod(0o711)
    guard_ours(folder)
    servers = Servers(
        folder,
        EmbeddedPostgres(folder / "source", settings=SETTINGS),
        EmbeddedPostgres(folder / "replica", settings=SETTINGS),
        EmbeddedKafka(folder / "kafka", short_lived=True, settings={"log.segment.delete.delay.ms": "1000"}),
    )
    try:
        servers.source.start()
        servers.replica.start()
        yield servers
    finally:
        kill_below(folder)


def create_database(server: EmbeddedPostgres, name: str, *, template: str = "template0") -> str:
    """Its connection string, as the superuser: both sides of every comparison work as that."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        _execute(connection, "create database {} template {}", name, template)
    return server.dsn(name)


def drop_database(server: EmbeddedPostgres, name: str) -> None:
    """With whatever sessions it has."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        _execute(connection, "drop database {} with (force)", name)


def drop_slots(server: EmbeddedPostgres, names: Sequence[str] | None = None) -> None:
    """These, or all; their walsenders are ended first."""
    which = "from pg_replication_slots where (%(names)s::text[] is null or slot_name = any(%(names)s))"
    values = {"names": None if names is None else list(names)}
    with psycopg.connect(server.dsn(), autocommit=True) as connection:

        def are_idle() -> bool:
            ended = f"select pg_terminate_backend(active_pid) {which} and active"
            return not connection.execute(ended, values).fetchall()

        require(are_idle, _SLOT_S, what="the end of the walsenders")
        connection.execute(f"select pg_drop_replication_slot(slot_name) {which}", values)


def _configure(server: EmbeddedPostgres, statement: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        _execute(connection, statement)
        connection.execute("select pg_reload_conf()")


def _databases(server: EmbeddedPostgres) -> list[str]:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        rows = connection.execute("select datname from pg_database where not datistemplate")
        return [str(name) for (name,) in rows if name != "postgres"]


def _drop_subscriptions(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        mine = "select subname from pg_subscription s join pg_database d on d.oid = subdbid"
        for (name,) in connection.execute(f"{mine} where datname = current_database()").fetchall():
            drop_subscription(connection, str(name))


def drop_subscription(connection: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    """Its slot stays: it is dropped with the others."""
    _execute(connection, "alter subscription {} disable", name)
    _execute(connection, "alter subscription {} set (slot_name = none)", name)
    _execute(connection, "drop subscription {}", name)


def _execute(connection: psycopg.Connection[tuple[object, ...]], statement: str, *names: str) -> None:
    connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
