"""SIGKILL of a first copy at each of its steps, under a workload: the next start makes a whole replica."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.fix_postgres import Server
from tests.scenario.checker import Witness
from tests.scenario.workload import TABLES
from tests.scenario.world import World, new_world
from tests.soak.plan import COPY

COPY_STEP_S = 0.12
"""A TRUNCATE after its snapshot makes a copy begin anew (P19), and every round of the workload ends with one:
a slow machine needs more time between two."""


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
        made.step_s = COPY_STEP_S
        made.start("capture")
        made.pipeline.until(lambda: made.log_is_begun, "the log's first anchor")
        yield made


@dataclass(frozen=True)
class Fresh:
    """An empty replica that the configuration names."""

    name: str
    witness: Witness


@pytest.fixture
def fresh(world: World, replica_server: Server) -> Iterator[Fresh]:
    replica = replica_server.new_database()
    replicas, name = world.pipeline.settings["replicas"], replica.name
    replicas[name] = {"url": replica.dsn}
    world.pipeline.write_config()
    yield Fresh(name, Witness(world.history, replica, world.pipeline.name, TABLES))
    world.kill("apply", name)
    del replicas[name]
    replica.drop()


@pytest.mark.slow_on_kafka
@pytest.mark.parametrize("failpoint", COPY)
def test_copy_killed(world: World, fresh: Fresh, failpoint: str) -> None:
    world.die_at(failpoint, "apply", fresh.name)
    world.start("apply", fresh.name)
    for _ in range(20):
        world.workload.step()
    world.check(fresh.witness)


def test_copy_killed_again_while_it_begins_anew(world: World, fresh: Fresh) -> None:
    for failpoint in ("copy.half_copied", "copy.predata_restored", "copy.before_completion"):
        world.die_at(failpoint, "apply", fresh.name)
        assert fresh.witness.look() is None, "half a copy is taken for a replica"
    world.start("apply", fresh.name)
    world.check(fresh.witness)
