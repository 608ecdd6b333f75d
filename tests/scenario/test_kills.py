"""SIGKILL of capture and apply at named places: nothing is lost, doubled or torn, on both logs.

One world per log serves all tests of it: each kills a stage once more, starts the same command again,
and compares log and replica with the source's true history (`checker`, `rawlog`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fix_postgres import Server
from tests.scenario.world import World, new_world

SETUP = ("capture.publication_created", "capture.slot_created", "capture.before_anchor")
CAPTURE = (
    "capture.before_start_record",
    "capture.after_start_record",
    "capture.before_anchor",
    "capture.after_anchor",
    "capture.before_append:4",
    "capture.after_append:5",
    "capture.part_appended",
    "capture.after_durable:3",
    "capture.after_confirm:3",
)
WRITER = {
    "directory": (
        "log.epoch_created",
        "log.predecessor_read",
        "log.written:3",
        "log.synced:3",
        "log.looked:3",
    ),
    "kafka": ("log.sent:4", "log.acknowledged:4"),
}
APPLY = (
    "apply.take_over",
    "apply.before_begin:3",
    "apply.after_cas:3",
    "apply.mid_transaction:3",
    "apply.part_applied",
    "apply.sets_sent:2",
    "apply.sets_settled:2",
    "apply.before_commit:3",
    "apply.inside_commit:3",
    "apply.after_commit:3",
)


@pytest.fixture(scope="module", params=["directory", "kafka"])
def world(
    request: pytest.FixtureRequest,
    source_server: Server,
    replica_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("kills")
    url = f"file://{folder}/log"
    if request.param == "kafka":
        url = f"kafka://{request.getfixturevalue('kafka_server')}"
    with new_world(folder, source_server, replica_server, url) as made:
        for failpoint in SETUP:
            made.die_at(failpoint, "capture", idle=True)
        made.start("capture")
        made.pipeline.until(lambda: made.log_is_begun, "the log's first anchor")
        yield made


def test_setting_up_survives_a_kill_after_each_of_its_steps(world: World) -> None:
    world.ensure("capture")
    world.ensure("apply", "standby")
    world.check()


@pytest.mark.parametrize("failpoint", CAPTURE)
def test_capture_killed(world: World, failpoint: str) -> None:
    world.ensure("apply", "standby")
    world.die_at(failpoint, "capture")
    world.check_log()
    world.start("capture")
    world.check()


def test_capture_killed_before_a_heartbeat(world: World) -> None:
    world.ensure("capture")
    world.ensure("apply", "standby")
    world.catch_up()
    world.kill("capture")
    world.source.execute_as_admin("select pg_switch_wal()")  # there is WAL, and nothing in it for the log
    world.die_at("capture.before_heartbeat", "capture", idle=True)
    world.start("capture")
    world.check()


@pytest.mark.parametrize("failpoint", [*WRITER["directory"], *WRITER["kafka"]])
def test_capture_killed_inside_the_log(world: World, failpoint: str) -> None:
    home = "kafka" if failpoint in WRITER["kafka"] else "directory"
    if not world.pipeline.settings["log"]["url"].startswith("file" if home == "directory" else home):
        pytest.skip(f"a place in the {home} log only")
    world.ensure("apply", "standby")
    world.die_at(failpoint, "capture")
    world.check_log()
    world.start("capture")
    world.check()


def test_capture_killed_twice_in_a_row(world: World) -> None:
    world.ensure("apply", "standby")
    world.die_at("capture.after_append:3", "capture")
    world.die_at("capture.after_start_record", "capture")
    world.die_at("capture.part_appended", "capture")
    world.start("capture")
    world.check()


@pytest.mark.slow_on_kafka
@pytest.mark.parametrize("failpoint", APPLY)
def test_apply_killed(world: World, failpoint: str) -> None:
    world.ensure("capture")
    world.die_at(failpoint, "apply", "standby")
    world.start("apply", "standby")
    world.check()


def test_apply_killed_twice_in_a_row(world: World) -> None:
    world.ensure("capture")
    world.die_at("apply.inside_commit:2", "apply", "standby")
    world.die_at("apply.take_over", "apply", "standby")
    world.die_at("apply.part_applied", "apply", "standby")
    world.start("apply", "standby")
    world.check()


@pytest.mark.slow_on_kafka
def test_both_killed_and_verify_agrees(world: World) -> None:
    """The product's own verdict, after all of that."""
    world.ensure("capture")
    world.ensure("apply", "standby")
    world.die_at("apply.mid_transaction:2", "apply", "standby")
    world.die_at("capture.after_append:3", "capture")
    world.start("apply", "standby")
    world.start("capture")
    world.check()
    world.pipeline.verify()
