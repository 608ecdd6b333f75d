"""Finding pg_dump, and calling it without showing a secret."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from connectors.postgres import pgtools
from connectors.postgres.pgtools import find_pgtools, open_login, run_tool
from schemas.errors import OperatorNeeded


def install(folder: Path, version: str) -> Path:
    """Programs that say they are of this version."""
    folder.mkdir(parents=True)
    for name in ("pg_dump", "pg_restore"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        program.chmod(0o700)
    return folder


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which PostgreSQL is found in PATH only, which is this folder."""
    monkeypatch.setattr(pgtools, "_SYSTEM_FOLDERS", str(tmp_path / "none"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path


def test_the_newest_tools_that_can_read_the_server_are_used(only: Path) -> None:
    install(only / "path", "16.4 (Debian 16.4-1)")
    newest = install(only / "configured", "18.1")

    assert find_pgtools(15, connections=[], configured=newest).folder == newest
    assert find_pgtools(15, connections=[]).folder == only / "path"
    assert find_pgtools(15, connections=[]).major == 16


def test_tools_older_than_the_server_are_refused_with_the_remedy(only: Path) -> None:
    install(only / "path", "15.7")
    broken = only / "broken"
    install(broken, "18.0")
    (broken / "pg_restore").unlink()

    with pytest.raises(OperatorNeeded) as refused:
        find_pgtools(17, connections=[], configured=broken)

    assert refused.value.code == "pg-dump-too-old"
    assert refused.value.message == (
        f"the source is PostgreSQL 17 and no pg_dump here is as new; found: {only / 'path'} (15)"
    )
    assert "apt install postgresql-client-17" in refused.value.hint
    assert "tools: pg_bin" in refused.value.hint


def test_tools_without_tls_are_not_used_where_the_connection_requires_it(only: Path) -> None:
    with_tls = install(only / "path", "17.2")
    without = install(only / "wheel", "18.4")
    complaint = 'sslmode value "require" invalid when SSL support is not compiled in'
    with open(without / "pg_dump", "a") as program:
        program.write(f"""[ "$1" = --version ] || echo '{complaint}' >&2\n""")

    def found(sslmode: str, major: int = 15) -> Path:
        connections = ["host=h", f"host=h sslmode={sslmode}"]
        return find_pgtools(major, connections=connections, configured=without).folder

    assert found("verify-full") == with_tls
    assert found("prefer") == without
    with pytest.raises(OperatorNeeded) as refused:
        found("require", 18)
    assert refused.value.code == "pg-dump-without-tls"
    assert refused.value.message == (
        "the connection requires TLS, and no pg_dump here that can read PostgreSQL 18 has it;"
        f" found: {without} (18)"
    )
    assert "apt install postgresql-client-18" in refused.value.hint


@pytest.mark.parametrize(
    ("conninfo", "kept"),
    [
        ("postgresql://u:s3cr%40t@h1:1,h2:2/db?sslmode=require", {"host": "h1,h2", "port": "1,2"}),
        ("host=h user=u password='s3cr@t' dbname='a b' options='-c geqo=off'", {"dbname": "a b"}),
        ("service=crm password=s3cr@t", {"service": "crm"}),
    ],
)
def test_a_password_leaves_the_connection_string_for_the_environment(
    conninfo: str, kept: dict[str, str]
) -> None:
    with open_login(conninfo, application_name="keepstream:x", options="-c a=b") as (public, environment):
        given = conninfo_to_dict(public)

    assert "s3cr" not in public
    assert environment["PGPASSWORD"] == "s3cr@t"
    assert "password" not in given
    assert kept.items() <= given.items()
    assert given["application_name"] == "keepstream:x"
    assert str(given["options"]).endswith("-c a=b")


def test_secrets_without_an_environment_variable_go_through_a_private_service_file() -> None:
    with open_login("host=h sslpassword=s3cret", application_name="x") as (public, environment):
        path = Path(environment["PGSERVICEFILE"])
        assert "s3cret" not in public
        assert conninfo_to_dict(public)["service"] == "keepstream"
        assert path.read_text() == "[keepstream]\nsslpassword=s3cret\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_such_a_secret_beside_a_service_is_refused_without_naming_it() -> None:
    with (
        pytest.raises(OperatorNeeded) as refused,
        open_login("service=crm sslpassword=s3cret", application_name="x"),
    ):
        pass

    assert refused.value.code == "secret-beside-service"
    assert "s3cret" not in refused.value.message + refused.value.hint


def test_a_tool_is_heard_while_it_runs_and_ended_when_that_is_wished() -> None:
    stop = threading.Event()
    heard: list[str] = []

    def hear(line: str) -> None:
        heard.append(line)
        stop.set()

    program = "import sys, time; print('out'); print('busy', file=sys.stderr, flush=True); time.sleep(60)"
    started = time.monotonic()
    ended = run_tool([sys.executable, "-c", program], dict(os.environ), stop=stop, on_error_line=hear)

    assert heard == ["busy"]
    assert ended.status < 0
    assert time.monotonic() - started < 10


def test_a_tools_output_and_status_are_told() -> None:
    program = "import sys; print('a'); print('b'); print('c', file=sys.stderr); sys.exit(3)"
    ended = run_tool([sys.executable, "-c", program], dict(os.environ), stop=threading.Event())

    assert (ended.status, ended.output, ended.errors) == (3, "a\nb", ("c",))
