"""A source with a physical standby that synchronises its slots: `failing_over`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from pipeline.dev.postgres_server import EmbeddedPostgres, binaries
from pipeline.dev.process import free_port, require, run, server_account
from pipeline.dev.record import ServerRecord, read_record, write_record
from tests.fix_postgres import Database
from tests.postgres_releases import release_programs

STANDBY_SLOT = "physical"
SYNCHRONOUS = {"synchronized_standby_slots": f"'{STANDBY_SLOT}'", "synchronous_standby_names": "'*'"}


@dataclass
class FailingOver:
    """`old`: the database on the primary. `new`: the same on its standby."""

    old: Database
    new: Database

    @property
    def url(self) -> str:
        """Of both hosts, the old one first."""
        old, new = self.old.server, self.new.server
        return (
            f"host=127.0.0.1,127.0.0.1 port={old.port},{new.port} user=keepstream"
            f" password={self.old.password} dbname={self.old.name}"
        )

    def await_synced(self, slot: str) -> None:
        """On an idle server that takes up to half a minute by itself."""
        query = "select 1 from pg_replication_slots where slot_name = %s and synced and not temporary"

        def is_synced() -> bool:
            self.old.execute_as_admin("select pg_log_standby_snapshot()")
            self.new.execute_as_admin("select pg_reload_conf()")  # wakes its worker
            return bool(self.new.execute_as_admin(query, [slot]))

        require(is_synced, 20, what="the slot's copy on the standby")

    def configure_standby(self, **settings: str) -> None:
        for name, value in settings.items():
            self.new.execute_as_admin(f"alter system set {name} = {value}")
        self.new.execute_as_admin("select pg_reload_conf()")

    def configure_primary(self, **settings: str) -> None:
        for name, value in settings.items():
            self.old.execute_as_admin(f"alter system set {name} = {value}")
        self.old.execute_as_admin("select pg_reload_conf()")

    def promote(self) -> None:
        """The primary dies first, as in a power cut."""
        self.old.disconnect()
        self.old.server.crash()
        self.new.execute_as_admin("select pg_promote()")


@pytest.fixture
def failing_over(
    new_source: Callable[..., Database], server_folder: Path
) -> Iterator[Callable[..., FailingOver]]:
    """`failing_over(settings)`: with these settings on the primary only."""
    made: list[FailingOver] = []

    def make(settings: Mapping[str, str] | None = None) -> FailingOver:
        old = new_source()
        old.execute_as_admin("select pg_create_physical_replication_slot(%s, true)", [STANDBY_SLOT])
        standby = _copy(old.server, server_folder / "standby", old.name)
        standby.start()
        made.append(pair := FailingOver(old, replace(old, server=standby, _connection=None)))
        pair.configure_primary(**(settings or {}))
        return pair

    yield make
    for pair in made:
        pair.new.disconnect()
        pair.new.server.crash()


def _copy(primary: EmbeddedPostgres, folder: Path, database: str) -> EmbeddedPostgres:
    record, account = read_record(primary.folder), server_account()
    assert record is not None
    standby = EmbeddedPostgres(folder, programs=release_programs("source"))
    folder.mkdir()
    if account.other:
        os.chown(folder, account.uid, account.gid)
    program = [str(binaries() / "pg_basebackup"), f"--pgdata={standby.data}", f"--dbname={primary.dsn()}"]
    options = [f"--slot={STANDBY_SLOT}", "--checkpoint=fast", "--no-sync", "--write-recovery-conf"]
    run([*program, *options], account=account)
    standby.log.touch(mode=0o600)
    write_record(folder, ServerRecord("postgres", free_port(), record.password, None))
    login = f"host=127.0.0.1 port={record.port} user=postgres password={record.password} dbname={database}"
    standby.configure(
        {
            "primary_conninfo": f"'{login}'",
            "hot_standby_feedback": "on",
            "sync_replication_slots": "on",
            "wal_receiver_status_interval": "1",
            "wal_retrieve_retry_interval": "200ms",
        }
    )
    return standby


def timeline_of(database: Database) -> int:
    with psycopg.connect(database.admin_dsn) as connection:
        row = connection.execute(
            "select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"
        )
        ((timeline,),) = row.fetchall()
    return int(timeline)
