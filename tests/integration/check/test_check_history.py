"""`check` on a pipeline that has run: slot, publication and log must be of one history (P10, P11)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.check import preflight
from pipeline.config import Config, load_config
from schemas.errors import BEGIN_ANEW
from schemas.finding import Finding, Severity
from tests.fix_postgres import Database

ROOT = Path(__file__).parents[3]
START_S = 30.0


@pytest.fixture
def established(source: Database, tmp_path: Path) -> Config:
    """A pipeline whose capture has begun a log and was stopped."""
    source.grant_ownership()
    source.execute("create table customer (id int primary key)")
    path = tmp_path / "keepstream.yaml"
    path.write_text(f"name: crm\nsource: {source.dsn}\nlog: file://{tmp_path}/log\n")
    path.chmod(0o600)
    command = [sys.executable, "-m", "pipeline.cli", "-c", str(path), "capture"]
    with subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stderr=subprocess.PIPE) as capture:
        try:
            config = load_config(path)
            found = wait_for(config, lambda finding: finding.code == "slot" and "streams" in finding.message)
            assert found.severity is Severity.OK
            capture.send_signal(signal.SIGTERM)
            assert capture.wait(timeout=START_S) == 0
        finally:
            capture.kill()
            capture.communicate()
    return config


def wait_for(config: Config, wanted: Callable[[Finding], bool]) -> Finding:
    deadline = time.monotonic() + START_S
    while True:
        findings = preflight(config)
        for finding in findings:
            if wanted(finding):
                return finding
        assert time.monotonic() < deadline, findings
        time.sleep(0.2)


def errors(config: Config) -> dict[str, Finding]:
    return {f.code: f for f in preflight(config) if f.severity is Severity.ERROR}


def test_a_stopped_pipeline_may_go_on(established: Config) -> None:
    assert errors(established) == {}


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("select pg_drop_replication_slot('keepstream_crm')", "slot-missing"),
        (
            "create table lost (id int primary key);"
            "insert into lost select generate_series(1, 1000);"
            "select pg_replication_slot_advance('keepstream_crm', pg_current_wal_lsn())",
            "slot-advanced",
        ),
        (
            "select pg_drop_replication_slot('keepstream_crm');"
            "select pg_create_logical_replication_slot('keepstream_crm', 'test_decoding')",
            "slot-foreign",
        ),
        (
            "alter publication keepstream_crm drop table customer;"
            "alter publication keepstream_crm add table customer",
            "publication-changed",
        ),
        ("drop publication keepstream_crm", "publication-changed"),
        ("alter table customer alter id type bigint using -id", "schema-changed"),
        ("alter table customer rename to client", "table-renamed"),
    ],
)
def test_a_broken_history_ends_with_4_and_its_remedy(
    established: Config, source: Database, damage: str, code: str
) -> None:
    for statement in damage.split(";"):
        source.execute_as_admin(statement)
    found = errors(established)
    assert list(found) == [code]
    assert found[code].exit_code == 4
    assert BEGIN_ANEW in found[code].fix
