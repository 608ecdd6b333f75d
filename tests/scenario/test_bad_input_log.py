"""The log is damaged, cut, deleted or made anew, before and while stages run: they stop and say so, the slot
keeps what is not in the log, and where the log comes back all goes on without a loss."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from tests.fix_pipeline import Pipeline, make_pipeline
from tests.fix_postgres import Database

ROWS = 3


def establish(pipeline: Pipeline) -> None:
    """A pipeline that has replicated three rows and was then ended in order."""
    for side in (pipeline.source, pipeline.replica):
        side.execute("create table t (id int primary key, note text)")
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()
    running = pipeline.start("run")
    pipeline.until(lambda: "apply begins" in running.output, "the first start", 60)
    pipeline.source.execute("insert into t select i, 'row ' || i from generate_series(1, 3) i")
    pipeline.wait()
    assert running.end() == 0, running.output


def replicated(pipeline: Pipeline) -> int:
    return int(pipeline.replica.execute("select count(*) from t")[0][0])


def confirmed(pipeline: Pipeline) -> str:
    ((lsn,),) = pipeline.source.execute(
        "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", [pipeline.slot]
    )
    return str(lsn)


def goes_on(pipeline: Pipeline) -> None:
    """A new run brings everything over."""
    running = pipeline.start("run")
    pipeline.wait()
    result = pipeline.verify()
    assert [table["rows"] for table in result["tables"]] == [
        pipeline.source.execute("select count(*) from t")[0][0]
    ]
    assert running.end() == 0, running.output


def refused(pipeline: Pipeline, *verb: str, code: str, hint: str) -> None:
    done = pipeline.run(*verb)
    assert done.code == 4, done.stderr
    assert f"error[{code}]: " in done.stderr, done.stderr
    assert f"hint: {hint}" in done.stderr, done.stderr


# the directory log


def folder_of(pipeline: Pipeline) -> Path:
    return pipeline.folder / "log" / f"{pipeline.name}.log"


def segment_with(pipeline: Pipeline, text: bytes) -> tuple[Path, int]:
    """The file that holds this text, and where."""
    for path in sorted(folder_of(pipeline).glob("*.segment")):
        offset = path.read_bytes().find(text)
        if offset >= 0:
            return path, offset
    raise AssertionError(f"no file holds {text!r}")


@contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    """One bit is another one, for as long as the context."""

    def flip() -> None:
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))

    flip()
    yield
    flip()


def test_a_flipped_bit_stops_capture_and_apply_before_anything_is_written(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    establish(pipeline)
    pipeline.source.execute("insert into t values (4, 'later')")
    before = confirmed(pipeline)
    path, offset = segment_with(pipeline, b"row 2")
    with flipped(path, offset):
        for verb in (["run"], ["capture"]):
            refused(pipeline, *verb, code="log-corrupt", hint="Restore that file from a copy.")
        assert confirmed(pipeline) == before
        assert replicated(pipeline) == ROWS
    goes_on(pipeline)


def test_a_bit_that_flips_while_apply_reads_stops_it_at_the_place(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    establish(pipeline)
    capture = pipeline.start("capture")
    pipeline.source.execute("insert into t values (4, 'sound'), (5, 'soon damaged')")
    pipeline.until(lambda: held(pipeline, b"soon damaged"), "the row in the log")
    path, offset = segment_with(pipeline, b"soon damaged")
    with flipped(path, offset):
        refused(pipeline, "apply", "standby", code="log-corrupt", hint="Restore that file from a copy.")
        assert replicated(pipeline) == ROWS
        assert capture.alive
    assert capture.end() == 0
    goes_on(pipeline)


def held(pipeline: Pipeline, text: bytes) -> bool:
    return any(text in path.read_bytes() for path in folder_of(pipeline).glob("*.segment"))


def test_a_log_file_that_was_cut_is_refused(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    establish(pipeline)
    path, offset = segment_with(pipeline, b"row 2")
    whole = path.read_bytes()
    with open(path, "r+b") as file:
        file.truncate(offset)
    before = confirmed(pipeline)
    for verb in (["run"], ["capture"], ["apply", "standby"]):
        refused(pipeline, *verb, code="log-corrupt", hint="Restore that file from a copy.")
    assert confirmed(pipeline) == before
    path.write_bytes(whole)
    goes_on(pipeline)


def test_a_log_folder_that_is_gone_is_not_made_anew(directory_pipeline: Pipeline) -> None:
    """Not the folder, not an empty one in its place."""
    pipeline = directory_pipeline
    establish(pipeline)
    aside = pipeline.folder / "aside"
    folder_of(pipeline).rename(aside)
    before = confirmed(pipeline)
    for verb in (["run"], ["capture"]):
        refused(pipeline, *verb, code="slot-without-log", hint="")
    shutil.rmtree(folder_of(pipeline), ignore_errors=True)
    folder_of(pipeline).mkdir(mode=0o700)
    for verb in (["run"], ["capture"]):
        refused(pipeline, *verb, code="slot-without-log", hint="")
    assert confirmed(pipeline) == before
    assert list(folder_of(pipeline).glob("*.segment")) == []
    shutil.rmtree(folder_of(pipeline))
    aside.rename(folder_of(pipeline))
    goes_on(pipeline)


def test_what_is_said_of_a_lost_log_leads_to_a_new_one(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    establish(pipeline)
    shutil.rmtree(folder_of(pipeline))
    done = pipeline.run("run")
    assert (
        "run `keepstream teardown --yes`, empty the replicas' databases and run `keepstream run`"
        in done.stderr
    )
    pipeline.source.drop_slot(pipeline.slot)
    refused(
        pipeline, "run", code="other-stream", hint="Bring that stream's log back"
    )  # nothing is made that leads nowhere
    slots = pipeline.source.execute("select from pg_replication_slots where slot_name = %s", [pipeline.slot])
    assert slots == []
    assert pipeline.run("teardown", "--yes").code == 0
    pipeline.replica.execute_as_admin("drop schema if exists keepstream cascade; drop table t")
    pipeline.settings["replicas"]["standby"]["initial"] = "copy"
    pipeline.write_config()
    running = pipeline.start("run")
    pipeline.wait()
    assert pipeline.verify()["tables"][0]["rows"] == ROWS
    assert running.end() == 0, running.output


def test_a_log_folder_that_vanishes_under_run_stops_it(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    establish(pipeline)
    running = pipeline.start("run")
    pipeline.until(lambda: "log continued" in running.output, "the second start", 60)
    aside = pipeline.folder / "aside"
    before = confirmed(pipeline)
    folder_of(pipeline).rename(aside)
    pipeline.source.execute("insert into t values (4, 'meanwhile')")
    assert running.wait(60) == 4
    assert "error[slot-without-log]: " in running.output or "error[log-missing]: " in running.output
    assert replicated(pipeline) == ROWS
    assert confirmed(pipeline) == before
    shutil.rmtree(folder_of(pipeline), ignore_errors=True)
    aside.rename(folder_of(pipeline))
    goes_on(pipeline)


# the log in Kafka


@pytest.fixture
def kafka_pipeline(
    tmp_path: Path, source: Database, replica: Database, kafka_server: str
) -> Iterator[Pipeline]:
    made = make_pipeline(tmp_path, source, replica, f"kafka://{kafka_server}")
    yield made
    made.end()


@pytest.fixture
def admin(kafka_server: str) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=kafka_server)
    yield client
    client.close()


def test_a_stranger_s_record_in_the_topic_costs_an_epoch_and_nothing_else(
    kafka_pipeline: Pipeline, kafka_server: str
) -> None:
    pipeline = kafka_pipeline
    establish(pipeline)
    running = pipeline.start("run")
    pipeline.until(lambda: "log continued" in running.output, "the second start", 60)
    producer = KafkaProducer(bootstrap_servers=kafka_server)
    for number in range(3):
        pipeline.source.execute("insert into t values (%s, 'before')", [10 + number])
        producer.send(f"{pipeline.name}.log", b"not a frame").get(timeout=20)
        pipeline.source.execute("insert into t values (%s, 'after')", [20 + number])
    producer.close()
    pipeline.wait()
    assert pipeline.verify()["tables"][0]["rows"] == ROWS + 6
    assert running.alive
    assert running.end() == 0, running.output


def test_a_topic_that_was_deleted_is_not_made_anew(kafka_pipeline: Pipeline, admin: Any) -> None:
    pipeline = kafka_pipeline
    establish(pipeline)
    before = confirmed(pipeline)
    admin.delete_topics([f"{pipeline.name}.log"])
    pipeline.source.execute("insert into t values (4, 'meanwhile')")
    for verb in (["run"], ["capture"]):
        refused(pipeline, *verb, code="slot-without-log", hint="")
    assert confirmed(pipeline) == before
    assert replicated(pipeline) == ROWS


def test_teardown_removes_the_reports_of_a_topic_that_was_deleted(
    kafka_pipeline: Pipeline, admin: Any
) -> None:
    pipeline = kafka_pipeline
    establish(pipeline)
    admin.delete_topics([f"{pipeline.name}.log"])
    removed = pipeline.run("teardown", "--yes")
    assert removed.code == 0, removed.stderr
    assert removed.stdout.splitlines()[-1].startswith("removed status reports ")
    assert f"{pipeline.name}.status" not in admin.list_topics()
    assert pipeline.run("teardown", "--yes").stdout == "nothing is left to remove\n"


def test_a_topic_that_is_deleted_under_run_stops_it(kafka_pipeline: Pipeline, admin: Any) -> None:
    pipeline = kafka_pipeline
    establish(pipeline)
    running = pipeline.start("run")
    pipeline.until(lambda: "log continued" in running.output, "the second start", 60)
    admin.delete_topics([f"{pipeline.name}.log"])
    pipeline.source.execute("insert into t values (4, 'meanwhile')")
    assert running.wait(90) == 4, running.output
    assert "error[slot-without-log]: " in running.output or "error[log-missing]: " in running.output
    assert replicated(pipeline) == ROWS


def test_a_topic_that_was_emptied_is_refused(kafka_pipeline: Pipeline, admin: Any) -> None:
    pipeline = kafka_pipeline
    establish(pipeline)
    admin.delete_records({TopicPartition(f"{pipeline.name}.log", 0): -1})
    before = confirmed(pipeline)
    for verb in (["run"], ["capture"]):
        refused(pipeline, *verb, code="slot-without-log", hint="")
    assert confirmed(pipeline) == before
    assert replicated(pipeline) == ROWS


def test_an_applier_whose_place_was_trimmed_away_is_told_to_copy_anew(
    kafka_pipeline: Pipeline, admin: Any, kafka_server: str
) -> None:
    """Somebody cut the log at the start of an epoch: capture goes on while it runs, the replica cannot, and
    a new capture does not take the rest for a log that has promised nothing."""
    pipeline = kafka_pipeline
    establish(pipeline)
    capture = pipeline.start("capture")
    pipeline.source.execute("insert into t values (4, 'in the gap')")
    pipeline.until(lambda: "log continued" in capture.output, "the second start", 60)
    assert capture.end() == 0
    partition = TopicPartition(f"{pipeline.name}.log", 0)
    consumer = KafkaConsumer(bootstrap_servers=kafka_server, group_id=None)
    end = consumer.end_offsets([partition])[partition]
    consumer.close()
    capture = pipeline.start("capture")
    pipeline.until(lambda: "log continued" in capture.output, "the third start", 60)
    admin.delete_records({partition: end})
    refused(pipeline, "apply", "standby", code="log-trimmed", hint="What the replica lacks was trimmed away.")
    assert replicated(pipeline) == ROWS
    assert capture.alive
    assert capture.end() == 0
    before = confirmed(pipeline)
    for verb in (["run"], ["capture"]):
        refused(pipeline, *verb, code="log-cut", hint="Its beginning was deleted by somebody else")
    assert confirmed(pipeline) == before
