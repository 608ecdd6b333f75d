"""Faults that are small stories: a copy, a table that joins, a verification, a pause, a quiet moment, a
rewritten table. Each ends with both stages at work again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psycopg

from tests.copying import KEEPERS
from tests.fix_postgres import Database
from tests.scenario.checker import Verdict, Violation, assert_equal_now, parse_lsn
from tests.scenario.workload import TABLES, joining_table
from tests.soak.arena import Arena, proxied
from tests.soak.lane import Lane
from tests.soak.plan import Parameters
from tests.soak.watch import LongWitness

COMMAND_S = 60.0
_HEARTBEAT_S = 6.0
_JOIN_S = 60.0
_SNAPSHOT_S = 10.0
_SLOW_PACE_S = 0.25


def command(arena: Arena, *verb: str, failpoint: str = "") -> int:
    """A command of an operator, to its end; its exit code."""
    env = {"KEEPSTREAM_FAILPOINT": failpoint, "KEEPSTREAM_FAILPOINT_LOG": str(arena.site.kills)}
    return arena.pipeline.start(*verb, env=env).wait(COMMAND_S)


def require_command(arena: Arena, *verb: str) -> None:
    """Raises Violation: torn if it found a difference, else stuck. What is unreachable now is tried again."""
    deadline = time.monotonic() + COMMAND_S
    while code := command(arena, *verb):
        if code != 5 or time.monotonic() > deadline:
            said = arena.pipeline.started[-1].output[-1500:]
            verdict = Verdict.TORN if code == 6 else Verdict.STUCK
            raise Violation(verdict, f"{' '.join(verb)} ended with {code}: {said}")


# copies


@contextlib.contextmanager
def _fresh(arena: Arena) -> Iterator[tuple[Lane, LongWitness]]:
    """An empty replica that the configuration names."""
    replica: Database = arena.site.replica.new_database()
    replicas, name = arena.pipeline.settings["replicas"], replica.name
    replicas[name] = {"url": proxied(arena.site, replica, "replica")}
    arena.pipeline.write_config()
    arena.judge()
    watch = LongWitness(arena.history, replica, arena.pipeline.name, TABLES)
    arena.watch.fork(watch)
    lane = Lane(arena.pipeline, ("apply", name), arena.site.kills)
    try:
        with arena.traffic.slowed(_SLOW_PACE_S):
            yield lane, watch
    finally:
        lane.end()
        del replicas[name]
        arena.pipeline.write_config()
        replica.drop()


def copy(arena: Arena, given: Parameters) -> None:
    """A second replica is copied, killed at each failpoint, and in the end is a replica like the first."""
    arena.capture.ensure()
    with _fresh(arena) as (lane, watch):
        for failpoint in given["failpoints"]:
            lane.start(failpoint=failpoint)
            lane.settle()
            if watch.look() is not None:  # its marker says that it is whole
                break
        lane.start()
        _watch_over(arena, lane, watch)


def truncate(arena: Arena, _given: Parameters) -> None:
    """A table is truncated while a copy has its snapshot: for the snapshot it is then empty (P19)."""
    arena.capture.ensure()
    with _fresh(arena) as (lane, watch):
        lane.start(failpoint="copy.after_completion")
        deadline = time.monotonic() + _SNAPSHOT_S
        while not _has_snapshot(arena) and time.monotonic() < deadline:
            time.sleep(0.002)
        if not _has_snapshot(arena):
            arena.missed.append("truncate in copy: no snapshot")
        arena.source.execute("truncate wiped; insert into wiped select i, -1 from generate_series(1, 5) i")
        lane.settle()
        watch.look()  # as it stands at its first position
        lane.start()
        _watch_over(arena, lane, watch)


def _has_snapshot(arena: Arena) -> bool:
    """Whether a copy's snapshot is there."""
    found = arena.source.execute_as_admin(f"select from pg_stat_activity where {KEEPERS}")
    return bool(found)


def _watch_over(arena: Arena, lane: Lane, watch: LongWitness) -> None:
    """From the first moment at which it is a replica on."""
    lsn = arena.mark()

    def reached() -> bool:
        lane.look_after()
        sample = watch.look()
        return sample is not None and sample.position >= lsn

    arena.wait_for(reached, "the copied replica's catching up", pause_s=0.01)
    watch.judge()


# holding


def pause(arena: Arena, given: Parameters) -> None:
    """A paused replica stands where it is, whoever applies."""
    arena.capture.ensure()
    arena.apply.ensure()
    arena.catch_up()  # there is a replica
    arena.pass_time(given["after_s"])
    require_command(arena, "pause", "standby")
    arena.watch.hold()
    try:
        arena.pass_time(0.6)
        arena.apply.start()
        arena.pass_time(0.6)
    finally:
        arena.watch.held = 0
        require_command(arena, "resume", "standby")


