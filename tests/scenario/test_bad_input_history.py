"""Source, slot, publication or log are not the ones they were: everything stops, says why, and keeps what
there is."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import psycopg
import pytest

from schemas.errors import BEGIN_ANEW
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database


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
    assert running.end() == 0


def replicated(pipeline: Pipeline) -> list[int]:
    return [row for (row,) in pipeline.replica.execute("select id from t order by id")]


def drop_slot(pipeline: Pipeline) -> None:
    pipeline.source.drop_slot(pipeline.slot)


def recreate_slot(pipeline: Pipeline) -> None:
    drop_slot(pipeline)
    pipeline.source.execute("insert into t values (4, 'between')")
    pipeline.source.execute_as_admin(
        "select pg_create_logical_replication_slot(%s, 'pgoutput')", [pipeline.slot]
    )


def advance_slot(pipeline: Pipeline) -> None:
    pipeline.source.execute("insert into t values (4, 'skipped')")
    pipeline.source.await_free_slot(pipeline.slot)
    pipeline.source.execute_as_admin(
        "select pg_replication_slot_advance(%s, pg_current_wal_lsn())", [pipeline.slot]
    )


def make_foreign_slot(pipeline: Pipeline) -> None:
    drop_slot(pipeline)
    pipeline.source.execute_as_admin("select pg_create_physical_replication_slot(%s)", [pipeline.slot])


def recreate_publication(pipeline: Pipeline) -> None:
    name = f"keepstream_{pipeline.name}"
    pipeline.source.execute_as_admin(f"drop publication {name}")
    pipeline.source.execute("insert into t values (4, 'unpublished')")
    pipeline.source.execute_as_admin(f"create publication {name} for table t")


def readd_table(pipeline: Pipeline) -> None:
    name = f"keepstream_{pipeline.name}"
    pipeline.source.execute_as_admin(f"alter publication {name} drop table t")
    pipeline.source.execute("insert into t values (4, 'unpublished')")
    pipeline.source.execute_as_admin(f"alter publication {name} add table t")


@pytest.mark.parametrize(
    ("damage", "code", "seen"),
    [
        (drop_slot, "slot-missing", "is missing and the log"),
        (recreate_slot, "slot-advanced", "stands at "),
        (advance_slot, "slot-advanced", "stands at "),
        (make_foreign_slot, "slot-foreign", "is another one"),
        (recreate_publication, "publication-changed", "was changed by somebody else"),
        (readd_table, "publication-changed", "was changed by somebody else"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_history_that_was_broken_while_we_were_away(
    directory_pipeline: Pipeline, damage: Callable[[Pipeline], None], code: str, seen: str
) -> None:
    pipeline = directory_pipeline
    establish(pipeline)
    before = contents(pipeline)
    damage(pipeline)
    for verb in ("run", "capture"):
        done = pipeline.run(verb)
        assert done.code == 4, done.stderr
        assert f"error[{code}]: " in done.stderr, done.stderr
        assert seen in done.stderr
        assert "\nhint: " in done.stderr
        assert BEGIN_ANEW in done.stderr
    assert replicated(pipeline) == [1, 2, 3]
    assert contents(pipeline) == before, "something was written into the log"


@pytest.mark.parametrize("by_report", [False, True])
def test_a_log_that_lost_its_end_is_told_from_a_slot_that_somebody_moved(
    directory_pipeline: Pipeline, by_report: bool
) -> None:
    """A disk that was restored from an older copy. With the reports there it is capture's own that tells."""
    pipeline = directory_pipeline
    establish(pipeline)
    log, copy = pipeline.folder / "log" / f"{pipeline.name}.log", pipeline.folder / "copy"
    shutil.copytree(log, copy)
    running = pipeline.start("run")
    pipeline.source.execute("insert into t values (4, 'lost')")
    pipeline.wait()
    assert running.end() == 0
    if by_report:
        shutil.copytree(log / "status", copy / "status", dirs_exist_ok=True)
        del pipeline.settings["replicas"]["standby"]
        pipeline.write_config()
    shutil.rmtree(log)
    copy.rename(log)
    before, who = contents(pipeline), "an earlier capture" if by_report else "replica standby"
    if not by_report:
        (finding,) = pipeline.run("status", "--json").json["findings"]
        assert finding["code"] == "log-end-lost"
    for verb in ("run", "capture"):
        done = pipeline.run(verb)
        assert done.code == 4, done.stderr
        assert "error[log-end-lost]: " in done.stderr
        assert f" and {who} at " in done.stderr
        assert "Bring back the copy of the log that has it." in done.stderr
    assert contents(pipeline) == before, "something was written into the log"


