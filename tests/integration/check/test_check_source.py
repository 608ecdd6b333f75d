"""`check` of the source's server: slot, role, settings and encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from connectors.postgres.instance import Instance, read_instance
from connectors.postgres.server import Server, read_server
from connectors.postgres.session import Session
from pipeline.check import refusal
from schemas.finding import Severity
from tests.checking import CUSTOMER, by_code, configure, errors, established, preflight
from tests.fix_postgres import Database
from tests.postgres_releases import needs_release
from tests.tracked import install_triggers


def test_tables_that_a_rewrite_would_not_send_are_named_with_the_limit_that_would(
    owning: Database, log: Path
) -> None:
    owning.execute(
        "create table large (id int primary key, t text); insert into large select i, repeat('x', 900)"
        " from generate_series(1, 900) i; create table small (id int primary key)"
    )
    config = configure(owning.dsn, log)
    install_triggers(owning)
    assert "rewrite-too-large" not in by_code(preflight(config))
    owning.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 100000")
    found = by_code(preflight(config))["rewrite-too-large"]
    assert (found.severity, "public.large (" in found.message, "small" in found.message) == (
        Severity.NOTE,
        True,
        False,
    )
    assert found.fix.endswith("update keepstream.schema_settings set max_rows_bytes = 1048576;")


def test_a_slot_beside_an_empty_log_is_refused(owning: Database, log: Path) -> None:
    owning.execute(CUSTOMER)
    owning.execute_as_admin("select pg_create_logical_replication_slot('keepstream_crm', 'pgoutput')")
    found = by_code(preflight(configure(owning.dsn, log)))["slot-without-log"]
    assert found.exit_code == 4
    assert "select pg_drop_replication_slot('keepstream_crm');" in found.fix


def test_a_role_that_may_not_replicate_is_refused(owning: Database, log: Path) -> None:
    owning.execute_as_admin("alter role keepstream noreplication")
    try:
        found = by_code(preflight(configure(owning.dsn, log)))["privilege-replication"]
        assert (
            found.fix
            == 'alter role "keepstream" replication;\n-- on RDS: grant rds_replication to "keepstream";'
        )
    finally:
        owning.execute_as_admin("alter role keepstream replication")


@needs_release("source", 18)
def test_settings_that_endanger_the_slot_are_found(new_source: Callable[..., Database], log: Path) -> None:
    source = new_source(
        {
            "wal_level": "replica",
            "max_replication_slots": "1",
            "max_wal_senders": "1",
            "wal_sender_timeout": "5s",
            "idle_replication_slot_timeout": "1h",
            "max_slot_wal_keep_size": "64MB",
            "max_prepared_transactions": "2",
        }
    )
    found = by_code(preflight(configure(source.dsn, log, "dbname=none host=127.0.0.1 port=1")))
    wrong = {
        "wal-level": Severity.ERROR,
        "slots-exhausted": Severity.ERROR,
        "senders-exhausted": Severity.ERROR,
        "sender-timeout-short": Severity.WARNING,
        "slot-idle-timeout": Severity.WARNING,
    }
    assert {code: found[code].severity for code in wrong} == wrong
    assert found["wal-level"].fix == "alter system set wal_level = 'logical';  -- then restart the server"
    assert found["senders-exhausted"].fix == (
        "alter system set max_wal_senders = 4;"
        "  -- then restart the server, behind its standbys, which go on only with as many"
    )
    assert found["slot-idle-timeout"].fix == (
        "-- lets any slot, not only ours, that nobody reads hold back WAL until the disk is full:"
        " alter system set idle_replication_slot_timeout = 0;\n-- select pg_reload_conf();"
    )
    assert "64.0 MiB" in found["slot-room"].message


def test_an_established_pipeline_runs_although_no_slot_is_left_for_a_copy(
    new_source: Callable[..., Database], log: Path
) -> None:
    source = new_source({"wal_level": "logical", "max_replication_slots": "1"})
    established(source)
    config = configure(source.dsn, log, "dbname=none host=127.0.0.1 port=1")
    found = by_code(preflight(config))["slots-exhausted"]
    assert found.severity is Severity.ERROR
    assert refusal([found]) is None


def test_a_short_timeout_of_senders_is_lengthened_for_our_role_alone(owning: Database, log: Path) -> None:
    config = configure(make_conninfo(owning.dsn, options="-c wal_sender_timeout=5s"), log)
    found = by_code(preflight(config))["sender-timeout-short"]
    assert found.fix == "alter role \"keepstream\" set wal_sender_timeout = '60s';"


def test_a_limit_of_what_slots_hold_back_is_no_more_than_a_comment_and_above_what_they_do(
    owning: Database, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(size_bytes: int, rate: float | None) -> str:
        def read(session: Session) -> Server:
            return replace(read_server(session), held_wal_bytes=size_bytes)

        def busy(session: Session) -> Instance:
            return replace(read_instance(session), wal_bytes_per_s=rate)

        monkeypatch.setattr(import_module("pipeline.check.preflight"), "read_server", read)
        monkeypatch.setattr(import_module("pipeline.check.preflight"), "read_instance", busy)
        return by_code(preflight(configure(owning.dsn, log)))["slot-unlimited"].fix

    assert held(60 << 30, None) == (
        "-- loses any slot, not only ours, that holds back more (60.0 GiB is the most now), and the disk must"
        " have room for it: alter system set max_slot_wal_keep_size = '120GB';\n-- select pg_reload_conf();"
    )
    assert "= '10GB';" in held(0, None)
    assert "= '73GB';" in held(60, 300_000)


def test_a_short_room_for_slots_is_widened_only_by_a_comment(
    new_source: Callable[..., Database], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(session: Session) -> Instance:
        return replace(read_instance(session), wal_bytes_per_s=1 << 20)

    monkeypatch.setattr(import_module("pipeline.check.preflight"), "read_instance", busy)
    source = new_source({"max_slot_wal_keep_size": "64MB"})
    assert by_code(preflight(configure(source.dsn, log)))["slot-room-short"].fix == (
        "-- lets any slot, not only ours, take more of the disk, which must have room for it:"
        " alter system set max_slot_wal_keep_size = '256MB';\n-- select pg_reload_conf();"
    )


def test_a_database_of_unknown_encoding_is_refused(source: Database, log: Path) -> None:
    source.execute_as_admin("create database ascii encoding 'SQL_ASCII' locale 'C' template template0")
    try:
        dsn = source.dsn.rsplit("/", 1)[0] + "/ascii"
        assert "encoding-unknown" in errors(preflight(configure(dsn, log)))
    finally:
        source.execute_as_admin("drop database ascii with (force)")
