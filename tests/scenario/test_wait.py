"""`keepstream wait`: all that was committed when it was called, and nothing less (P22)."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from connectors.postgres.replica.progress import install, read, write_copying_marker
from connectors.postgres.session import connect
from tests.fix_pipeline import Pipeline, make_pipeline
from tests.fix_postgres import Database, frozen

SCHEMA = "create table customer (id int primary key, name text); create sequence beside"


def begin(pipeline: Pipeline) -> None:
    for side in (pipeline.source, pipeline.replica):
        side.execute(SCHEMA)
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()
    pipeline.start("capture")
    pipeline.start("apply", "standby")


def test_it_returns_only_when_the_replica_holds_what_was_committed(pipeline: Pipeline) -> None:
    """Asynchronous commits, which the flush LSN misses, and none at all."""
    begin(pipeline)
    pipeline.wait()
    started = time.monotonic()
    pipeline.wait()
    assert time.monotonic() - started < 10, "an idle pipeline has no heartbeat for so long"
    for n in range(1, 6):
        pipeline.source.execute(
            f"set synchronous_commit = off; insert into customer select {n} * 1000 + i, 'c'"
            " from generate_series(1, 200) i"
        )
        done = pipeline.run("wait", "standby", "--json")
        assert pipeline.replica.execute("select count(*) from customer") == [(200 * n,)]
        assert done.json["replica"] == "standby"


def test_a_migration_that_has_a_table_locked_is_waited_for(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.wait()
    with pipeline.source.connect() as migration, ThreadPoolExecutor(1) as pool:
        migration.execute("begin; alter sequence beside restart 5")
        waiting = pool.submit(pipeline.run, "wait", "standby", "--timeout", "30")
        assert wait([waiting], timeout=3).not_done
        migration.execute("commit")
        assert waiting.result().code == 0, waiting.result().stderr


def test_its_timeout_says_what_is_in_the_way(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    done = pipeline.run("wait", "standby", "--timeout", "1")
    assert done.code == 7
    assert "error[wait-timeout]: replica standby did not reach " in done.stderr
    assert "in time: it has no progress row yet\n" in done.stderr
    with connect(pipeline.replica.dsn, purpose="test") as session:
        install(session)
        write_copying_marker(session, pipeline.name, stream=b"s" * 16)
        done = pipeline.run("wait", "standby", "--timeout", "1")
        assert done.code == 7
        assert "wait: standby is still being copied. Wait for it" in done.stderr
        assert "in time: it is still being copied\n" in done.stderr
    pipeline.replica.execute("drop schema keepstream cascade")

    begin(pipeline)
    pipeline.wait()
    assert pipeline.run("pause", "standby").code == 0
    done = pipeline.run("wait", "standby", "--timeout", "1")
    assert done.code == 7
    assert "in time: it is paused at " in done.stderr
    assert "hint: Let it go on with `keepstream resume standby`.\n" in done.stderr
    assert pipeline.run("resume", "standby").code == 0
    pipeline.started[0].end()
    done = pipeline.run("wait", "standby", "--timeout", "1")
    assert done.code == 7
    assert f"capture does not stream: slot {pipeline.slot} is read by nobody\n" in done.stderr


def test_an_applier_that_comes_and_goes_at_one_place_is_told_once(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.wait()
    for running in pipeline.started:
        running.end()
    pipeline.source.execute("insert into customer values (1, 'not captured')")
    waiting = pipeline.start("wait", "standby")
    pipeline.until(lambda: "no applier is connected" in waiting.output, "it to be told")
    with connect(pipeline.replica.dsn, purpose="test") as session:

        def is_alive() -> bool:
            progress = read(session, pipeline.name)
            return progress is not None and progress.alive

        apply = pipeline.start("apply", "standby")
        pipeline.until(is_alive, "the applier")
        apply.end()
        pipeline.until(lambda: not is_alive(), "it to go")
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    assert waiting.wait(30) == 0
    assert waiting.output.count("no applier is connected") == 1


def test_a_first_copy_is_waited_for(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute(f"{SCHEMA}; insert into customer select i, 'c' from generate_series(1, 3000) i")
    waiting = pipeline.start("wait", "standby", "--timeout", "90")
    pipeline.until(lambda: "standby has no progress row yet" in waiting.output, "it to wait")
    pipeline.start("run")
    assert waiting.wait(95) == 0, pipeline.outputs()
    assert pipeline.replica.execute("select count(*) from customer") == [(3000,)]


def test_a_replica_that_is_away_or_hangs_is_waited_for_no_longer_than_told(
    tmp_path: Path, source: Database, new_replica: Callable[..., Database], directory_url: str
) -> None:
    pipeline = make_pipeline(tmp_path, source, new_replica(), directory_url)
    try:
        begin(pipeline)
        pipeline.wait()
        apply = pipeline.started[1]
        server = pipeline.replica.server
        server.stop()
        source.execute("insert into customer values (1, 'while away')")
        done = pipeline.run("wait", "standby", "--timeout", "1")
        assert done.code == 7
        assert "it cannot be asked: cannot connect to " in done.stderr
        waiting = pipeline.start("wait", "standby", "--timeout", "60")
        pipeline.until(lambda: "standby cannot be asked" in waiting.output, "it to wait")
        server.start()
        assert waiting.wait(60) == 0, pipeline.outputs()
        assert apply.alive
        assert pipeline.replica.execute("select name from customer") == [("while away",)]
        with frozen(server):
            for verb in ("wait", "verify"):
                assert ends_in_time(pipeline, verb) == 7
    finally:
        pipeline.end()


def ends_in_time(pipeline: Pipeline, verb: str) -> int:
    """Its exit code; a server that does not answer must not keep it longer than told."""
    started = time.monotonic()
    code = pipeline.run(verb, "standby", "--timeout", "2").code
    assert time.monotonic() - started < 9
    return code


def test_a_source_that_freezes_ends_both_in_time(
    tmp_path: Path, new_source: Callable[..., Database], replica: Database, directory_url: str
) -> None:
    pipeline = make_pipeline(tmp_path, new_source(), replica, directory_url)
    try:
        begin(pipeline)
        pipeline.wait()
        with frozen(pipeline.source.server):
            for verb in ("wait", "verify"):
                assert ends_in_time(pipeline, verb) == 7
        with pipeline.source.connect(autocommit=False) as writer:
            writer.execute("insert into customer values (1, 'open')")
            verifying = pipeline.start("verify", "standby", "--timeout", "4")
            pipeline.until(lambda: "open transactions" in verifying.output, "its snapshot to wait")
            with frozen(pipeline.source.server):
                assert verifying.wait(12) == 7, verifying.output
    finally:
        pipeline.end()


def test_a_replica_of_another_source_is_not_taken_for_one_that_is_there(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.wait()
    pipeline.started[1].end()
    pipeline.replica.execute("update keepstream.progress set position = 'FFF/0'")
    for verb in (("wait", "--timeout", "20"), ("verify",)):
        done = pipeline.run(verb[0], "standby", *verb[1:])
        assert done.code == 4
        assert "error[replica-ahead]: replica standby is at FFF/0, but the source has only" in done.stderr


def test_its_timeout_names_the_delay_that_a_replica_keeps(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.settings["replicas"]["standby"]["delay"] = "1h"
    pipeline.write_config()
    begin(pipeline)
    pipeline.until(lambda: pipeline.run("status", "--json").json["replicas"]["standby"]["end_lsn"], "apply")
    done = pipeline.run("wait", "standby", "--timeout", "2")
    assert done.code == 7
    assert "of the source's WAL behind, and keeps a delay of 1 h 00 min\n" in done.stderr
    assert "hint: Give it more time than its delay: --timeout 3900.\n" in done.stderr
