"""The source fails over to a physical standby while the pipeline runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from connectors.log.open import open_log
from pipeline.board import captures_in, read_reports
from tests.capturing import LogContent
from tests.fix_pipeline import Pipeline, make_pipeline
from tests.fix_postgres import Database
from tests.fix_standby import SYNCHRONOUS, FailingOver, timeline_of
from tests.postgres_releases import needs_release

pytestmark = needs_release("source", 17)


class Writer:
    """Writes one row after the other, wherever `database` is; `acknowledged`: whose commit was confirmed."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.acknowledged: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                with psycopg.connect(self.database.owner_dsn, autocommit=True) as connection:
                    while not self._stop.is_set():
                        number += 1
                        connection.execute(
                            "insert into lead values (%s, 'of ' || %s::text)", [number, number]
                        )
                        self.acknowledged.append(number)
                        self._stop.wait(0.005)
            except psycopg.Error:
                self._stop.wait(0.05)


@pytest.fixture
def failing_pipeline(
    failing_over: Callable[..., FailingOver], tmp_path: Path, replica: Database
) -> Iterator[Callable[..., tuple[Pipeline, FailingOver]]]:
    made: list[Pipeline] = []

    def make(**settings: str) -> tuple[Pipeline, FailingOver]:
        pair = failing_over(settings)
        pipeline = make_pipeline(tmp_path, pair.old, replica, f"file://{tmp_path}/log")
        pipeline.settings["source"] |= {"url": pair.url, "failover": True}
        pipeline.write_config()
        pair.old.execute("create table lead (id int primary key, name text)")
        made.append(pipeline)
        return pipeline, pair

    yield make
    for pipeline in made:
        pipeline.end()


def logged_ids(pipeline: Pipeline) -> list[int]:
    log = open_log(pipeline.settings["log"]["url"], pipeline.name)
    return LogContent(log).read().ids("public.lead")


def reported_timelines(pipeline: Pipeline) -> set[object]:
    """By those that the newest word of a capture without the slot comes from."""
    reports = read_reports(open_log(pipeline.settings["log"]["url"], pipeline.name))
    return {each.details.get("timeline") for each in captures_in(reports) if not each.owner}


def test_p10_the_pipeline_goes_on_by_itself_on_a_promoted_standby_that_has_all_of_the_log(
    failing_pipeline: Callable[..., tuple[Pipeline, FailingOver]],
) -> None:
    pipeline, pair = failing_pipeline(**SYNCHRONOUS)
    running = pipeline.start("run")
    pipeline.wait()
    pair.await_synced(pipeline.slot)
    writer = Writer(pair.old)
    pipeline.until(lambda: len(writer.acknowledged) > 100, "the first rows")

    writer.database = pair.new
    pair.promote()
    before = len(writer.acknowledged)
    pipeline.until(lambda: len(writer.acknowledged) > before + 100, "rows on the new primary")
    writer.end()
    assert timeline_of(pair.new) == 2
    pipeline.wait()
    assert pipeline.verify()["identical"], "verified against the new primary"
    rows = "select id, name from lead order by id"
    seen = pipeline.replica.execute(rows)
    assert seen == pair.new.execute(rows)
    assert set(writer.acknowledged) <= {number for number, _ in seen}, "nothing acknowledged is lost"
    logged = logged_ids(pipeline)
    assert len(logged) == len(set(logged)), "nothing is doubled"
    assert running.alive

    assert running.end() == 0
    pair.old.server.start()
    pair.old.execute("set synchronous_commit = local; insert into lead values (-1, 'split brain')")
    refused = [("capture",), ("wait", "standby", "--timeout", "20"), ("verify", "standby")]
    for verb in refused:
        assert_is_refused(pipeline, *verb)
    assert reported_timelines(pipeline) == {2}, "also the capture that was refused says where the log is"
    pipeline.replica.execute("drop schema keepstream cascade; drop table lead")
    assert_is_refused(pipeline, "apply", "standby")  # whose first step is the copy


def assert_is_refused(pipeline: Pipeline, *verb: str) -> None:
    done = pipeline.run(*verb)
    said = done.stderr + done.stdout
    assert done.code == 4, said
    assert "the source is on timeline 1, and the log went on to timeline 2 after a failover" in said, said


def test_p10_a_promoted_standby_that_lacks_what_the_log_has_stops_the_pipeline(
    failing_pipeline: Callable[..., tuple[Pipeline, FailingOver]],
) -> None:
    pipeline, pair = failing_pipeline()
    running = pipeline.start("run")
    pipeline.wait()
    pair.await_synced(pipeline.slot)
    pair.new.server.stop()
    pair.old.execute("insert into lead values (1, 'only on the old primary')")
    pipeline.wait()
    pair.old.disconnect()
    pair.old.server.crash()
    pair.new.server.start()
    pair.new.execute_as_admin("select pg_promote()")

    assert running.wait(30) == 4
    assert (
        "error[source-other-timeline]: the source is on timeline 2, which left timeline 1 at"
        in running.output
    )
    assert "A standby was promoted that lacked the last transactions" in running.output
    assert "synchronized_standby_slots" in running.output
    assert pipeline.replica.execute("select id from lead") == [(1,)], "nothing was undone"


def test_a_first_copy_that_runs_while_the_source_fails_over_begins_anew(
    failing_pipeline: Callable[..., tuple[Pipeline, FailingOver]],
) -> None:
    pipeline, pair = failing_pipeline(**SYNCHRONOUS)
    pair.old.execute("insert into lead select i, 'early' from generate_series(1, 100) i")
    pipeline.start("capture")
    pair.await_synced(pipeline.slot)
    with closing(pair.old.connect(autocommit=False)) as lost:
        lost.execute("insert into lead values (-1, 'never committed')")
        copying = pipeline.start("apply", "standby")
        waits = "select 1 from pg_replication_slots where temporary and active"
        pipeline.until(lambda: bool(pair.old.execute_as_admin(waits)), "a copy that waits for its snapshot")
        pair.promote()
    pair.new.execute("insert into lead values (101, 'late')")
    pipeline.wait()
    assert pipeline.verify()["identical"]
    assert pipeline.replica.execute("select min(id), count(*) from lead") == [(1, 101)]
    assert "copy retries" in copying.output
