"""What only an operator can have done: the pipeline must stop, say why, and have lost nothing in silence.

Each ends a world: nothing can go on after it but a pipeline that begins anew.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from kafka import KafkaAdminClient, TopicPartition

from tests.scenario.checker import Verdict, Violation
from tests.soak.arena import Arena
from tests.soak.faults import Act
from tests.soak.lane import error_of
from tests.soak.plan import Parameters

STOP_S = 60.0
_BUSY_S = 20.0

Damage = Callable[[Arena], None]


def stop(damage: Damage, *codes: str, running: bool = False) -> Act:
    """An act that does the damage, while capture runs or does not, and waits for one of these errors.
    Where the slot was left alone, nothing more may be confirmed there; but under a running capture a changed
    publication is only seen with the next look (P11), and what is logged until then is not judged."""

    def act(arena: Arena, _given: Parameters) -> None:
        arena.calm(whole=True)
        with arena.traffic.paused():
            arena.catch_up()
            held = arena.log.tail
            if not running:
                arena.capture.end()
            damage(arena)
        if not running:
            arena.capture.start()
        seen = _ended(arena)
        if seen not in codes:
            raise Violation(Verdict.STUCK, f"stopped with {seen}, not with {' or '.join(codes)}")
        confirmed = 0 if damage in _OF_SLOT else arena.history.confirmed(arena.pipeline.slot)
        logged = arena.log.tail if damage in _SEEN_LATER and running else held
        if confirmed > logged:
            raise Violation(Verdict.LOST, f"confirmed up to {confirmed:X}, the log held {logged:X}")
        _nothing_was_made_of_it(arena, held, logged)

    return act


def _ended(arena: Arena) -> str | None:
    """The error with which capture stops."""
    running, deadline = arena.capture.working, time.monotonic() + STOP_S
    assert running is not None
    while running.alive:
        arena.glance()
        if time.monotonic() > deadline:
            raise Violation(Verdict.LOST, "capture went on as if nothing had been done")
        time.sleep(0.05)
    return error_of(running)


def _nothing_was_made_of_it(arena: Arena, held: int, logged: int) -> None:
    """The replica is still a prefix of what was committed, and not past what the log held. What was `logged`
    after it is not judged."""
    arena.pass_time(0.5)
    arena.apply.end()
    for sample in arena.watch.samples:
        if sample.position > logged:
            raise Violation(Verdict.TORN, f"the replica is at {sample.position:X}, the log held {logged:X}")
    if logged > held:
        arena.watch.samples[:] = [sample for sample in arena.watch.samples if sample.position <= held]
    arena.history.learn()
    arena.watch.judge()


# the slot and the publication


def drop_slot(arena: Arena) -> None:
    """As often as it takes until nobody holds it."""
    deadline = time.monotonic() + _BUSY_S
    while time.monotonic() < deadline:
        with psycopg.connect(arena.source.admin_dsn, autocommit=True) as session:
            session.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots"
                " where slot_name = %s and active",
                [arena.pipeline.slot],
            )
            with contextlib.suppress(psycopg.errors.ObjectInUse):
                session.execute("select pg_drop_replication_slot(%s)", [arena.pipeline.slot])
                return
    raise AssertionError("the slot could not be dropped")


def recreate_slot(arena: Arena) -> None:
    drop_slot(arena)
    _commit(arena, "between")
    arena.source.execute_as_admin(
        "select pg_create_logical_replication_slot(%s, 'pgoutput')", [arena.pipeline.slot]
    )


def advance_slot(arena: Arena) -> None:
    _commit(arena, "skipped")
    arena.source.execute_as_admin(
        "select pg_replication_slot_advance(%s, pg_current_wal_lsn())", [arena.pipeline.slot]
    )


def change_publication(arena: Arena) -> None:
    name = f"keepstream_{arena.pipeline.name}"
    arena.source.execute_as_admin(f"alter publication {name} drop table keyless")
    _commit(arena, "unpublished")
    arena.source.execute_as_admin(f"alter publication {name} add table keyless")


def _commit(arena: Arena, what: str) -> None:
    arena.source.execute("insert into keyless values (7, %s)", [what])


# the log


def remove_folder(arena: Arena) -> None:
    shutil.rmtree(arena.site.log_disk.folder / f"{arena.pipeline.name}.log")
    _commit(arena, "without a log")


@contextlib.contextmanager
def _admin(arena: Arena) -> Iterator[Any]:
    assert arena.site.kafka is not None
    client = KafkaAdminClient(bootstrap_servers=arena.site.kafka.bootstrap)
    try:
        yield client
    finally:
        client.close()


def _topic(arena: Arena) -> str:
    return f"{arena.pipeline.name}.log"


def delete_topic(arena: Arena) -> None:
    with _admin(arena) as admin:
        admin.delete_topics([_topic(arena)])
    _commit(arena, "without a log")


def recreate_topic(arena: Arena) -> None:
    with _admin(arena) as admin:
        admin.delete_topics([_topic(arena)])
        deadline = time.monotonic() + _BUSY_S
        while time.monotonic() < deadline:
            try:
                admin.create_topics({_topic(arena): {"num_partitions": 1, "replication_factor": 1}})
                break
            except Exception:  # noqa: BLE001 - the old one is still being deleted
                time.sleep(0.1)
    _commit(arena, "into another log")


def trim_topic(arena: Arena) -> None:
    with _admin(arena) as admin:
        admin.delete_records({TopicPartition(_topic(arena), 0): -1})
    _commit(arena, "after the cut")


_OF_SLOT = (drop_slot, recreate_slot, advance_slot)
_SEEN_LATER = (change_publication,)
_CHANGED = ("publication-changed",)
COMMON: dict[str, Act] = {
    "slot dropped": stop(drop_slot, "slot-missing", running=True),
    "slot recreated": stop(recreate_slot, "slot-advanced"),
    "publication changed": stop(change_publication, *_CHANGED, running=True),
    "slot advanced": stop(advance_slot, "slot-advanced"),
    "publication changed meanwhile": stop(change_publication, *_CHANGED),
    "slot dropped meanwhile": stop(drop_slot, "slot-missing"),
}
OF_LOG: dict[str, dict[str, Act]] = {
    "directory": {"folder removed": stop(remove_folder, "slot-without-log")},
    "kafka": {
        "topic recreated": stop(recreate_topic, "slot-without-log", "log-missing", "log-cut", running=True),
        "topic deleted": stop(delete_topic, "slot-without-log", "log-missing", running=True),
        "topic trimmed": stop(trim_topic, "slot-without-log", "log-cut"),
    },
}
