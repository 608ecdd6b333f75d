"""The producer that is made before it is needed, on a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from connectors.log import kafka_ahead
from connectors.log.kafka_ahead import ProducerAhead
from connectors.log.kafka_clients import KafkaClients
from connectors.log.kafka_settings import translate
from connectors.log.kafka_topic import create_log_topic
from pipeline.dev.process import require

TOPIC = "ahead.log"


@pytest.fixture
def clients(kafka_server: str) -> Iterator[KafkaClients]:
    made = KafkaClients([kafka_server], translate({}), client_id="ahead")
    create_log_topic(made, TOPIC, 1)
    yield made
    made.close()


def count_producers(clients: KafkaClients, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The producers that are made from now on."""
    made: list[Any] = []
    make = clients.producer

    def producer() -> Any:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(clients, "producer", producer)
    return made


def test_one_producer_is_made_and_knows_its_topic(clients: KafkaClients) -> None:
    ahead = ProducerAhead(clients, TOPIC)
    ahead.begin()
    ahead.begin()
    producer = ahead.take()
    assert producer._metadata.partitions_for_topic(TOPIC) == {0}
    assert producer.send(TOPIC, value=b"x", partition=0).get(timeout=10).offset >= 0
    other = ahead.take()
    assert other is not producer
    for one in (producer, other):
        one.close(timeout=1)


def test_one_that_is_old_is_not_used(clients: KafkaClients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_ahead, "_FRESH_S", 0.0)
    made = count_producers(clients, monkeypatch)
    ahead = ProducerAhead(clients, TOPIC)
    ahead.begin()
    producer = ahead.take()
    assert len(made) == 2
    assert producer is made[1]
    assert made[0]._closed
    producer.close(timeout=1)


def test_one_that_is_not_needed_any_more_is_closed(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_producers(clients, monkeypatch)
    ahead = ProducerAhead(clients, TOPIC)
    ahead.begin()
    ahead.close()
    require(lambda: bool(made) and made[0]._closed, 10, what="the end of the producer")
    assert len(made) == 1