def verify(arena: Arena, given: Parameters) -> None:
    """Killed while it holds the replica, and then to its end."""
    arena.capture.ensure()
    arena.apply.ensure()
    arena.pass_time(given["after_s"])
    command(arena, "verify", "standby", failpoint="verify.held")
    require_command(arena, "verify", "standby", "--json")


def snapshot(arena: Arena, given: Parameters) -> None:
    """A table is copied anew under the workload: killed at a place of it, and then to its end."""
    arena.capture.ensure()
    arena.apply.ensure()
    arena.catch_up()  # there is a replica
    arena.pass_time(given["after_s"])
    verb = ("snapshot", "standby", given["table"])
    command(arena, *verb, failpoint=given["failpoint"])
    require_command(arena, *verb)
    arena.watch.look()


# moments


def quiet(arena: Arena, _given: Parameters) -> None:
    """Killed before a heartbeat; then a transaction whose commit begins exactly where a heartbeat stands."""
    with arena.traffic.paused():
        arena.capture.start(failpoint="capture.before_heartbeat")
        _stir(arena)
        arena.capture.settle()
        arena.capture.start()
        arena.apply.ensure()
        with contextlib.closing(arena.source.connect(autocommit=False)) as session:
            session.execute("update slow set n = n + 1 where id = 4")
            _stir(arena)
            _stand_at_the_end(arena)
            session.commit()
        arena.capture.start()
        arena.apply.start()


def _stir(arena: Arena) -> None:
    """Some WAL that no replica is interested in, flushed with all before it."""
    arena.source.execute("create temp table stirred (n int); drop table stirred")


def _stand_at_the_end(arena: Arena) -> None:
    """Until log and replica stand at the end of the source's WAL; at most some seconds, then it is missed."""
    deadline = time.monotonic() + _HEARTBEAT_S
    while time.monotonic() < deadline:
        end = parse_lsn(arena.source.execute("select pg_current_wal_insert_lsn()::text")[0][0])
        sample = arena.watch.look()
        if sample is not None and sample.position >= end:
            return
        time.sleep(0.05)
    arena.missed.append("quiet: no heartbeat at the end of WAL")


def join(arena: Arena, given: Parameters) -> None:
    """A table comes into being, and capture is killed while it joins."""
    table = given["table"]
    arena.source.execute(joining_table(table, given["failpoint"]))
    arena.capture.start(failpoint=given["failpoint"])
    arena.source.execute(f"update {table} set n = 1 where id <= 10; delete from {table} where id > 90")
    arena.capture.settle()
    arena.capture.start()
    arena.apply.ensure()
    arena.wait_for(lambda: _has(arena, table), "the joining", _JOIN_S)
    arena.source.execute(f"insert into {table} values (1000, 1); update {table} set n = n + 1")
    with arena.traffic.paused():
        arena.catch_up()
        assert assert_equal_now(arena.source, arena.replica, [f"public.{table}"]) == 91
    require_command(arena, "verify", "standby", "--json")


def leave(arena: Arena, given: Parameters) -> None:
    """A table's writes fail in the application; capture takes it out of the publication and is killed at it.
    The replica keeps the rows from before, and the table joins again."""
    table = given["table"]
    arena.source.execute(
        f"create table {table} (n int, pad text); alter table {table} replica identity full;"
        f" insert into {table} values (1, 'joined')"
    )
    arena.capture.ensure()
    arena.apply.ensure()
    arena.wait_for(lambda: _has(arena, table), "the joining", _JOIN_S)
    arena.source.execute(
        f"insert into {table} values (2, 'late');"
        f" alter table {table} add column twice int generated always as (n * 2) virtual"
    )
    arena.capture.start(failpoint=given["failpoint"])
    arena.capture.settle()
    arena.capture.start()
    arena.wait_for(lambda: not _is_published(arena, table), "the leaving", _JOIN_S)
    arena.source.execute(f"insert into {table} values (3, 'unseen')")  # an UPDATE fails for the witness
    with arena.traffic.paused():
        arena.catch_up()
        kept = arena.replica.execute(f"select n, pad from {table} order by n")
        if kept != [(1, "joined"), (2, "late")]:
            raise Violation(Verdict.TORN, f"of a table that left the replica kept {kept}")
    arena.replica.execute_as_admin(f"drop table {table}")
    arena.source.execute(
        f"alter table {table} add primary key (n); alter table {table} replica identity default"
    )
    arena.wait_for(lambda: _has(arena, table), "the joining again", _JOIN_S)
    with arena.traffic.paused():
        arena.catch_up()
    require_command(arena, "verify", "standby", "--json")


def _is_published(arena: Arena, table: str) -> bool:
    arena.glance()
    query = "select 1 from pg_publication_tables where tablename = %s and pubname like 'keepstream%%'"
    return bool(arena.source.execute(query, [table]))


def _has(arena: Arena, table: str) -> bool:
    arena.glance()
    with contextlib.suppress(psycopg.Error):
        return bool(arena.replica.execute("select 1 from pg_tables where tablename = %s", [table]))
    return False
