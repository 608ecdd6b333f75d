"""`check` on real servers: that it changes nothing, what it prints, and what cannot be reached."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from connectors.postgres.session import Session, connect
from pipeline.check import refusal, require_fit
from pipeline.cli import main
from pipeline.cli.check import fix_parts
from pipeline.config import parse_config
from schemas.errors import LoginRefused, RetryLater
from schemas.finding import Severity
from tests.checking import CUSTOMER, by_code, configure, errors, preflight
from tests.fix_postgres import Database


def test_a_good_source_log_and_replica_have_no_error(owning: Database, replica: Database, log: Path) -> None:
    owning.execute(CUSTOMER)
    findings = preflight(configure(owning.dsn, log, replica.dsn))
    assert errors(findings) == []
    assert refusal(findings) is None
    assert by_code(findings)["publication"].message == "will be made, with 1 tables"
    places = list(dict.fromkeys(finding.where for finding in findings))
    assert places == ["source", "log", "replica standby", "tools"]


def test_check_changes_nothing(owning: Database, replica: Database, log: Path) -> None:
    owning.execute(f"{CUSTOMER}; create table keyless (x int)")

    def state() -> list[Any]:
        catalogs = ("pg_publication", "pg_replication_slots", "pg_namespace", "pg_class", "pg_roles")
        return [
            database.execute_as_admin(f"select count(*), max(xmin::text::bigint) from {catalog}")
            if catalog not in ("pg_replication_slots", "pg_roles")
            else database.execute_as_admin(f"select count(*) from {catalog}")
            for database in (owning, replica)
            for catalog in catalogs
        ]

    before = state()
    assert errors(preflight(configure(owning.dsn, log, replica.dsn)))
    assert state() == before
    assert not log.exists()


def test_the_sessions_of_a_look_by_run_are_those_of_run(
    owning: Database, replica: Database, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purposes = set()

    def noting(conninfo: str, *, purpose: str) -> Session:
        purposes.add(purpose)
        return connect(conninfo, purpose=purpose)

    monkeypatch.setattr(import_module("pipeline.check.preflight"), "connect", noting)
    require_fit(configure(owning.dsn, log, replica.dsn))
    assert purposes == {"crm:run"}


def test_no_name_can_smuggle_sql_into_what_an_admin_runs(source: Database, log: Path) -> None:
    name = "x\ndrop table customer; --"
    source.execute(CUSTOMER)
    source.execute(sql.SQL("create table {} (x int)").format(sql.Identifier(name)).as_string())
    source.execute(
        sql.SQL("create table {} (x int primary key)").format(sql.Identifier(f"y{name}")).as_string()
    )
    config = configure(source.dsn, log)
    (part,) = fix_parts(preflight(config), config)
    source.execute_as_admin(part.text)
    assert source.execute("select count(*) from customer") == [(0,)]


def test_an_unreachable_server_is_one_finding_and_the_rest_is_still_looked_at(
    source: Database, replica: Database, log: Path
) -> None:
    gone = "host=127.0.0.1 port=1 dbname=x user=y password=hunter2"
    findings = preflight(configure(gone, log, replica.dsn))
    assert errors(findings) == ["server-unreachable"]
    assert by_code(findings)["replica-empty"].severity is Severity.OK
    error = refusal(findings)
    assert isinstance(error, RetryLater)
    assert error.exit_code == 5
    assert "hunter2" not in str(findings) + str(error)


def test_a_wrong_password_ends_with_5_and_is_not_shown(source: Database, log: Path) -> None:
    wrong = source.dsn.replace(source.password, "hunter2")
    findings = preflight(configure(wrong, log))
    assert errors(findings) == ["login-refused"]
    assert isinstance(refusal(findings), LoginRefused)
    assert "hunter2" not in str(findings)


def test_a_log_that_cannot_be_reached_ends_with_5(
    owning: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.log.kafka_clients._BOOTSTRAP_MS", 1000)
    text = f"name: crm\nsource: {owning.dsn}\nlog: kafka://127.0.0.1:1\nreplicas: {{a: '{replica.dsn}'}}"
    findings = preflight(parse_config(text, name="k", environment={}))
    assert [(f.where, f.exit_code) for f in findings if f.severity is Severity.ERROR] == [("log", 5)]
    assert findings[-1].where == "tools"


def test_a_kafka_setting_that_does_not_exist_ends_with_3(owning: Database) -> None:
    text = (
        f"name: crm\nsource: {owning.dsn}\nlog: {{url: 'kafka://127.0.0.1:1', client: {{sasl.pasword: x}}}}"
    )
    findings = preflight(parse_config(text, name="k", environment={}))
    assert [(f.where, f.exit_code) for f in findings if f.severity is Severity.ERROR] == [("log", 3)]


def test_the_verb_prints_a_list_json_or_only_sql_and_ends_with_the_first_error_s_code(
    owning: Database, tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owning.execute("create table keyless (x int)")
    path = tmp_path / "keepstream.yaml"
    path.write_text(f"name: crm\nsource: {owning.dsn}\nlog: file://{log}\n")
    path.chmod(0o640)
    assert main(["-c", str(path), "check"]) == 4
    shown = capsys.readouterr().out
    assert "  error   public.keyless: no primary key: published, its UPDATE and DELETE would fail" in shown
    assert "1 error and 3 warnings" in shown
    assert main(["-c", str(path), "check", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["findings"][0]["code"] == "config-readable"
    assert main(["-c", str(path), "check", "--fix-sql"]) == 4
    owning.execute_as_admin(capsys.readouterr().out)
    assert main(["-c", str(path), "check"]) == 0
    assert owning.password not in shown + capsys.readouterr().out


def test_sql_that_mends_a_table_of_an_evil_name_is_shown_and_run_without_driving_the_terminal(
    owning: Database, tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "x\x1b]0;owned\x07\n\r\x9b\\\"'\u202e\u2066"
    owning.execute(sql.SQL("create table {} (x int)").format(sql.Identifier(evil)).as_string())
    path = tmp_path / "keepstream.yaml"
    path.write_text(f"name: crm\nsource: {owning.dsn}\nlog: file://{log}\n")
    path.chmod(0o600)
    assert main(["-c", str(path), "check"]) == 4
    shown = capsys.readouterr().out
    assert r"""public.x\x1b]0;owned\x07\n\r\x9b\"'\u202e\u2066: no primary key""" in shown
    assert main(["-c", str(path), "check", "--fix-sql"]) == 4
    mending = capsys.readouterr().out
    assert (shown + mending).replace("\n", "").isprintable()
    owning.execute_as_admin(mending)
    assert main(["-c", str(path), "check"]) == 0
