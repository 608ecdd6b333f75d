"""Log → replica, against a native subscription that drains the same backlog; and with capture running.

    apply         the backlog is in the log; every run applies all of it to a replica of its own
    end to end    the backlog is in the slots; every run drains one through a log of its own

The anchor drains a slot with the same backlog into a database of the same server, with the same rows and
indexes. Its time begins with `alter subscription … enable`, ours with the word to a process that has
imported its modules; both end when a reader sees the last row.
"""

from __future__ import annotations

import time

from benchmarks import anchors
from benchmarks.bench import QUICK_DIVISOR, Bench
from benchmarks.measure import Better, Pairs, Result, alternate, rates
from benchmarks.pipelines import Pipeline, StageFailed, make_pipeline, wait_for_confirmed, wait_for_marker
from benchmarks.servers import Home, create_database
from benchmarks.workload import LARGE, SMALL, TABLES, Backlog, base_rows, create_tables, digest, write_backlog

APPLY_GOAL = "≥ 1.0"
END_TO_END_GOAL = "≥ 0.8"


class Scene:
    """A source and equal databases for replicas."""

    def __init__(self, bench: Bench, backlog: Backlog) -> None:
        self.bench = bench
        self.backlog = backlog.scaled(QUICK_DIVISOR) if bench.quick else backlog
        self.source = create_database(bench.servers.source, "source")
        create_tables(self.source, rows=base_rows(self.backlog))
        create_tables(create_database(bench.servers.replica, "equal"), rows=base_rows(self.backlog))

    def new_replica(self, name: str) -> str:
        """A database that equals the source's."""
        return create_database(self.bench.servers.replica, name, template="equal")

    def prepare_anchor(self) -> None:
        slots = [f"anchor_{number}" for number in range(self.bench.runs)]
        anchors.prepare_slots(self.source, TABLES, slots)

    def write(self) -> str:
        """The LSN at which the backlog ends."""
        self.bench.say(f"writing {self.backlog.transactions} transactions, {self.backlog.changes} rows")
        end = write_backlog(self.source, self.backlog)
        self._written = digest(self.source)
        return end

    def require_equal(self, replica: str) -> None:
        """A figure counts only if the work was done. Raises StageFailed."""
        if digest(replica) != self._written:
            raise StageFailed("the replica has the last row and does not equal the source")

    def run_anchor(self, number: int) -> float:
        """Seconds in which a native subscription drains slot `number`."""
        replica = self.new_replica(f"anchor_{number}")
        with anchors.subscription(self.source, replica, f"anchor_{number}") as connection:
            self.bench.servers.settle()
            started = time.monotonic()
            anchors.enable(connection)
            wait_for_marker(replica, [])
            took_s = time.monotonic() - started
            self.require_equal(replica)
        self.bench.say(f"anchor {took_s:.2f} s")
        return took_s

    def run_ours(self, pipeline: Pipeline, replica: str, *verbs: tuple[str, ...]) -> float:
        """Seconds from the word to these stages until the replica has it all."""
        with pipeline.running(*verbs, go=False) as stages:
            self.bench.servers.settle()
            started = time.monotonic()
            for stage in stages:
                stage.go()
            wait_for_marker(pipeline.replicas[replica], stages)
            took_s = time.monotonic() - started
        self.require_equal(pipeline.replicas[replica])
        self.bench.say(f"ours {took_s:.2f} s")
        return took_s


def apply_small(bench: Bench) -> list[Result]:
    return measure_apply(bench, "apply_small", SMALL, goal="≥ 1.0, aim 1.5")


def apply_large(bench: Bench) -> list[Result]:
    return measure_apply(bench, "apply_large", LARGE, goal="≥ 1.0")


def end_to_end_small(bench: Bench) -> list[Result]:
    return measure_end_to_end(bench, "end_to_end_small", SMALL, Home.KAFKA)


def end_to_end_large(bench: Bench) -> list[Result]:
    return measure_end_to_end(bench, "end_to_end_large", LARGE, Home.KAFKA)


def end_to_end_small_directory(bench: Bench) -> list[Result]:
    return measure_end_to_end(bench, "end_to_end_small_directory", SMALL, Home.DIRECTORY)


def end_to_end_large_directory(bench: Bench) -> list[Result]:
    return measure_end_to_end(bench, "end_to_end_large_directory", LARGE, Home.DIRECTORY)


def measure_apply(bench: Bench, name: str, backlog: Backlog, *, goal: str) -> list[Result]:
    """One pipeline with a replica for each run."""
    scene = Scene(bench, backlog)
    home = bench.servers.best_home()
    replicas = [f"replica_{number}" for number in range(bench.runs)]
    pipeline = make_pipeline(
        bench.servers,
        "bench",
        source=scene.source,
        home=home,
        replicas={replica: scene.new_replica(replica) for replica in replicas},
    )
    pipeline.begin()
    scene.prepare_anchor()
    end = scene.write()
    with pipeline.running(("capture",)) as stages:
        wait_for_confirmed(scene.source, pipeline.slot, end, stages)
    bench.say(f"the backlog is in the {home.value} log")
    pairs = alternate(
        lambda number: scene.run_ours(pipeline, replicas[number], ("apply", replicas[number])),
        scene.run_anchor,
        bench.runs,
    )
    return [_result(scene, name, rates(pairs, scene.backlog.changes), home=home, goal=goal)]


def measure_end_to_end(bench: Bench, name: str, backlog: Backlog, home: Home) -> list[Result]:
    """A pipeline with a slot, a log and a replica for each run."""
    scene = Scene(bench, backlog)
    pipelines = [
        make_pipeline(
            bench.servers,
            f"bench{number}",
            source=scene.source,
            home=home,
            replicas={"standby": scene.new_replica(f"replica_{number}")},
        )
        for number in range(bench.runs)
    ]
    for pipeline in pipelines:
        pipeline.begin()
    scene.prepare_anchor()
    scene.write()
    pairs = alternate(
        lambda number: scene.run_ours(pipelines[number], "standby", ("capture",), ("apply", "standby")),
        scene.run_anchor,
        bench.runs,
    )
    return [_result(scene, name, rates(pairs, scene.backlog.changes), home=home, goal=END_TO_END_GOAL)]


def _result(scene: Scene, name: str, pairs: Pairs, *, home: Home, goal: str) -> Result:
    backlog = scene.backlog
    anchor = (
        f"{anchors.NATIVE}; {backlog.transactions} transactions, {backlog.changes} rows; {home.value} log"
    )
    return scene.bench.compared(name, pairs, unit="rows/s", better=Better.HIGHER, goal=goal, anchor=anchor)
