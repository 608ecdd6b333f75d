"""Bad input at the start: `run` ends with a coded error, its remedy and its exit code, and made nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fix_pipeline import Finished, Pipeline, make_pipeline
from tests.fix_postgres import Database, Server


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine on which nobody listens, as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def refused(pipeline: Pipeline, code: str, exit_code: int) -> Finished:
    """`run` ends with that error as its last words, a remedy, and nothing on stdout."""
    done = pipeline.run("run")
    assert done.code == exit_code, done.stderr
    assert f"error[{code}]: " in done.stderr
    assert "\nhint: " in done.stderr
    assert done.stdout == ""
    return done


def nothing_made(pipeline: Pipeline) -> None:
    source = pipeline.source
    assert (
        source.execute("select slot_name from pg_replication_slots where slot_name = %s", [pipeline.slot])
        == []
    )
    assert source.execute("select pubname from pg_publication") == []
    assert pipeline.replica.execute("select to_regnamespace('keepstream')") == [(None,)]
    assert not (pipeline.folder / "log").exists()


@pytest.mark.parametrize("side", ["source", "standby"])
def test_an_unreachable_server(directory_pipeline: Pipeline, closed_port: int, side: str) -> None:
    pipeline = directory_pipeline
    url = f"postgresql://keepstream:s3cr3t@127.0.0.1:{closed_port}/crm"
    (pipeline.settings if side == "source" else pipeline.settings["replicas"])[side] = {"url": url}
    pipeline.write_config()
    done = refused(pipeline, "server-unreachable", 5)
    assert f"127.0.0.1:{closed_port}/crm" in done.stderr
    assert "s3cr3t" not in done.stderr
    nothing_made(pipeline)


@pytest.mark.parametrize("side", ["source", "standby"])
def test_a_wrong_password(directory_pipeline: Pipeline, side: str) -> None:
    pipeline = directory_pipeline
    database = pipeline.source if side == "source" else pipeline.replica
    url = database.dsn.replace(database.password, "wr0ng-word")
    assert url != database.dsn
    (pipeline.settings if side == "source" else pipeline.settings["replicas"])[side] = {"url": url}
    pipeline.write_config()
    done = refused(pipeline, "login-refused", 5)
    assert "wr0ng-word" not in done.stderr
    nothing_made(pipeline)


def test_an_unreachable_kafka(directory_pipeline: Pipeline, closed_port: int) -> None:
    pipeline = directory_pipeline
    pipeline.settings["log"] = {"url": f"kafka://127.0.0.1:{closed_port}"}
    pipeline.write_config()
    pipeline.values |= {"connectors.log.kafka_clients._BOOTSTRAP_MS": 1000}
    done = refused(pipeline, "log-unreachable", 5)
    assert f"127.0.0.1:{closed_port}" in done.stderr
    nothing_made(pipeline)


def test_a_source_without_logical_wal(
    new_source: Callable[..., Database], replica: Database, tmp_path: Path
) -> None:
    source = new_source({"wal_level": "replica"})
    pipeline = make_pipeline(tmp_path, source, replica, f"file://{tmp_path}/log")
    done = refused(pipeline, "wal-level", 4)
    assert "alter system set wal_level = 'logical'" in done.stderr
    nothing_made(pipeline)


def test_a_replica_that_is_not_empty(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.replica.execute("create table kept (x int primary key); insert into kept values (1)")
    done = refused(pipeline, "replica-not-empty", 4)
    assert "it has table public.kept" in done.stderr
    assert "hint: Name an empty database" in done.stderr
    assert pipeline.replica.execute("select * from kept") == [(1,)]
    nothing_made(pipeline)


def test_a_table_without_a_key_that_nobody_decided_on(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute("create table keyless (a int)")
    del pipeline.settings["source"]["keyless"]
    pipeline.write_config()
    done = refused(pipeline, "replica-identity", 4)
    for way in ("replica identity full", "replica identity using index", "source.tables.exclude"):
        assert way in done.stderr
    nothing_made(pipeline)


def test_a_slot_of_our_name_that_somebody_else_made(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute_as_admin(
        "select pg_create_logical_replication_slot(%s, 'pgoutput')", [pipeline.slot]
    )
    done = refused(pipeline, "slot-without-log", 4)
    assert f"pg_drop_replication_slot('{pipeline.slot}')" in done.stderr
    assert pipeline.source.execute(
        "select active from pg_replication_slots where slot_name = %s", [pipeline.slot]
    )
    assert not (pipeline.folder / "log").exists()
    alone = pipeline.run("capture")
    assert alone.code == 4
    assert "error[slot-without-log]: " in alone.stderr


@pytest.fixture
def elsewhere(source_server: Server) -> Iterator[Database]:
    """Another database of the source's cluster."""
    database = source_server.new_database()
    yield database
    database.drop()


