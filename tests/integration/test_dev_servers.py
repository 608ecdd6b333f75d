"""The servers that tests and `keepstream dev` run on: real, closed to strangers, gone with their owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from pipeline.dev.environment import Environment, Kafka
from pipeline.dev.kafka_server import EmbeddedKafka
from pipeline.dev.postgres_server import EmbeddedPostgres, binaries
from pipeline.dev.process import ProcessId, process_id, require_reachable, server_account, wait_until
from pipeline.dev.record import ServerRecord, read_record, write_record
from schemas.errors import OperatorNeeded
from tests.fix_postgres import FAST, Database, Server

ROOT = Path(__file__).parents[2]
needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's /proc")


@pytest.fixture
def environment(server_folder: Path) -> Environment:
    return Environment(server_folder / "dev")


@pytest.fixture
def sleeper() -> Iterator[ProcessId]:
    """A process that is no server."""
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = process_id(process.pid)
        assert identity is not None
        yield identity
        process.kill()


def _run_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", dedent(program), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _command_lines() -> str:
    """Of every process, as any user of the machine can read them."""
    texts = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            texts.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return "\n".join(texts)


def _listening() -> Iterator[tuple[str, int]]:
    """Address (in the kernel's hexadecimal) and port of each listening socket."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == "0A":
                yield address, int(port, 16)


def test_the_product_is_no_superuser_and_may_replicate(source: Database) -> None:
    with psycopg.connect(source.dsn) as connection:
        row = connection.execute("select rolsuper, rolreplication from pg_roles where rolname = current_user")
        assert row.fetchone() == (False, True)


def test_the_product_may_switch_triggers_off_on_the_replica(replica: Database) -> None:
    with psycopg.connect(replica.dsn, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute("create table contact (id int primary key)")
        assert connection.execute("show session_replication_role").fetchone() == ("replica",)


def test_source_and_replica_are_different_clusters(source: Database, replica: Database) -> None:
    statement = "select system_identifier from pg_control_system()"
    assert source.execute_as_admin(statement) != replica.execute_as_admin(statement)


def test_a_wrong_password_is_refused(source: Database) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(source.dsn.replace(source.password, "wrong"))


def test_rows_without_columns_are_rows(source: Database) -> None:
    assert source.execute("select from generate_series(1, 2)") == [(), ()]
    assert source.execute_as_admin("select from pg_replication_slots where slot_name = 'nowhere'") == []


def test_a_database_with_an_active_slot_and_a_prepared_transaction_is_dropped(source_server: Server) -> None:
    database = source_server.new_database()
    database.grant_ownership()
    database.execute("create table contact (id int primary key)")
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot('left_behind', 'pgoutput')")
    database.execute("begin; insert into contact values (1); prepare transaction 'left behind'")
    reader = [
        str(binaries() / "pg_recvlogical"),
        *("--slot=left_behind", "--start", "--file=/dev/null", "-o", "proto_version=1"),
        *("-o", "publication_names=none", f"--dbname={database.dsn}"),
    ]
    active = "select active from pg_replication_slots where slot_name = 'left_behind'"
    with subprocess.Popen(reader, stderr=subprocess.DEVNULL) as process:
        assert wait_until(lambda: database.execute_as_admin(active) == [(True,)], 20)
        database.drop()
        process.kill()
    with psycopg.connect(source_server.postgres.dsn()) as connection:
        assert connection.execute("select from pg_replication_slots").fetchall() == []
        assert connection.execute("select from pg_prepared_xacts").fetchall() == []
        found = connection.execute("select from pg_database where datname = %s", [database.name])
        assert found.fetchall() == []


def test_a_crashed_postgres_comes_back_on_its_port_with_what_was_committed(
    new_source: Callable[..., Database],
) -> None:
    database = new_source()
    database.execute("create table contact (id int primary key); insert into contact values (1)")
    port = database.server.port
    database.server.crash()
    assert not database.server.is_running()
    database.server.start()
    assert database.server.port == port
    assert database.execute("select id from contact") == [(1,)]


def test_a_postgres_that_was_killed_is_started_again(new_source: Callable[..., Database]) -> None:
    database = new_source()
    assert database.server.pid is not None
    os.kill(database.server.pid, signal.SIGKILL)
    assert wait_until(lambda: not database.server.is_running(), 20)
    database.server.start()
    assert database.execute("select 1") == [(1,)]


def test_settings_hold_from_the_next_start_on(new_source: Callable[..., Database]) -> None:
    database = new_source({"wal_level": "replica"})
    assert database.execute("show wal_level") == [("replica",)]
    database.server.stop()
    database.server.configure({"wal_level": "logical"})
    database.server.start()
    assert database.execute("show wal_level") == [("logical",)]


def test_a_setting_that_postgres_refuses_is_named(server_folder: Path) -> None:
    server = EmbeddedPostgres(server_folder / "broken", settings={**FAST, "wal_level": "nonsense"})
    with pytest.raises(OperatorNeeded, match='invalid value for parameter "wal_level"') as caught:
        server.start()
    assert caught.value.code in ("postgres-start-failed", "command-failed")
    assert not server.is_running()


def test_a_topic_can_be_made(kafka_server: str) -> None:
    client = KafkaAdminClient(bootstrap_servers=kafka_server)
    try:
        client.create_topics([NewTopic("dev-servers", num_partitions=1, replication_factor=1)])
        assert "dev-servers" in client.list_topics()
    finally:
        client.close()


def test_a_crashed_kafka_comes_back_on_its_port(own_kafka: EmbeddedKafka) -> None:
    bootstrap = own_kafka.bootstrap
    own_kafka.crash()
    assert not own_kafka.is_running()
    own_kafka.start()
    assert own_kafka.bootstrap == bootstrap


def test_a_recorded_pid_that_now_belongs_to_another_process_is_left_alone(
    server_folder: Path, sleeper: ProcessId
) -> None:
    earlier = ProcessId(sleeper.pid, "another boot/1")
    write_record(server_folder, ServerRecord("postgres", 1, "", earlier))
    server = EmbeddedPostgres(server_folder)
    assert not server.is_running()
    server.stop()
    assert sleeper.is_alive()


@needs_proc
def test_servers_and_data_go_with_their_owner_even_when_it_is_killed(server_folder: Path) -> None:
    folder = server_folder / "killed"
    folder.mkdir(mode=0o711)
    program = """
        import os, signal, sys
        from pathlib import Path
        from pipeline.dev.guard import guard
        from pipeline.dev.postgres_server import EmbeddedPostgres
        from pipeline.dev.process import process_id
        folder = Path(sys.argv[1])
        guard(process_id(os.getpid()), folder)
        EmbeddedPostgres(folder / "one", settings={"fsync": "off"}).start()
        print((folder / "one" / "server.json").read_text(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = _run_python(program, str(folder))
    assert killed.returncode == -signal.SIGKILL
    assert '"pid"' in killed.stdout
    assert wait_until(lambda: not folder.exists(), 30)
    assert wait_until(lambda: str(folder) not in _command_lines(), 30)


def test_an_environment_outlives_the_command_that_started_it(environment: Environment) -> None:
    program = """
        import sys
        from pathlib import Path
        from pipeline.dev.environment import Environment, Kafka
        Environment(Path(sys.argv[1])).up(kafka=Kafka.NONE)
    """
    started = _run_python(program, str(environment.folder))
    assert started.returncode == 0, started.stderr
    assert [(server.name, server.running) for server in environment.status()] == [
        ("source", True),
        ("replica", True),
    ]
    for dsn in (environment.source_dsn, environment.replica_dsn, environment.owner_dsn):
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select current_database()").fetchone() == ("crm",)
    assert environment.down() == ["source", "replica"]
    assert not any(server.running for server in environment.status())


def test_up_starts_only_what_is_down_and_keeps_its_addresses(environment: Environment) -> None:
    environment.up(kafka=Kafka.NONE)
    first = {server.name: server for server in environment.status()}
    environment.replica.stop()
    environment.up(kafka=Kafka.NONE)
    second = {server.name: server for server in environment.status()}
    assert second["source"] == first["source"]
    assert second["replica"].pid != first["replica"].pid
    assert second["replica"].address == first["replica"].address


def test_an_environment_has_a_kafka_where_one_can_be_had(environment: Environment, kafka_server: str) -> None:
    environment.up()
    assert environment.log_url == f"kafka://{environment.kafka.bootstrap}"
    assert environment.kafka.bootstrap != kafka_server
    assert environment.down() == ["source", "replica", "kafka"]


@needs_proc
def test_its_files_with_passwords_are_closed_to_others(environment: Environment) -> None:
    environment.up(kafka=Kafka.NONE)
    for path in (environment.folder / "roles.json", environment.folder / "source" / "server.json"):
        assert path.stat().st_mode & 0o077 == 0
    record = read_record(environment.folder / "source")
    assert record is not None
    assert record.password not in _command_lines()


@needs_proc
def test_servers_listen_on_the_loopback_address_only(source_server: Server, kafka_server: str) -> None:
    ports = {source_server.postgres.port, int(kafka_server.rpartition(":")[2])}
    addresses = {(address, port) for address, port in _listening() if port in ports}
    assert {port for _, port in addresses} == ports
    assert {address[-8:] for address, _ in addresses} == {"0100007F"}  # 127.0.0.1, also within IPv6


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run under another account")
def test_as_root_a_closed_folder_is_refused_before_anything_is_made(server_folder: Path) -> None:
    closed = server_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(OperatorNeeded, match=f"{closed} is closed to others") as caught:
        EmbeddedPostgres(closed / "one").start()
    assert caught.value.code == "folder-unreachable"
    require_reachable(server_folder / "open", server_account())