@pytest.mark.parametrize("initial", ["copy", "data", "none"])
def test_a_slot_moved_before_anything_came_through_the_log_is_not_a_log_that_lost_its_end(
    directory_pipeline: Pipeline, initial: str
) -> None:
    """The replica stands where its rows were copied, which is past the log's only anchor."""
    pipeline = directory_pipeline
    for side in (pipeline.source,) if initial == "copy" else (pipeline.source, pipeline.replica):
        side.execute("create table t (id int primary key, note text)")
    pipeline.settings["replicas"]["standby"]["initial"] = initial
    pipeline.write_config()
    running = pipeline.start("run")
    pipeline.until(lambda: "apply begins" in running.output, "the first copy", 60)
    assert running.end() == 0
    advance_slot(pipeline)
    (finding,) = pipeline.run("status", "--json").json["findings"]
    assert finding["code"] == "slot-advanced"
    for verb in ("run", "capture"):
        done = pipeline.run(verb)
        assert done.code == 4, done.stderr
        assert "error[slot-advanced]: " in done.stderr


@pytest.mark.parametrize("damage", [recreate_slot, advance_slot])
def test_status_tells_a_slot_past_the_log_s_end_from_where_the_log_stands(
    pipeline: Pipeline, damage: Callable[[Pipeline], None]
) -> None:
    establish(pipeline)
    before = pipeline.run("status", "--json").json
    assert before["findings"] == []
    damage(pipeline)
    seen = pipeline.run("status", "--json").json
    assert [finding["code"] for finding in seen["findings"]] == ["slot-advanced"]
    assert BEGIN_ANEW in seen["findings"][0]["hint"]
    assert seen["capture"]["position"] == before["capture"]["position"]
    assert seen["capture"]["lag_bytes"] > 0
    assert seen["capture"]["lag_s"] > 0


def contents(pipeline: Pipeline) -> dict[str, int]:
    """The segment files of a directory log and their sizes."""
    folder = pipeline.folder / "log" / f"{pipeline.name}.log"
    return {path.name: path.stat().st_size for path in folder.glob("*.segment")}


def test_a_publication_changed_while_capture_runs_stops_it(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    establish(pipeline)
    running = pipeline.start("run")
    pipeline.until(lambda: "log continued" in running.output, "the second start", 60)
    readd_table(pipeline)
    assert running.wait(60) == 4
    assert "error[publication-changed]: " in running.output
    assert BEGIN_ANEW in running.output


def test_a_table_published_by_hand_stops_capture_before_its_rows_are_in_the_log(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    establish(pipeline)
    running = pipeline.start("run")
    pipeline.until(lambda: "log continued" in running.output, "the second start", 60)
    pipeline.source.execute("create table byhand (id int primary key)")
    pipeline.source.execute_as_admin(f"alter publication keepstream_{pipeline.name} add table byhand")
    pipeline.source.execute("insert into byhand values (1)")
    assert running.wait(60) == 4
    assert "error[publication-changed]: " in running.output
    assert "replica-schema" not in running.output
    events = pipeline.run("events", "tail", "--json", "--from", "start", "--no-follow").stdout
    assert "byhand" not in events


def test_a_slot_dropped_while_capture_runs_stops_it(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    establish(pipeline)
    running = pipeline.start("run")
    pipeline.until(lambda: "log continued" in running.output, "the second start", 60)
    pipeline.until(lambda: dropped_by_force(pipeline), "the slot's end")
    assert running.wait(60) == 4
    assert "error[slot-missing]: " in running.output
    assert BEGIN_ANEW in running.output
    assert replicated(pipeline) == [1, 2, 3]


def dropped_by_force(pipeline: Pipeline) -> bool:
    with psycopg.connect(pipeline.source.admin_dsn, autocommit=True) as session:
        session.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots"
            " where slot_name = %s and active",
            [pipeline.slot],
        )
        try:
            session.execute("select pg_drop_replication_slot(%s)", [pipeline.slot])
        except psycopg.errors.ObjectInUse:
            return False
    return True


def test_another_source_of_the_same_name_is_refused(
    directory_pipeline: Pipeline, new_source: Callable[..., Database]
) -> None:
    """The file now points at a clone, or a newly made cluster, with a slot of the right name."""
    pipeline = directory_pipeline
    establish(pipeline)
    other = new_source()
    pipeline.settings["source"]["url"] = other.dsn
    other.grant_ownership()
    other.execute("create table t (id int primary key, note text)")
    other.execute_as_admin(f"create publication keepstream_{pipeline.name} for table t")
    other.execute_as_admin("select pg_create_logical_replication_slot(%s, 'pgoutput')", [pipeline.slot])
    pipeline.write_config()
    done = pipeline.run("capture")
    assert done.code == 4
    assert "error[source-other-cluster]: the source is cluster " in done.stderr
    assert "hint: Point `source` at the database that the log came from." in done.stderr
    assert replicated(pipeline) == [1, 2, 3]


def test_a_deleted_progress_row_is_never_guessed(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    establish(pipeline)
    pipeline.settings["replicas"]["standby"]["initial"] = "copy"
    pipeline.write_config()
    pipeline.replica.execute("delete from keepstream.progress")
    done = pipeline.run("run")
    assert done.code == 4
    assert "error[replica-not-empty]: " in done.stderr
    assert replicated(pipeline) == [1, 2, 3]
