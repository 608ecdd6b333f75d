"""`keepstream teardown` and `log ls` on a pipeline that has lived, on both logs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from connectors.log.directory import DirectoryLog
from connectors.postgres.replication.walsender import Walsender
from connectors.postgres.session import connect
from pipeline import purposes
from pipeline.config import Config, load_config, parse_config
from pipeline.control import teardown
from schemas.errors import OperatorNeeded
from tests.fix_pipeline import Pipeline

SCHEMA = "create table customer (id int primary key, name text)"


def lived(pipeline: Pipeline) -> None:
    """A pipeline that has replicated something, and was stopped."""
    for side in (pipeline.source, pipeline.replica):
        side.execute(SCHEMA)
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()
    running = pipeline.start("capture"), pipeline.start("apply", "standby")
    pipeline.wait()
    pipeline.source.execute("insert into customer select i, 'c' || i from generate_series(1, 10) i")
    pipeline.wait()
    for process in running:
        assert process.end() == 0


def left(pipeline: Pipeline) -> tuple[Any, ...]:
    """(slots, publications, progress rows, records of the log)"""
    slots = pipeline.source.execute_as_admin(
        "select count(*) from pg_replication_slots where slot_name = %s", [pipeline.slot]
    )
    publications = pipeline.source.execute_as_admin("select count(*) from pg_publication")
    rows = pipeline.replica.execute_as_admin("select count(*) from keepstream.progress")
    listed = pipeline.run("log", "ls", "--json")
    assert listed.code == 0 or "log-missing" in listed.stderr
    return slots[0][0], publications[0][0], rows[0][0], len(listed.stdout.splitlines()) > 0


def test_it_removes_everything_but_the_rows_and_a_new_pipeline_can_begin(pipeline: Pipeline) -> None:
    lived(pipeline)
    assert left(pipeline) == (1, 1, 1, True)
    unconfirmed = pipeline.run("teardown")
    assert unconfirmed.code == 2
    assert "error[teardown-unconfirmed]" in unconfirmed.stderr
    assert [line.split()[2] for line in unconfirmed.stdout.splitlines()] == [
        "slot", "publication", "progress", "log",
    ]  # fmt: skip
    assert left(pipeline) == (1, 1, 1, True)
    done = pipeline.run("teardown", "--yes")
    assert done.code == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["removed", kind] for kind in ("slot", "publication", "progress", "log")
    ]
    assert left(pipeline) == (0, 0, 0, False)
    assert pipeline.replica.execute("select count(*) from customer") == [(10,)]
    assert pipeline.run("teardown", "--yes").stdout == "nothing is left to remove\n"
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.wait()
    pipeline.source.execute("update customer set name = 'again'")
    pipeline.wait()
    pipeline.verify()


def test_the_folder_that_stays_of_a_log_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectoryLog, "destroy", lambda log: "its empty folder")
    log = DirectoryLog(tmp_path, "crm")
    log.create()
    config = parse_config(f"name: crm\nsource: host=h\nlog: file://{tmp_path}", name="k", environment={})
    assert [str(done.thing) for done in teardown._in_log(config, remove=True)] == [
        f"log {log.name} (with its status reports; its empty folder stays)"
    ]


def test_it_refuses_while_a_stage_runs_and_removes_nothing(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    lived(pipeline)
    capture = pipeline.start("capture")
    pipeline.until(lambda: '"active": true' in pipeline.run("status", "--json").stdout, "an active slot")
    done = pipeline.run("teardown", "--yes")
    assert (done.code, done.stdout) == (4, ""), done.stderr
    assert "error[pipeline-active]: the pipeline is running: " in done.stderr
    assert "SIGTERM" in done.stderr
    assert capture.end() == 0
    assert left(pipeline) == (1, 1, 1, True)


def test_it_waits_for_a_locked_progress_row_only_for_a_while(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    lived(pipeline)
    with pipeline.replica.connect(autocommit=False) as blocker:
        blocker.execute("select from keepstream.progress for update")
        done = pipeline.run("teardown", "--yes")
        assert done.code == 5
        assert "error[lock-timeout]" in done.stderr
        blocker.rollback()
    assert pipeline.run("teardown", "--yes").code == 0


def test_it_refuses_while_a_session_holds_the_slot_of_which_no_report_tells(
    directory_pipeline: Pipeline,
) -> None:
    """A capture that has just begun owns the slot before it has said anything."""
    pipeline = directory_pipeline
    lived(pipeline)
    owner = Walsender(pipeline.source.dsn, purpose="silent")
    owner.start_replication(pipeline.slot, f"keepstream_{pipeline.name}")
    process = owner.backend_pid
    done = pipeline.run("teardown", "--yes")
    owner.close()
    assert (done.code, done.stdout) == (4, ""), done.stderr
    assert (
        f"error[pipeline-active]: the pipeline is running: slot {pipeline.slot} is in use by process"
        f" {process} of the source" in done.stderr
    )
    assert left(pipeline) == (1, 1, 1, True)


def test_it_refuses_while_a_run_waits_to_start_its_stage_again(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.settings["replicas"] = {}
    pipeline.write_config()
    run = pipeline.start("run", env={"KEEPSTREAM_FAILPOINT": "capture.before_start_record"})
    pipeline.until(lambda: "will be restarted" in run.output, "capture's first end")
    done = pipeline.run("teardown", "--yes")
    assert (done.code, done.stdout) == (4, ""), done.stderr
    assert "error[pipeline-active]: the pipeline is running: " in done.stderr
    assert run.end() == 0
    assert pipeline.run("teardown", "--yes").code == 0


NAME, STANDBY = "c" * 31, "s" * 31  # application_name cuts what bears both


@pytest.mark.parametrize(
    ("server", "begun"),
    [
        ("source", purposes.run(NAME)),
        ("source", purposes.capture(NAME)),
        ("source", purposes.copy(NAME, STANDBY)),
        ("replica", purposes.copy(NAME, STANDBY)),
        ("replica", purposes.apply(NAME, STANDBY)),
    ],
)
def test_it_refuses_while_a_stage_that_holds_nothing_yet_has_a_session(
    directory_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, server: str, begun: str
) -> None:
    monkeypatch.setattr(teardown, "LINGER_S", 0.0)
    config = config_with_long_names(directory_pipeline)
    dsn = getattr(directory_pipeline, server).dsn
    place = {"source": "the source", "replica": f"replica {STANDBY}"}[server]
    with connect(dsn, purpose=begun) as session:
        name = f"keepstream:{begun}"[:63]
        told = f"{name} has a session on {place} (process {session.info.backend_pid})"
        with pytest.raises(OperatorNeeded) as refused:
            teardown.require_stopped(config)
    assert (refused.value.code, refused.value.message) == (
        "pipeline-active",
        f"the pipeline is running: {told}",
    )


def test_who_only_looks_does_not_count_as_running(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    config_with_long_names(pipeline)
    looking = [f"status:{NAME}", f"teardown:{NAME}", "check", f"{NAME}:verify", "other:run"]
    with ExitStack() as stack:
        for database in (pipeline.source, pipeline.replica):
            for purpose in looking:
                stack.enter_context(connect(database.dsn, purpose=purpose))
        done = pipeline.run("teardown", "--yes")
    assert (done.code, done.stdout) == (0, "nothing is left to remove\n"), done.stderr


def config_with_long_names(pipeline: Pipeline) -> Config:
    pipeline.settings |= {"name": NAME, "replicas": {STANDBY: {"url": pipeline.replica.dsn}}}
    pipeline.write_config()
    return load_config(pipeline.config_path)


def test_it_removes_nothing_while_a_server_is_away(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    lived(pipeline)
    kept = pipeline.settings["replicas"]["standby"]["url"]
    pipeline.settings["replicas"]["standby"]["url"] = "postgresql://keepstream@127.0.0.1:1/crm"
    pipeline.write_config()
    done = pipeline.run("teardown", "--yes")
    assert (done.code, done.stdout) == (5, "")
    assert "error[server-unreachable]: replica standby: " in done.stderr
    pipeline.settings["replicas"]["standby"]["url"] = kept
    pipeline.write_config()
    assert left(pipeline) == (1, 1, 1, True)


def test_a_publication_of_somebody_else_is_left_with_the_sql_that_drops_it(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    lived(pipeline)
    name = f"keepstream_{pipeline.name}"
    pipeline.source.execute_as_admin(f"alter publication {name} owner to postgres")
    told = f'publication {name} (source): its owner removes it with: drop publication "{name}";'
    planned = pipeline.run("teardown")
    assert f"would leave {told}\n" in planned.stdout
    assert "error[teardown-unconfirmed]: what teardown removes is gone for good\n" in planned.stderr
    done = pipeline.run("teardown", "--yes")
    assert done.code == 0, done.stderr
    assert f"left {told}\n" in done.stdout
    assert left(pipeline) == (0, 1, 0, False)


def test_a_slot_of_somebody_else_stops_it(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    lived(pipeline)
    pipeline.source.drop_slot(pipeline.slot)
    pipeline.source.execute_as_admin(
        f"select pg_create_logical_replication_slot('{pipeline.slot}', 'test_decoding')"
    )
    done = pipeline.run("teardown", "--yes")
    assert (done.code, done.stdout) == (4, ""), done.stderr
    assert "error[slot-foreign]" in done.stderr
    assert left(pipeline) == (1, 1, 1, True)


def test_log_ls_shows_every_record_and_how_readers_judge_it(pipeline: Pipeline) -> None:
    lived(pipeline)
    assert (
        pipeline.start("capture", env={"KEEPSTREAM_FAILPOINT": "capture.after_start_record"}).wait(30) == -9
    )
    capture = pipeline.start("capture")
    pipeline.until(lambda: listed(pipeline)[-1]["epoch"] == 3, "the third epoch")
    pipeline.until(lambda: listed(pipeline)[-1]["kind"] != "capture_start", "its anchor")
    assert capture.end() == 0
    entries = listed(pipeline, "--limit", "0")
    assert entries[0]["kind"] == "capture_start"
    assert {entry["verdict"] for entry in entries} == {"start", "accepted"}
    assert [entry["epoch"] for entry in entries if entry["kind"] == "capture_start"] == [1, 2, 3]
    assert [entry["number"] for entry in entries if entry["number"]] == list(
        range(1, 1 + len([entry for entry in entries if entry["number"]]))
    )
    assert sum(entry["changes"] for entry in entries) >= 10
    assert [entry["place"] for entry in entries] == sorted(entry["place"] for entry in entries)
    assert listed(pipeline, "--limit", "2") == entries[-2:]
    table = pipeline.run("log", "ls").stdout
    assert all(word in table for word in ("capture_start", "anchor", "transactions", "accepted"))
    assert table.endswith(f"{len(entries)} records\n")


def listed(pipeline: Pipeline, *options: str) -> list[dict[str, Any]]:
    done = pipeline.run("log", "ls", "--json", *options)
    assert done.code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