def another_database_s(pipeline: Pipeline, elsewhere: Database) -> None:
    elsewhere.execute_as_admin("select pg_create_logical_replication_slot(%s, 'pgoutput')", [pipeline.slot])


def another_plugin_s(pipeline: Pipeline, elsewhere: Database) -> None:
    pipeline.source.execute_as_admin(
        "select pg_create_logical_replication_slot(%s, 'test_decoding')", [pipeline.slot]
    )


def a_physical_one(pipeline: Pipeline, elsewhere: Database) -> None:
    pipeline.source.execute_as_admin("select pg_create_physical_replication_slot(%s)", [pipeline.slot])


@pytest.mark.parametrize("make", [another_database_s, another_plugin_s, a_physical_one])
@pytest.mark.parametrize("begun", [False, True])
def test_a_slot_that_only_bears_our_name_is_nobody_s_to_drop(
    directory_pipeline: Pipeline,
    elsewhere: Database,
    make: Callable[[Pipeline, Database], None],
    begun: bool,
) -> None:
    """Nor where a capture had begun the log, which may make a slot of its own anew."""
    pipeline = directory_pipeline
    if begun:
        killed = pipeline.start("capture", env={"KEEPSTREAM_FAILPOINT": "capture.publication_created"})
        assert killed.wait(30) == -9
    make(pipeline, elsewhere)
    for verb in (["run"], ["capture"], ["check", "--json"]):
        done = pipeline.run(*verb)
        said = f"{done.stdout}{done.stderr}"
        assert done.code == 4, said
        assert "slot-foreign" in said
        assert "slot-without-log" not in said
        assert "Only if nobody needs that slot, drop it" in " ".join(said.split())
    seen = pipeline.run("status", "--json").json
    assert [finding["code"] for finding in seen["findings"]] == ["slot-foreign"]
    assert (seen["slot"]["exists"], seen["slot"]["foreign"]) == (False, True)
    assert [seen["capture"][name] for name in ("state", "position", "lag_bytes")] == ["stopped", None, None]
    assert f"slot {pipeline.slot}: is not ours" in pipeline.run("status").stdout
    kept = "select slot_name from pg_replication_slots where slot_name = %s"
    assert pipeline.source.execute(kept, [pipeline.slot]) == [(pipeline.slot,)]
    pipeline.source.execute_as_admin("select pg_drop_replication_slot(%s)", [pipeline.slot])


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("name: [crm\n", "config-yaml", "keepstream.yaml:2:1: broken YAML"),
        (
            "name: crm\nsource: postgresql://h/d\nlog: file:///tmp/x\nreplcas: {}\n",
            "config-invalid",
            "replicas",
        ),
        ("name: CRM!\nsource: postgresql://h/d\nlog: file:///tmp/x\n", "config-invalid", "name"),
        ("name: crm\nsource: postgresql://h/d\nlog: s3://bucket\n", "config-invalid", "log"),
        (
            "name: crm\nsource: ${NOT_SET_ANYWHERE}\nlog: file:///tmp/x\n",
            "config-invalid",
            "NOT_SET_ANYWHERE",
        ),
        ("", "config-invalid", "keepstream.yaml"),
    ],
)
def test_a_broken_configuration(directory_pipeline: Pipeline, text: str, code: str, said: str) -> None:
    pipeline = directory_pipeline
    pipeline.config_path.write_text(text)
    done = refused(pipeline, code, 3)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["check", "capture", "apply standby", "status", "verify standby"])
def test_every_verb_refuses_a_broken_configuration(directory_pipeline: Pipeline, verb: str) -> None:
    directory_pipeline.config_path.write_text("name: [crm\n")
    done = directory_pipeline.run(*verb.split())
    assert done.code == 3
    assert "error[config-yaml]: " in done.stderr
    assert "\nhint: " in done.stderr


def test_a_missing_configuration(directory_pipeline: Pipeline) -> None:
    directory_pipeline.config_path.unlink()
    done = directory_pipeline.run("run")
    assert done.code == 3
    assert "error[config-missing]: " in done.stderr
    assert "keepstream init" in done.stderr


def test_no_password_is_in_a_process_list_or_log(directory_pipeline: Pipeline) -> None:
    """Of `run` and of its children, which are given the file's name only."""
    pipeline = directory_pipeline
    pipeline.source.execute("create table t (id int primary key)")
    running = pipeline.start_process("run", "--log-level", "debug")
    pipeline.wait()
    secrets = [pipeline.source.password, pipeline.replica.password]
    seen = [
        path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(pipeline.folder) in _text(path)
    ]
    assert seen
    assert not any(secret.encode() in line for secret in secrets for line in seen)
    assert running.end() == 0
    assert not any(secret in running.output for secret in secrets)
    assert urlsplit(pipeline.source.dsn).password in secrets


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
