"""docker-compose.yml and Dockerfile, proven without Docker: each command, script and health check in them
runs here against the same servers, started from the same settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from connectors.postgres.catalog.grants import Chosen, replica_grants, source_grants
from pipeline.config.loading import parse_config
from pipeline.dev.kafka_server import EmbeddedKafka, require_java, resolve_jars
from pipeline.dev.postgres_server import EmbeddedPostgres
from tests.fix_postgres import FAST

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
SERVICES: Mapping[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
PASSWORDS = {"keepstream": 'kéep "$1" #:@/', "crm": "it's $crm `x` \\"}

# What a container's own address and files are here.
_OWN_PORT = re.compile(r"^(localhost|127\.0\.0\.1):\d+$")
# Kafka's image reads these itself, or they name places that only exist there.
_IMAGE_ONLY = re.compile(r"HEAP_OPTS|LISTENERS$|CONTROLLER_QUORUM_VOTERS|LOG_DIRS")


def _run(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(environment or {})},
        **options,
    )


def _health_command(service: str) -> list[str]:
    """Without its leading CMD: no shell is between."""
    kind, *command = SERVICES[service]["healthcheck"]["test"]
    assert kind == "CMD"
    return [str(part) for part in command]


@pytest.fixture
def secrets(server_folder: Path) -> Mapping[str, str]:
    """The files that a container finds below /run/secrets, by the variables that name them."""
    folder = server_folder / "secrets"
    folder.mkdir()
    for name, password in PASSWORDS.items():
        (folder / f"{name}_password").write_text(password + "\n")
    return {f"{name.upper()}_PASSWORD_FILE": str(folder / f"{name}_password") for name in PASSWORDS}


def _start(service: str, folder: Path, secrets: Mapping[str, str]) -> EmbeddedPostgres:
    """As the image does it: the server under the service's own arguments, its database, its script."""
    program, *arguments = SERVICES[service].get("command", ["postgres"])
    assert program == "postgres"
    assert set(arguments[::2]) <= {"-c"}
    settings = dict(argument.split("=", 1) for argument in arguments[1::2])
    server = EmbeddedPostgres(folder / service, settings={**FAST, **settings})
    server.start()
    environment = SERVICES[service]["environment"]
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"create database {environment['POSTGRES_DB']}")
    (script,) = (text.split(":")[0] for text in SERVICES[service]["volumes"] if "initdb.d" in text)
    wanted = {name: secrets[name] for name in environment if name in secrets}
    given = {"POSTGRES_DB": environment["POSTGRES_DB"], **wanted, **_client_settings(server)}
    done = _run(["sh", ROOT / script], given)
    assert done.returncode == 0, done.stderr
    return server


def _client_settings(server: EmbeddedPostgres) -> dict[str, str]:
    """What the image's own programs find by its socket: the superuser, and psql on PATH."""
    with psycopg.connect(server.dsn()) as connection:
        password = connection.info.password
    return {
        "PATH": f"{server.binaries}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGPASSWORD": password,
    }


def _in_database(server: EmbeddedPostgres, statement: str, role: str = "postgres") -> list[Any]:
    password = PASSWORDS.get(role)
    with psycopg.connect(server.dsn("crm", user=role, password=password), autocommit=True) as connection:
        return connection.execute(statement).fetchall()


@pytest.fixture
def compose_source(server_folder: Path, secrets: Mapping[str, str]) -> Iterator[EmbeddedPostgres]:
    server = _start("source", server_folder, secrets)
    yield server
    server.crash()


@pytest.fixture
def compose_replica(server_folder: Path, secrets: Mapping[str, str]) -> Iterator[EmbeddedPostgres]:
    server = _start("replica", server_folder, secrets)
    yield server
    server.crash()


def test_the_file_is_valid_by_the_compose_specification() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = _run([*checker, COMPOSE])
    assert checked.returncode == 0, checked.stdout


