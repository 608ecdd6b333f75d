"""What most benchmarks stand on: a source, and databases that equal it for replicas to begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import anchors
from benchmarks.bench import Bench
from benchmarks.pipelines import Pipeline, make_pipeline
from benchmarks.servers import Home, create_database


@dataclass(frozen=True)
class Scene:
    """`source`: the connection string. `tables`: what is replicated, the marker's table included."""

    bench: Bench
    source: str
    tables: Sequence[str]

    def new_replica(self, name: str) -> str:
        """A database that equals the source as it was at first."""
        return create_database(self.bench.servers.replica, name, template="equal")

    def new_pipeline(self, name: str, home: Home, replicas: Sequence[str] = ()) -> Pipeline:
        """A pipeline that has begun, with an equal database for each of its replicas."""
        urls = {replica: self.new_replica(f"{name}_{replica}") for replica in replicas}
        pipeline = make_pipeline(self.bench.servers, name, source=self.source, home=home, replicas=urls)
        pipeline.begin()
        return pipeline

    def new_anchors(self, count: int) -> list[str]:
        """Slots for the anchor, made before the backlog like our own."""
        slots = [f"anchor_{number}" for number in range(count)]
        anchors.prepare_slots(self.source, self.tables, slots)
        return slots


def make_scene(bench: Bench, make: Callable[[str], None], tables: Sequence[str]) -> Scene:
    """`make` is given a connection string and makes the tables, the same on both sides."""
    source = create_database(bench.servers.source, "source")
    make(source)
    make(create_database(bench.servers.replica, "equal"))
    return Scene(bench, source, tables)
