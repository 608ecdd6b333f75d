"""pg_upgrade of either side: a replica goes on, a source is another cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.dev.postgres_server import EmbeddedPostgres
from pipeline.dev.process import run, server_account
from tests.fix_pipeline import Pipeline, make_pipeline
from tests.fix_postgres import start_replica, start_source

_LET_IN = "local all all trust\n"


@pytest.fixture
def upgradable(
    server_folder: Path, tmp_path: Path, debian_programs: Path, directory_url: str
) -> Iterator[Pipeline]:
    """Between two servers of a distribution, which has pg_upgrade."""
    source, replica = databases = [
        start(server_folder / side, programs=debian_programs).new_database()
        for side, start in (("source", start_source), ("replica", start_replica))
    ]
    made = make_pipeline(tmp_path, source, replica, directory_url)
    yield made
    made.end()
    for database in databases:
        database.disconnect()
        database.server.crash()


def upgrade(server: EmbeddedPostgres) -> None:
    """By pg_upgrade into a cluster that initdb has just made; on the same port."""
    programs, account = server.binaries, server_account()
    made = EmbeddedPostgres(
        server.folder.with_name(f"{server.folder.name}-new"), settings={"fsync": "off"}, programs=programs
    )
    made.start()
    made.stop()
    server.stop()
    kept = {name: (server.data / name).read_text() for name in ("postgresql.conf", "pg_hba.conf")}
    for each in (server, made):
        (each.data / "pg_hba.conf").write_text(_LET_IN)
    of_both = [f"--{age}-bindir={programs}" for age in ("old", "new")]
    folders = [f"--old-datadir={server.data}", f"--new-datadir={made.data}", f"--socketdir={made.data}"]
    run(
        [programs / "pg_upgrade", "--username=postgres", *of_both, *folders],
        account=account,
        folder=made.data,
    )
    shutil.rmtree(server.data)
    made.data.rename(server.data)
    for name, text in kept.items():
        (server.data / name).write_text(text)
    server.start()


def test_a_replica_goes_on_and_a_source_begins_anew_without_a_copy(upgradable: Pipeline) -> None:
    pipeline, source, replica = upgradable, upgradable.source, upgradable.replica
    source.execute("create table customer (id int primary key, name text); create table event (what text)")
    source.execute("insert into customer select g, 'c' from generate_series(1, 900) g")
    source.execute("insert into event values ('a'), ('a')")
    running = pipeline.start("run")
    pipeline.wait()
    running.end()
    source.execute("delete from customer where id = 7; update customer set name = 'd' where id < 5")
    replica.disconnect()
    upgrade(replica.server)
    running = pipeline.start("run")
    pipeline.wait()
    assert pipeline.verify()["identical"] is True
    running.end()
    source.disconnect()
    upgrade(source.server)
    stopped = pipeline.run("run")
    assert stopped.code == 4
    assert "error[source-other-cluster]: source: system: the source is cluster " in stopped.stderr
    assert " more)" not in stopped.stderr
    assert pipeline.run("teardown", "--yes").code == 0
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()
    pipeline.start("run")
    pipeline.until(lambda: pipeline.run("wait", "standby", "--timeout", "5").code == 0, "the new beginning")
    source.execute("insert into customer values (1000, 'new'); delete from event")
    pipeline.wait()
    assert pipeline.verify()["identical"] is True
    assert replica.execute("select count(*) from customer") == [(900,)]