def test_the_check_against_the_specification_would_find_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchek:"))
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = _run([*checker, wrong])
    assert checked.returncode == 1
    assert "healthchek" in checked.stdout


def test_whatever_a_service_uses_is_there() -> None:
    document = yaml.safe_load(COMPOSE.read_text())
    example = (ROOT / "docker" / "env.example").read_text()
    for secret in document["secrets"].values():
        assert f"\n{secret['environment']}=" in example
    for name, service in SERVICES.items():
        assert "healthcheck" in service, name
        assert set(service.get("secrets", ())) <= set(document["secrets"])
        for volume in service.get("volumes", ()):
            place = volume.split(":")[0]
            assert (ROOT / place).is_file() if place.startswith("./") else place in document["volumes"]
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES
            assert how == {"condition": "service_healthy"}


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("service", ["source", "replica"])
def test_the_databases_health_check_tells_up_from_down(
    service: str, server_folder: Path, secrets: Mapping[str, str]
) -> None:
    server = _start(service, server_folder, secrets)
    settings = _client_settings(server)
    assert _run(_health_command(service), settings).returncode == 0
    server.crash()
    assert _run(_health_command(service), settings).returncode != 0


@pytest.mark.long(30)
def test_kafkas_health_check_tells_up_from_down(server_folder: Path) -> None:
    kafka = _start_kafka(server_folder)
    script, *arguments = _health_command("kafka")
    assert script == "/opt/kafka/bin/kafka-topics.sh"
    tools = resolve_jars(pom=ROOT / "tests" / "kafka-tools-pom.xml")
    program = [require_java(), "-cp", tools, "org.apache.kafka.tools.TopicCommand"]
    command = [*program, *(_OWN_PORT.sub(kafka.bootstrap, argument) for argument in arguments)]
    assert kafka.bootstrap in command
    healthy = _run(command)
    assert healthy.returncode == 0, healthy.stderr
    kafka.crash()
    with pytest.raises(subprocess.TimeoutExpired):  # Docker counts that as unhealthy, too
        subprocess.run(command, capture_output=True, timeout=5, check=True)


def _start_kafka(folder: Path) -> EmbeddedKafka:
    """Under the service's own settings, but for its addresses and paths, which are the container's."""
    environment: Mapping[str, str] = SERVICES["kafka"]["environment"]
    settings = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in environment.items()
        if name.startswith("KAFKA_") and not _IMAGE_ONLY.search(name)
    }
    assert settings["unclean.leader.election.enable"] == "false"
    kafka = EmbeddedKafka(folder / "kafka", settings=settings, short_lived=True)
    kafka.start()
    return kafka


def test_the_roles_of_the_source_are_those_that_init_grants_describes(
    compose_source: EmbeddedPostgres,
) -> None:
    told = source_grants(
        "host=source dbname=crm user=keepstream", publication="keepstream_crm", chosen=Chosen((), ())
    )
    before = _in_database(compose_source, _RIGHTS)
    with psycopg.connect(compose_source.dsn("crm"), autocommit=True) as connection:
        connection.execute(told)
    assert _in_database(compose_source, _RIGHTS) == before
    assert _in_database(compose_source, "show wal_level", "keepstream") == [("logical",)]


def test_the_product_can_publish_the_tables_of_the_crm(compose_source: EmbeddedPostgres) -> None:
    with psycopg.connect(
        compose_source.dsn("crm", user="crm", password=PASSWORDS["crm"]), autocommit=True
    ) as connection:
        connection.execute("create table contact (id int primary key)")
    with psycopg.connect(
        compose_source.dsn("crm", user="keepstream", password=PASSWORDS["keepstream"]), autocommit=True
    ) as connection:
        connection.execute("create publication keepstream_crm for table contact")
    published = "select schemaname, tablename from pg_publication_tables where pubname = 'keepstream_crm'"
    assert _in_database(compose_source, published) == [("public", "contact")]


