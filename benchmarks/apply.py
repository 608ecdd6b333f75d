"""Log → replica, against a native subscription that drains the same backlog; and with capture running.

    apply         the backlog is in the log; every run applies all of it to a replica of its own
    end to end    the backlog is in the slots; every run drains one through a log of its own

The anchor drains a slot with the same backlog into a database of the same server, with the same rows and
indexes. Its time begins with `alter subscription … enable`, ours with the word to a process that has
imported its modules; both end when a reader sees the last row. Then the replica must equal the source.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks import anchors
from benchmarks.bench import Bench
from benchmarks.measure import Better, Pairs, Result, alternate, rates
from benchmarks.pipelines import Pipeline, Stage, StageFailed, wait_for_confirmed, wait_for_marker
from benchmarks.scene import Scene, make_scene
from benchmarks.servers import Home
from benchmarks.types import typed_load
from benchmarks.workload import LARGE, SMALL, Backlog, Load, crm_load, digest


def apply_small(bench: Bench) -> list[Result]:
    return measure_apply(bench, "apply_small", crm_load(SMALL.scaled(bench.divisor)), goal="≥ 1.0, aim 1.5")


def apply_large(bench: Bench) -> list[Result]:
    return measure_apply(bench, "apply_large", crm_load(LARGE.scaled(bench.divisor)), goal="≥ 1.0")


def apply_types(bench: Bench) -> list[Result]:
    return measure_apply(bench, "apply_types", typed_load(bench.divisor), goal="≥ 0.9")


def end_to_end_small(bench: Bench) -> list[Result]:
    return measure_end_to_end(bench, "end_to_end_small", SMALL, bench.servers.best_home())


def end_to_end_large(bench: Bench) -> list[Result]:
    return measure_end_to_end(bench, "end_to_end_large", LARGE, bench.servers.best_home())


def end_to_end_small_directory(bench: Bench) -> list[Result]:
    return measure_end_to_end(bench, "end_to_end_small_directory", SMALL, Home.DIRECTORY)


def end_to_end_large_directory(bench: Bench) -> list[Result]:
    return measure_end_to_end(bench, "end_to_end_large_directory", LARGE, Home.DIRECTORY)


def measure_apply(bench: Bench, name: str, load: Load, *, goal: str) -> list[Result]:
    """One pipeline, one log, a replica for each run."""
    drain = Drain(bench, load)
    home = bench.servers.best_home()
    replicas = [f"replica{number}" for number in range(bench.runs)]
    pipeline = drain.scene.new_pipeline("bench", home, replicas)
    end = drain.write()
    with pipeline.running(("capture",)) as stages:
        wait_for_confirmed(pipeline.source, pipeline.slot, end, stages)
    bench.say(f"the backlog is in the {home.value} log")
    pairs = alternate(
        lambda number: drain.ours(pipeline, replicas[number], ("apply", replicas[number])),
        drain.anchor,
        bench.runs,
    )
    return [drain.result(name, pairs, home=home, goal=goal)]


def measure_end_to_end(bench: Bench, name: str, full: Backlog, home: Home) -> list[Result]:
    """A pipeline with a slot, a log and a replica for each run."""
    drain = Drain(bench, crm_load(full.scaled(bench.divisor)))
    pipelines = [drain.scene.new_pipeline(f"bench{n}", home, ["standby"]) for n in range(bench.runs)]
    drain.write()
    pairs = alternate(
        lambda number: drain.ours(pipelines[number], "standby", ("capture",), ("apply", "standby")),
        drain.anchor,
        bench.runs,
    )
    return [drain.result(name, pairs, home=home, goal="≥ 0.8")]


class Drain:
    """One backlog and the runs that drain it."""

    def __init__(self, bench: Bench, load: Load) -> None:
        self.bench = bench
        self.load = load
        self.scene: Scene = make_scene(bench, load.create, load.tables)
        self._digest: tuple[object, ...] = ()

    def write(self) -> str:
        """Make the anchor's slots and then the backlog; the LSN at which it ends."""
        self.scene.new_anchors(self.bench.runs)
        self.bench.say(f"writing {self.load.described}")
        end = self.load.write(self.scene.source)
        self._digest = digest(self.scene.source, self.load.tables)
        return end

    def ours(self, pipeline: Pipeline, replica: str, *verbs: tuple[str, ...]) -> float:
        """Seconds from the word to these stages until the replica has it all."""
        with pipeline.running(*verbs, go=False) as stages:

            def start() -> None:
                for stage in stages:
                    stage.go()

            return self._timed("ours", start, pipeline.replicas[replica], stages)

    def anchor(self, number: int) -> float:
        """Seconds in which a native subscription drains slot `number`."""
        replica = self.scene.new_replica(f"anchor_{number}")
        with anchors.subscription(self.scene.source, replica, f"anchor_{number}") as connection:
            return self._timed("anchor", lambda: anchors.enable(connection), replica, [])

    def _timed(self, who: str, start: Callable[[], None], replica: str, stages: Sequence[Stage]) -> float:
        self.bench.servers.settle()
        started = time.monotonic()
        start()
        wait_for_marker(replica, stages)
        took_s = time.monotonic() - started
        if digest(replica, self.load.tables) != self._digest:
            raise StageFailed("the replica has the last row and does not equal the source")
        self.bench.say(f"{who} {took_s:.2f} s")
        return took_s

    def result(self, name: str, pairs: Pairs, *, home: Home, goal: str) -> Result:
        return self.bench.compared(
            name,
            rates(pairs, self.load.changes),
            unit="rows/s",
            better=Better.HIGHER,
            goal=goal,
            anchor=f"{anchors.NATIVE}; {self.load.described}; {home.value} log",
        )
