"""`keepstream status`, as scripts and people call it, while a pipeline lives, stops and hangs."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fix_pipeline import Pipeline, make_pipeline
from tests.fix_postgres import Database, frozen

SCHEMA = "create table customer (id int primary key, name text); create table note (body text)"
OFTEN = {
    "pipeline.board.IDLE_EVERY_S": 1.0,
    "pipeline.control.hearsay.STALE_AFTER_S": 5.0,
    "pipeline.control.judgement.STALE_AFTER_S": 5.0,
}
"""Whoever is idle reports as often as others, and who does not is missed sooner."""
STATES = [
    "starting",
    "copying",
    "catching_up",
    "streaming",
    "idle",
    "paused",
    "retrying",
    "stalled",
    "stopped",
]


def status(pipeline: Pipeline) -> Any:
    done = pipeline.run("status", "--json")
    assert done.code == 0, done.stderr
    return done.json


def replica_of(pipeline: Pipeline) -> Any:
    return status(pipeline)["replicas"]["standby"]


def prepare(pipeline: Pipeline) -> None:
    for side in (pipeline.source, pipeline.replica):
        side.execute(SCHEMA)
    pipeline.settings["source"]["keyless"] = "exclude"
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()


def test_before_anything_ran_everything_is_stopped_and_unknown(pipeline: Pipeline) -> None:
    prepare(pipeline)
    seen = status(pipeline)
    assert (seen["state"], seen["capture"]["state"]) == ("stopped", "stopped")
    standby = seen["replicas"]["standby"]
    assert standby["state"] == "stopped"
    assert [standby[name] for name in ("commit_lsn", "end_lsn", "lag_bytes", "lag_s")] == [None] * 4
    assert seen["slot"]["exists"] is False
    assert seen["slot"]["retained_bytes"] is None
    assert [left["table"] for left in seen["not_replicated"]] == ["public.note"]
    assert seen["not_replicated"][0]["reason"] == "no primary key; excluded by source.keyless"
    assert seen["log"]["exists"] is False


@pytest.mark.slow_on_kafka
def test_a_caught_up_replica_has_no_lag_becomes_idle_and_then_streams_again(pipeline: Pipeline) -> None:
    prepare(pipeline)
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.wait()
    pipeline.source.execute("insert into customer select i, 'c' || i from generate_series(1, 100) i")
    pipeline.wait()
    pipeline.until(lambda: replica_of(pipeline)["lag_s"] == 0, "no lag")
    pipeline.until(lambda: status(pipeline)["state"] == "idle", "an idle pipeline")
    standby = replica_of(pipeline)
    assert (standby["lag_s"], standby["lag_bytes"]) == (0, 0)
    assert standby["commit_lsn"] is not None
    ((position,),) = pipeline.replica.execute_as_admin("select position::text from keepstream.progress")
    assert lsn(standby["end_lsn"]) <= lsn(position)
    assert lsn(standby["commit_lsn"]) < lsn(standby["end_lsn"])
    pipeline.source.execute("insert into customer values (0, 'x')")
    pipeline.wait()
    pipeline.until(lambda: replica_of(pipeline)["state"] == "streaming", "a streaming replica")


@pytest.mark.slow_on_kafka
def test_a_paused_replica_is_paused_and_its_lag_grows(pipeline: Pipeline) -> None:
    prepare(pipeline)
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.wait()
    assert pipeline.run("pause", "standby").code == 0
    pipeline.source.execute("insert into customer select i, 'c' || i from generate_series(1, 1000) i")
    pipeline.until(lambda: (replica_of(pipeline)["lag_s"] or 0) > 1.5, "lag")
    seen = status(pipeline)
    standby = seen["replicas"]["standby"]
    assert (seen["state"], standby["state"], standby["hold"]["kind"]) == ("paused", "paused", "pause")
    assert standby["lag_bytes"] > 1000
    assert seen["capture"]["lag_s"] == 0
    assert pipeline.run("status", "--fail-if", "lag_s>1").code == 7
    assert pipeline.run("status", "--fail-if", "paused").code == 7
    assert pipeline.run("status", "--fail-if", "lag_s>3600", "--fail-if", "stalled").code == 0
    assert pipeline.run("resume", "standby").code == 0
    pipeline.wait()
    pipeline.until(lambda: replica_of(pipeline)["lag_s"] == 0, "no lag")


def test_a_killed_process_is_stopped_and_a_frozen_one_is_stalled(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.values |= OFTEN
    prepare(pipeline)
    capture, apply = pipeline.start("capture"), pipeline.start("apply", "standby")
    pipeline.wait()
    pipeline.until(lambda: status(pipeline)["capture"]["state"] in ("streaming", "idle"), "streaming")
    capture.kill()
    pipeline.until(lambda: status(pipeline)["capture"]["state"] == "stopped", "a stopped capture", 10)
    pipeline.source.execute("insert into customer select i, 'c' || i from generate_series(1, 100) i")
    seen = status(pipeline)
    assert seen["state"] == "stopped"
    assert seen["slot"]["active"] is False
    assert seen["slot"]["retained_bytes"] > 0
    assert seen["replicas"]["standby"]["lag_bytes"] > 0
    assert seen["replicas"]["standby"]["lag_s"] > 0
    pipeline.start("capture")
    pipeline.wait()
    os.kill(apply.process.pid, signal.SIGSTOP)
    try:
        pipeline.source.execute("insert into customer values (0, 'x')")
        pipeline.until(lambda: replica_of(pipeline)["state"] == "stalled", "a stalled replica", 40)
        assert "apply-silent" in [finding["code"] for finding in status(pipeline)["findings"]]
    finally:
        os.kill(apply.process.pid, signal.SIGCONT)
    pipeline.wait()
    pipeline.until(lambda: replica_of(pipeline)["state"] in ("streaming", "idle"), "a replica that streams")
    assert apply.end() == 0
    assert replica_of(pipeline)["state"] == "stopped"


def test_frozen_stages_whose_reports_are_gone_are_found(directory_pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline = directory_pipeline
    pipeline.values |= OFTEN
    prepare(pipeline)
    stages = [pipeline.start("capture"), pipeline.start("apply", "standby")]
    pipeline.wait()
    pipeline.until(lambda: "apply begins" in stages[1].output, "apply's beginning")
    for stage in stages:
        os.kill(stage.process.pid, signal.SIGSTOP)
    try:
        for each in tmp_path.rglob("status/*.json"):
            each.unlink()

        def found() -> set[str]:
            findings = status(pipeline)["findings"]
            return {each["where"] for each in findings if each["code"] == "reports-missing"}

        pipeline.until(lambda: found() == {"capture", "replica standby"}, "findings", 30)
        pipeline.until(lambda: status(pipeline)["capture"]["state"] == "stalled", "a stalled capture", 20)
        assert replica_of(pipeline)["state"] is None
    finally:
        for stage in stages:
            os.kill(stage.process.pid, signal.SIGCONT)
    pipeline.until(lambda: status(pipeline)["findings"] == [], "reports", 20)


def test_a_capture_that_was_killed_after_it_confirmed_is_no_gap(directory_pipeline: Pipeline) -> None:
    """What it confirmed last it never reported: the report from before is put back."""
    pipeline = directory_pipeline
    prepare(pipeline)
    assert pipeline.start("apply", "standby").alive
    first = pipeline.start("capture")
    pipeline.wait()
    pipeline.until(lambda: status(pipeline)["capture"]["state"] in ("streaming", "idle"), "its report")
    assert first.end() == 0
    stopped = status(pipeline)["capture"]
    report = pipeline.folder / "log" / f"{pipeline.name}.log" / "status" / "capture.json"
    before = report.read_bytes()
    killed = pipeline.start("capture")
    pipeline.source.execute("insert into customer values (1, 'Ada')")
    pipeline.wait()
    moved = (
        f"select confirmed_flush_lsn > '{stopped['position']}' from pg_replication_slots where slot_name = %s"
    )
    pipeline.until(lambda: pipeline.source.execute(moved, [pipeline.slot]) == [(True,)], "a confirmed row")
    killed.kill()
    report.write_bytes(before)
    pipeline.until(lambda: not status(pipeline)["slot"]["active"], "a slot that nobody owns")
    seen = status(pipeline)
    assert (seen["capture"]["pid"], seen["findings"]) == (stopped["pid"], [])
    assert lsn(stopped["position"]) < lsn(seen["slot"]["confirmed_lsn"]) <= lsn(seen["capture"]["position"])


def test_a_first_copy_shows_how_far_it_is_and_what_it_holds_back(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.values |= {"pipeline.cli.status.WATCH_EVERY_S": 0.2, "pipeline.board.EVERY_S": 0.2}
    pipeline.source.execute(
        "create table customer (id int primary key, name text);"
        " insert into customer select i, repeat(md5(i::text), 10) from generate_series(1, 200000) i;"
        " analyze customer"
    )
    watching = pipeline.start("status", "--watch", "--json")
    pipeline.until(lambda: bool(watching.output), "its first look")
    running = pipeline.start("run")

    def is_copied() -> bool:
        *_, last = watching.output.rpartition("\n")[0].splitlines() or ["{}"]
        seen = json.loads(last).get("replicas")
        return bool(seen) and seen["standby"]["state"] in ("streaming", "idle")

    pipeline.until(is_copied, "a copied replica", 90)
    assert watching.end() == 0
    looks = [json.loads(line)["replicas"]["standby"] for line in watching.output.splitlines()]
    states = [look["state"] for look in looks]
    assert states[0] == "stopped"
    assert "copying" in states
    copies = [look["copy"] for look in looks if look["copy"] is not None]
    assert max(copy["rows"] for copy in copies) > 0
    assert copies[-1]["rows_estimated"] == pytest.approx(200_000, rel=0.05)
    assert any(copy["source_xmin_age"] is not None for copy in copies)
    assert running.end() == 0
    assert {stage["state"] for stage in status(pipeline)["replicas"].values()} == {"stopped"}


def test_what_cannot_be_reached_is_null_and_a_finding(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    prepare(pipeline)
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.wait()
    elsewhere = "postgresql://keepstream@127.0.0.1:1/crm"
    kept = pipeline.settings["source"]["url"]
    pipeline.settings["source"]["url"] = elsewhere
    pipeline.write_config()
    seen = status(pipeline)
    assert seen["source"]["reachable"] is False
    assert seen["slot"]["retained_bytes"] is None
    assert (seen["replicas"]["standby"]["lag_s"], seen["replicas"]["standby"]["lag_bytes"]) == (None, None)
    assert seen["replicas"]["standby"]["state"] in STATES
    assert [(f["where"], f["code"]) for f in seen["findings"]] == [("source", "server-unreachable")]
    pipeline.settings["source"]["url"] = kept
    pipeline.settings["replicas"]["standby"]["url"] = elsewhere
    pipeline.write_config()
    seen = status(pipeline)
    assert seen["replicas"]["standby"]["end_lsn"] is None
    assert [(f["where"], f["code"]) for f in seen["findings"]] == [("replica standby", "server-unreachable")]
    assert pipeline.run("status", "--fail-if", "lag_s>60").code == 7


def test_with_the_log_out_of_reach_nobody_knows_what_a_stage_does(directory_pipeline: Pipeline) -> None:
    """Its report stands there. "stopped" would be a false alarm of stages that retry."""
    pipeline = directory_pipeline
    prepare(pipeline)
    pipeline.start("capture")
    apply = pipeline.start("apply", "standby")
    pipeline.wait()
    pipeline.settings["log"] = {"url": "kafka://127.0.0.1:1"}
    pipeline.write_config()
    pipeline.values |= {"pipeline.control.observer.BROKER_S": 0.5}
    seen = status(pipeline)
    assert [seen["state"], seen["capture"]["state"], seen["replicas"]["standby"]["state"]] == [None] * 3
    (finding,) = seen["findings"]
    assert (finding["where"], finding["severity"]) == ("log", "error")
    assert finding["code"] == "log-unreachable"
    assert finding["hint"]
    apply.kill()
    assert replica_of(pipeline)["state"] is None
    assert pipeline.run("status", "--fail-if", "stopped").code == 0
    assert pipeline.run("status", "--fail-if", "unknown").code == 7


@pytest.mark.parametrize("refuses", [True, False])
def test_status_takes_five_seconds_at_most_and_says_why_where_no_broker_answers(
    directory_pipeline: Pipeline, refuses: bool
) -> None:
    """As a user starts it, from the beginning of its process to its end, which a busy machine delays."""
    pipeline = directory_pipeline
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if refuses:
            silent.close()
        pipeline.settings["log"] = {"url": f"kafka://127.0.0.1:{port}"}
        pipeline.write_config()
        began = time.monotonic()
        done = pipeline.start_process("status")
        assert done.wait(20) == 0
        assert time.monotonic() - began < 8
    assert "[log-unreachable]" in done.output
    assert ("ECONNREFUSED" if refuses else "timed out") in done.output


def test_a_log_that_is_gone_is_named(directory_pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline = directory_pipeline
    prepare(pipeline)
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.wait()
    pipeline.settings["log"] = {"url": f"file://{tmp_path}/another"}
    pipeline.write_config()
    (finding,) = [each for each in status(pipeline)["findings"] if each["code"] == "log-missing"]
    assert finding["message"].endswith("does not exist, but the slot, replica standby went by it")
    assert "keepstream teardown" in finding["hint"]


def test_a_second_process_stands_by_and_does_not_speak_for_the_first(pipeline: Pipeline) -> None:
    prepare(pipeline)
    first = pipeline.start("capture"), pipeline.start("apply", "standby")
    pipeline.wait()
    second = pipeline.start("capture"), pipeline.start("apply", "standby")

    def stages() -> tuple[Any, Any]:
        seen = status(pipeline)
        return seen["capture"], seen["replicas"]["standby"]

    def both_stand_by() -> bool:
        return all(stage["standby"] and stage["standby"]["waiting_for"] for stage in stages())

    pipeline.until(both_stand_by, "two that stand by")
    for _ in range(4):
        for stage, works, waits in zip(stages(), first, second, strict=True):
            assert stage["state"] in ("streaming", "idle")
            assert (stage["pid"], stage["standby"]["pid"]) == (works.process.pid, waits.process.pid)
    assert f"process {second[0].process.pid} on " in pipeline.run("status").stdout
    for works in first:
        works.kill()

    def the_others_work() -> bool:
        return all(
            stage["state"] in ("streaming", "idle") and stage["pid"] == waits.process.pid
            for stage, waits in zip(stages(), second, strict=True)
        )

    pipeline.until(the_others_work, "those that stood by to work")
    assert [stage["standby"] for stage in stages()] == [None, None]


@pytest.mark.slow
def test_stages_at_a_server_that_froze_are_stalled(
    tmp_path: Path,
    new_source: Callable[..., Database],
    new_replica: Callable[..., Database],
    directory_url: str,
) -> None:
    pipeline = make_pipeline(tmp_path, new_source(), new_replica(), directory_url)
    try:
        prepare(pipeline)
        pipeline.start("capture")
        pipeline.start("apply", "standby")
        pipeline.wait()
        pipeline.until(lambda: status(pipeline)["state"] == "idle", "an idle pipeline")
        with frozen(pipeline.source.server), frozen(pipeline.replica.server):
            pipeline.until(lambda: status(pipeline)["capture"]["state"] == "stalled", "it is seen", 90)
            pipeline.until(lambda: replica_of(pipeline)["state"] == "stalled", "it is seen", 60)
            codes = [finding["code"] for finding in status(pipeline)["findings"]]
            assert codes == ["no-answer", "no-answer", "capture-hangs", "apply-hangs"]
            assert pipeline.run("status", "--fail-if", "stalled").code == 7
        pipeline.until(lambda: status(pipeline)["state"] in ("idle", "streaming"), "both at work again")
        assert status(pipeline)["findings"] == []
    finally:
        pipeline.end()


def test_status_takes_no_longer_than_a_look_needs_and_prints_a_table(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    prepare(pipeline)
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.wait()
    took_s = []
    for _ in range(3):
        began = time.monotonic()
        done = pipeline.run("status")
        took_s.append(time.monotonic() - began)
        assert done.code == 0
    assert "not replicated: public.note" in done.stdout
    assert all(said in done.stdout for said in ("capture", "standby", f"slot {pipeline.slot}: active"))
    assert min(took_s) < 1.5


def test_watching_prints_lines_where_there_is_no_terminal(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    prepare(pipeline)
    watching = pipeline.start("status", "--watch")
    pipeline.until(lambda: watching.output.count("\n") >= 2, "two lines")
    assert watching.end() == 0
    assert watching.output.startswith(
        "stopped: capture stopped; standby stopped at - lag - -; slot keeps -\n"
    )


@pytest.mark.parametrize("options", [[], ["--json"], ["--watch"], ["--watch", "--json"]])
def test_a_reader_that_went_away_and_a_full_disk_are_no_bugs(
    directory_pipeline: Pipeline, options: list[str]
) -> None:
    command = (
        f"{sys.executable} -m pipeline.cli -c {directory_pipeline.config_path} status {shlex.join(options)}"
    )
    for redirected, code, said in (("| true", "141", ""), (">/dev/full", "1", "No space left on device\n")):
        script = f"{command} {redirected}; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == code
        assert "bug" not in done.stderr
        assert said in done.stderr


def test_a_condition_that_nobody_knows_ends_with_2(directory_pipeline: Pipeline) -> None:
    done = directory_pipeline.run("status", "--fail-if", "speed>3")
    assert (done.code, done.stdout) == (2, "")
    assert "error[condition-invalid]: --fail-if does not know the condition 'speed>3'" in done.stderr


def lsn(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def test_a_replica_that_refuses_our_login_for_a_while_is_retrying_not_stopped(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    prepare(pipeline)
    running = pipeline.start("run")
    pipeline.wait()
    replica = pipeline.replica
    replica.disconnect()
    server = dataclasses.replace(pipeline.source, server=replica.server, name="postgres")
    server.execute_as_admin(f"alter database {replica.name} allow_connections false")
    server.execute_as_admin(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [replica.name]
    )
    pipeline.until(lambda: replica_of(pipeline)["state"] == "retrying", "the state retrying")
    seen = [replica_of(pipeline) for _ in range(4)]
    assert {each["state"] for each in seen} == {"retrying"}
    assert seen[-1]["last_error"]["code"] == "login-refused"
    server.execute_as_admin(f"alter database {replica.name} allow_connections true")
    pipeline.source.execute("insert into customer values (1, 'came meanwhile')")
    pipeline.wait()
    assert "stage ended" not in running.output
    assert running.end() == 0
