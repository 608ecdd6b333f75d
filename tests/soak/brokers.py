"""Faults of the Kafka log: the broker dies, and somebody else writes into the topic."""

from __future__ import annotations

import time

from kafka import KafkaProducer

from tests.scenario.rawlog import require_unconfirmed
from tests.soak.arena import Arena
from tests.soak.plan import Parameters


def kill_kafka(arena: Arena, given: Parameters) -> None:
    """As a power cut would, and up again. What was confirmed until then must be in the log that comes back;
    a capture that dies meanwhile cannot add it later."""
    kafka = arena.site.kafka
    assert kafka is not None
    arena.capture.ensure()
    arena.pass_time(given["after_s"])
    kafka.crash()
    arena.pass_time(given["down_s"])
    if given["capture_dies"]:
        arena.capture.kill()
    confirmed = arena.history.confirmed(arena.pipeline.slot)
    kafka.start()
    require_unconfirmed(confirmed, arena.log)
    arena.capture.ensure()


def stranger(arena: Arena, given: Parameters) -> None:
    """A record that is no frame, between two of capture's: readers ignore what follows, so it may not count
    as durable (P8)."""
    kafka = arena.site.kafka
    assert kafka is not None
    arena.capture.ensure()
    arena.pass_time(given["after_s"])
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    try:
        for _ in range(3):
            producer.send(f"{arena.pipeline.name}.log", b"not a frame").get(timeout=20)
            time.sleep(given["after_s"] / 3)
    finally:
        producer.close()
