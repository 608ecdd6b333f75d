"""Two runs of one fresh pipeline, started at the same moment, as two hosts of a fail-over pair do."""

from __future__ import annotations

import pytest

from tests.fix_pipeline import Pipeline, Running

SCHEMA = """
    create table deal (id int primary key, note text); create table keyless (a int, b text);
    create table event (at date, id int, primary key (at, id)) partition by range (at);
    create table event_rest partition of event default;
"""
ROWS = """
    insert into deal select g, md5(g::text) from generate_series(1, 20000) g;
    insert into keyless select g, md5(g::text) from generate_series(1, 20000) g;
    insert into event select date '2024-01-01', g from generate_series(1, 1000) g;
"""


def copied_by_one_of_two(pipeline: Pipeline, initial: str) -> list[Running]:
    pipeline.source.execute(SCHEMA + ROWS)
    if initial == "data":
        pipeline.replica.execute(SCHEMA)
    pipeline.settings["replicas"]["standby"]["initial"] = initial
    pipeline.write_config()
    runs = [pipeline.start("run"), pipeline.start("run")]
    pipeline.wait()
    assert pipeline.verify()["identical"] is True
    return runs


def assert_the_other_takes_over(pipeline: Pipeline, runs: list[Running]) -> None:
    """Whichever is killed: each may have the half of the work."""
    pipeline.until(lambda: any("standing by" in run.output for run in runs), "one capture's standing by")
    for run in runs:
        assert run.alive, pipeline.outputs()
        assert "stage stopped" not in run.output
    runs[0].kill()
    pipeline.source.execute("insert into deal values (0, 'after'); update keyless set b = '' where a < 9")
    pipeline.wait()
    assert pipeline.verify()["identical"] is True
    assert runs[1].end() == 0


@pytest.mark.parametrize("initial", ["copy", "data"])
def test_of_two_runs_that_begin_a_pipeline_at_once_one_copies_and_the_other_stands_by(
    pipeline: Pipeline, initial: str
) -> None:
    assert_the_other_takes_over(pipeline, copied_by_one_of_two(pipeline, initial))