def test_the_roles_of_the_replica_are_those_that_init_grants_describes(
    compose_replica: EmbeddedPostgres,
) -> None:
    before = _in_database(compose_replica, _RIGHTS)
    with psycopg.connect(compose_replica.dsn("crm"), autocommit=True) as connection:
        connection.execute(replica_grants("host=replica dbname=crm user=keepstream"))
    assert _in_database(compose_replica, _RIGHTS) == before
    _in_database(
        compose_replica, "select set_config('session_replication_role', 'replica', false)", "keepstream"
    )


_RIGHTS = """
    select r.rolsuper, r.rolcanlogin, r.rolreplication, r.rolcreaterole, r.rolcreatedb, r.rolbypassrls,
           array(select roleid::regrole::text from pg_auth_members where member = r.oid order by 1),
           (select datdba = r.oid from pg_database where datname = current_database()),
           has_parameter_privilege(r.oid, 'session_replication_role', 'set')
      from pg_roles r where r.rolname = 'keepstream'
"""


def test_the_configuration_in_the_container_reaches_both_databases(
    compose_source: EmbeddedPostgres, compose_replica: EmbeddedPostgres, secrets: Mapping[str, str]
) -> None:
    text = (ROOT / "docker" / "keepstream.yaml").read_text()
    assert "/run/secrets/keepstream_password" in text
    text = text.replace("/run/secrets/keepstream_password", secrets["KEEPSTREAM_PASSWORD_FILE"])
    config = parse_config(text, name="keepstream.yaml", environment={})
    assert config.log.url == "kafka://kafka:9092"
    for url, host, server in (
        (config.source.url, "source", compose_source),
        (config.replicas["standby"].url, "replica", compose_replica),
    ):
        given = psycopg.conninfo.conninfo_to_dict(url.reveal())
        assert given["host"] == host
        assert host in SERVICES
        assert given["password"] == PASSWORDS["keepstream"]
        with psycopg.connect(url.reveal(), host="127.0.0.1", port=server.port) as connection:
            assert connection.info.user == "keepstream"
            assert connection.info.dbname == SERVICES[host]["environment"]["POSTGRES_DB"]


def test_the_image_holds_a_working_keepstream_with_all_its_files(tmp_path: Path) -> None:
    """Built from just what the Dockerfile copies, and installed into an environment of its own."""
    context, wheels = tmp_path / "context", tmp_path / "wheels"
    context.mkdir()
    for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        *names, target = line.split()
        for name in names:
            assert f"!{name}\n" in (ROOT / ".dockerignore").read_text(), f"{name} is not in the context"
            _copy(ROOT / name, context / target / (name if target == "./" else ""))
    isolated = {"PYTHONPATH": ""}
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), "."]
    built = _run([sys.executable, "-m", "pip", *build], isolated, cwd=context)
    assert built.returncode == 0, built.stderr
    venv.create(tmp_path / "installed", with_pip=False, system_site_packages=False)
    python = tmp_path / "installed" / "bin" / "python"
    (site,) = (tmp_path / "installed" / "lib").glob("python*/site-packages")
    # The dependencies are this environment's, so that nothing is fetched.
    (site / "dependencies.pth").write_text(_dependencies())
    target = ["install", "--quiet", "--no-deps", "--no-index", *map(str, wheels.glob("*.whl"))]
    installed = _run([sys.executable, "-m", "pip", "--python", str(python), *target], isolated)
    assert installed.returncode == 0, installed.stderr
    asked = _run([python.with_name("keepstream"), "--version"], isolated, cwd=tmp_path)
    assert asked.stdout.startswith("keepstream "), asked.stderr
    tracked = {path.relative_to(ROOT) for path in (ROOT / "schemas").rglob("*.avsc")}
    assert {path for path in tracked if not (site / path).is_file()} == set()
    assert (site / "pipeline" / "dev" / "kafka-pom.xml").is_file()


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _dependencies() -> str:
    """This environment's packages without the editable Keepstream, whose finder a .pth would not bring."""
    return str(Path(yaml.__file__).parents[1]) + "\n"
