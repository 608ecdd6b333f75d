"""The broker as a user finds it: one that has worked before.

The JVM interprets new code, then compiles it beside its work. In a broker of a minute's age that takes more
of two cores than the work itself; the PostgreSQL servers that both sides share have nothing of the kind.
"""

from __future__ import annotations

import os
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetSpec, TopicPartition
from kafka.admin import NewTopic

WARM_UP_S = 5.0
_TOPIC = "warm-up"
_ROUND_BYTES = (1_000, 30_000, 1_000, 300_000)
_TIMEOUT_S = 30.0


def warm_up(bootstrap: str) -> int:
    """Write and read a scratch topic for a while, as a pipeline does; how many records."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
    try:
        admin.create_topics([NewTopic(_TOPIC, 1, 1)], wait_for_metadata=True)
        partition = TopicPartition(_TOPIC, 0)
        consumer.assign([partition])
        records = 0
        ends_at = time.monotonic() + WARM_UP_S
        while time.monotonic() < ends_at:
            for size in _ROUND_BYTES:
                producer.send(_TOPIC, os.urandom(size), partition=0).get(timeout=_TIMEOUT_S)
                consumer.poll(timeout_ms=0)
                records += 1
            admin.describe_topics([_TOPIC])
            admin.list_partition_offsets({partition: OffsetSpec.LATEST})
        return records
    finally:
        consumer.close()
        producer.close()
        admin.delete_topics([_TOPIC])
        admin.close()


def forget_topics(bootstrap: str) -> None:
    """Delete all topics."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        topics = [name for name in admin.list_topics() if not name.startswith("__")]
        if topics:
            admin.delete_topics(topics)
    finally:
        admin.close()
