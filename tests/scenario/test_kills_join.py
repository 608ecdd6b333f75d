"""SIGKILL while a table joins, and of a verification that holds the replica."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fix_pipeline import LOOKING_OFTEN
from tests.fix_postgres import Server
from tests.scenario.checker import Witness
from tests.scenario.workload import TABLES, joining_table
from tests.scenario.world import World, new_world

HOLD_S = 40.0


@pytest.fixture(scope="module")
def world(
    source_server: Server, replica_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("kills")
    with new_world(folder, source_server, replica_server, f"file://{folder}/log") as made:
        made.pipeline.values |= LOOKING_OFTEN
        made.start("capture")
        made.pipeline.until(lambda: made.log_is_begun, "the log's first anchor")
        yield made


@pytest.mark.parametrize(
    "failpoint",
    [
        "log.segment_created",
        "capture.before_join_announced",
        "capture.after_join_announced",
        "capture.join_rows_sent",
        "capture.after_join_committed",
    ],
)
def test_capture_killed_while_a_table_joins(world: World, failpoint: str) -> None:
    """Its rows are there once, and those that are written to it in the meantime."""
    world.ensure("apply", "standby")
    table = f"joined_{failpoint.rpartition('.')[2]}"
    world.source.execute(joining_table(table, failpoint))
    world.die_at(failpoint, "capture", idle=True)
    world.source.execute(f"update {table} set n = 1 where id <= 10; delete from {table} where id > 90")
    capture = world.start("capture")
    world.step_until(lambda: joined(world, table), "the joining", 60)
    assert capture.alive, capture.output
    world.source.execute(f"insert into {table} values (1000, 1); update {table} set n = n + 1")
    world.catch_up()
    result = world.pipeline.verify()
    rows = {one["table"]: one["rows"] for one in result["tables"]}
    assert rows[f"public.{table}"] == 91
    assert world.witness.judge() > 0


def joined(world: World, table: str) -> bool:
    return bool(world.replica.execute("select 1 from pg_tables where tablename = %s", [table]))


def test_a_killed_verification_lets_the_replica_go_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once for the next verification, and by itself when the hold expires."""
    world.ensure("capture")
    world.ensure("apply", "standby")
    world.catch_up()
    world.die_at("verify.held", "verify", "standby")
    world.workload.finish()
    world.pipeline.verify()
    monkeypatch.setitem(world.pipeline.values, "pipeline.verify.meeting.HOLD_S", 2.0)
    world.die_at("verify.held", "verify", "standby")
    witness = Witness(world.history, world.replica, world.pipeline.name, TABLES)
    world.workload.finish()
    world.catch_up(witness, timeout_s=HOLD_S)
    assert witness.judge() > 0
