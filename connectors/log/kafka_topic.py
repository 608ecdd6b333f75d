"""The log's topic and its settings: making it, reading them, judging them.

One partition, never compacted, kept until Keepstream trims it (P12).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from connectors.log.kafka_clients import KafkaClients
from connectors.log.kafka_errors import translated
from connectors.log.limits import MAX_MESSAGE_BYTES
from schemas.errors import RetryLater

WANTED_REPLICATION = 3
_GONE_S = 30.0
_PAUSE_S = 0.1
_STATUS_SEGMENT_BYTES = 4 * 1024 * 1024
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the cluster has it. `topic_id` is empty where the broker is too old to give one."""

    topic_id: str
    partitions: int
    replication: int
    settings: Mapping[str, str]


def find_topic_id(clients: KafkaClients, topic: str) -> str | None:
    """The topic's id; None if there is no such topic."""
    described = _describe(clients, topic)
    return None if described is None else _id(described)


def find_topic(clients: KafkaClients, topic: str) -> Topic | None:
    """The topic with its settings; None if there is no such topic."""
    described = _describe(clients, topic)
    if described is None:
        return None
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    with translated(f"{clients.where}/{topic}"):
        answer = clients.admin().describe_configs([resource], config_filter="all")
    settings = {name: str(entry["value"]) for name, entry in answer["topic"][topic].items()}
    partitions = described["partitions"]
    replication = min((len(partition["replica_nodes"]) for partition in partitions), default=0)
    return Topic(_id(described), len(partitions), replication, settings)


def create_log_topic(clients: KafkaClients, topic: str, replication: int | None) -> None:
    """Make the log's topic. Nothing happens if it exists."""
    copies = replication or min(WANTED_REPLICATION, count_brokers(clients))
    _create(
        clients,
        topic,
        copies,
        {
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": "-1",
            "max.message.bytes": str(MAX_MESSAGE_BYTES),
            "min.insync.replicas": str(min(2, copies)),
            "unclean.leader.election.enable": "false",
        },
    )


def create_status_topic(clients: KafkaClients, topic: str, replication: int | None) -> None:
    """Make the topic of the stages' reports: small, and only the newest of each stage is kept."""
    copies = replication or min(WANTED_REPLICATION, count_brokers(clients))
    _create(
        clients,
        topic,
        copies,
        {
            "cleanup.policy": "compact,delete",
            "retention.ms": str(7 * 24 * _HOUR_MS),
            "segment.bytes": str(_STATUS_SEGMENT_BYTES),
            "segment.ms": str(_HOUR_MS),
            "min.cleanable.dirty.ratio": "0.1",
        },
    )


def delete_topics(clients: KafkaClients, topics: list[str]) -> None:
    """Delete those that exist and wait until the cluster has forgotten them."""
    for topic in topics:
        with translated(f"{clients.where}/{topic}"):
            try:
                clients.admin().delete_topics([topic])
            except UnknownTopicOrPartitionError:
                continue
    deadline = time.monotonic() + _GONE_S
    for topic in topics:
        while _describe(clients, topic) is not None:
            if time.monotonic() > deadline:
                raise RetryLater(
                    f"{clients.where}/{topic} is still there {_GONE_S:.0f} s after it was deleted",
                    code="log-unreachable",
                    hint="Look at the controller's log, then run the command again.",
                )
            time.sleep(_PAUSE_S)


def count_brokers(clients: KafkaClients) -> int:
    with translated(clients.where):
        return max(1, len(clients.admin().describe_cluster()["brokers"]))


def _create(clients: KafkaClients, topic: str, copies: int, settings: Mapping[str, str]) -> None:
    wanted = {topic: {"num_partitions": 1, "replication_factor": copies, "configs": dict(settings)}}
    with translated(f"{clients.where}/{topic}"):
        try:
            clients.admin().create_topics(wanted, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            return


def _describe(clients: KafkaClients, topic: str) -> dict[str, Any] | None:
    with translated(f"{clients.where}/{topic}"):
        described: dict[str, Any] = clients.admin().describe_topics([topic])[0]
        if described["error_code"]:
            kind = for_code(described["error_code"])
            if kind is UnknownTopicOrPartitionError:
                return None
            raise kind(topic)
        return described


def _id(described: Mapping[str, Any]) -> str:
    topic_id = described.get("topic_id")
    return str(topic_id) if topic_id else ""
