"""A source that may fail over: its slot, what `check` says of its servers, and a promotion come too early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.interfaces import ChangeLog
from connectors.postgres.failover.hosts import at_server, hosts, to_primary
from connectors.postgres.failover.primary import require_failover_slots
from connectors.postgres.failover.standbys import read_timeline
from connectors.postgres.replication.slot import read_slot
from connectors.postgres.session import connect
from pipeline.capture.options import CaptureOptions
from pipeline.check import preflight
from pipeline.config import Config, parse_config
from pipeline.dev.process import require
from schemas.errors import ConfigError
from schemas.finding import Severity
from tests.capturing import RunningCapture, begun, capture_options, capturing
from tests.fix_postgres import Database
from tests.fix_standby import STANDBY_SLOT, SYNCHRONOUS, FailingOver
from tests.postgres_releases import needs_release, release


@pytest.fixture
def pair(failing_over: Callable[..., FailingOver]) -> FailingOver:
    made = failing_over()
    made.old.grant_ownership()
    made.old.execute("create table customer (id int primary key)")
    return made


def fails_over(database: Database, slot: str) -> bool:
    with connect(database.dsn, purpose="test") as session:
        found = read_slot(session, slot)
    assert found is not None
    return found.failover


def test_on_an_older_server_failover_is_an_error_of_the_configuration() -> None:
    with pytest.raises(ConfigError) as caught:
        require_failover_slots(160004)
    assert (caught.value.code, caught.value.exit_code) == ("failover-unsupported", 3)
    assert caught.value.message == (
        "source.failover is true, and the source is PostgreSQL 16, whose slots do not survive a failover"
    )


@pytest.mark.skipif(release("source") >= 17, reason="needs a source older than PostgreSQL 17")
def test_capture_ends_there_before_it_makes_anything(source: Database, change_log: ChangeLog) -> None:
    error = RunningCapture(capture_options(source, change_log, failover=True)).ended_with()
    assert error.code == "failover-unsupported"
    assert not change_log.exists()


@needs_release("source", 17)
def test_a_slot_that_is_there_can_fail_over_from_the_next_start_on(
    source: Database, change_log: ChangeLog
) -> None:
    source.grant_ownership()
    options = capture_options(source, change_log)
    with capturing(options):
        begun(change_log)
    assert not fails_over(source, options.slot)
    with capturing(capture_options(source, change_log, failover=True)):
        require(lambda: fails_over(source, options.slot), 20, what="the slot's alteration")
    with capturing(options):
        assert fails_over(source, options.slot), "nobody takes it away"


@needs_release("source", 17)
def test_p10_a_standby_is_waited_for_and_one_promoted_without_the_slot_is_refused(
    pair: FailingOver, change_log: ChangeLog
) -> None:
    options = capture_options(pair.old, change_log)
    with capturing(options):
        begun(change_log)
    pair.old.disconnect()

    promoted = capture_options(pair.new, change_log)
    running = RunningCapture(promoted)
    require(lambda: running.last_error == "source-is-standby", 20, what="the honest word")
    pair.promote()
    error = running.ended_with()
    assert (error.code, error.exit_code) == ("slot-missing", 4)
    assert error.message == f"slot {options.slot} is missing on the standby that was promoted"
    with connect(pair.new.dsn, purpose="test") as session:
        assert read_timeline(session) == 2
    with connect(to_primary(pair.url), purpose="test") as session:
        assert at_server(pair.url, session) == hosts(pair.url)[1].conninfo


def configure(pair: FailingOver, log: Path, name: str) -> Config:
    text = f"name: {name}\nsource:\n  url: {pair.url}\n  failover: true\nlog: file://{log}\n"
    return parse_config(text, name="keepstream.yaml", environment={})


def seen_of_standbys(config: Config) -> dict[str, str]:
    codes = ("standby", "slot-without-failover", "source-one-host", "source-two-primaries")
    found = [each for each in preflight(config) if each.code.startswith(codes)]
    assert not [each for each in found if each.severity is Severity.ERROR]
    return {each.code: each.message for each in found}


@needs_release("source", 17)
def test_check_names_what_else_a_failover_takes(pair: FailingOver, tmp_path: Path) -> None:
    config = configure(pair, tmp_path / "log", "crm")
    standby = f"standby 127.0.0.1:{pair.new.server.port}"
    found = {each.code: each for each in preflight(config)}
    awaited = found["standby-not-awaited"]
    assert awaited.subject == "synchronized_standby_slots"
    assert f"does not name {STANDBY_SLOT}: the log may get ahead of that standby" in awaited.message
    assert awaited.fix == (
        "-- lets no slot that can fail over, not only ours, go on while one of these standbys is away:"
        f" alter system set synchronized_standby_slots = '{STANDBY_SLOT}';\n-- select pg_reload_conf();"
    )
    assert found["standby-copy-missing"].subject == standby

    for server, slot in ((pair.new, "other"), (pair.old, "idle")):  # PostgreSQL 17 takes no others
        server.execute_as_admin("select pg_create_physical_replication_slot(%s)", [slot])
    pair.configure_standby(
        sync_replication_slots="off", hot_standby_feedback="off", synchronized_standby_slots="'other'"
    )
    pair.configure_primary(synchronized_standby_slots=f"'{STANDBY_SLOT}, idle'")
    lacking = {"standby-away", "standby-not-synchronising", "standby-feedback", "standby-awaits"}
    require(lambda: lacking <= seen_of_standbys(config).keys(), 10, what="what lacks")
    assert seen_of_standbys(config).keys() == lacking
    assert seen_of_standbys(config)["standby-away"].startswith("awaits idle, and no standby reads from there")


@needs_release("source", 17)
def test_check_says_when_a_standby_is_ready_and_which_host_is_a_second_primary(
    failing_over: Callable[..., FailingOver], tmp_path: Path, change_log: ChangeLog
) -> None:
    pair = failing_over({"synchronized_standby_slots": SYNCHRONOUS["synchronized_standby_slots"]})
    pair.old.grant_ownership()
    config = configure(pair, tmp_path / "log", f"t{pair.old.name[4:]}")
    options: CaptureOptions = capture_options(pair.old, change_log, slot=config.slot_name, failover=True)
    with capturing(options):
        begun(change_log)
        pair.await_synced(options.slot)
        assert seen_of_standbys(config).keys() == {"standbys-awaited", "standby-ready"}
    pair.new.execute_as_admin("select pg_promote()")
    found = {each.code: each for each in preflight(config)}
    assert found["source-two-primaries"].message == (
        "is a primary, too: what is written to one of the two is lost"
    )
