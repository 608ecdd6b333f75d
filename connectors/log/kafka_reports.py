"""The stages' status reports in a small compacted topic beside the log.

Reports are hints: sent without waiting, and a lost one is replaced by the next within seconds.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from connectors.log.kafka_clients import KafkaClients
from connectors.log.kafka_errors import translated
from connectors.log.kafka_topic import find_topic_id

_READ_S = 5.0
_DELIVERY_MS = 20_000
_CLOSE_S = 2.0


class KafkaReports:
    """Publishes and reads the newest report of each stage. Thread-safe."""

    def __init__(self, clients: KafkaClients, topic: str) -> None:
        self._clients = clients
        self._topic = topic
        self._where = f"{clients.where}/{topic}"
        self._partition = TopicPartition(topic, 0)
        self._producer: Any = None
        self._consumer: Any = None
        self._topic_id = ""
        self._newest: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, stage: str, report: bytes) -> None:
        """Send a report. Raises RetryLater if there is no broker to send it to."""
        with self._lock, translated(self._where):
            if self._producer is None:
                self._producer = self._clients.producer(
                    acks=1,
                    enable_idempotence=False,
                    delivery_timeout_ms=_DELIVERY_MS,
                    max_block_ms=_DELIVERY_MS,
                )
            self._producer.send(self._topic, key=stage.encode(), value=report, partition=0)

    def newest(self) -> dict[str, bytes]:
        """The newest report of each stage; {} if nothing was ever reported."""
        with self._lock:
            topic_id = find_topic_id(self._clients, self._topic)
            bounds = self._clients.offsets(self._topic)
            if topic_id is None or bounds is None:
                return {}
            with translated(self._where):
                self._follow(topic_id, first=bounds[0])
                self._catch_up(bounds)
            return dict(self._newest)

    def close(self) -> None:
        with self._lock:
            if self._producer is not None:
                try:
                    self._producer.close(timeout=_CLOSE_S)
                except KafkaError:
                    self._producer._sender.force_close()
                self._producer = None
            self._stop_following()

    def _follow(self, topic_id: str, *, first: int) -> None:
        if self._topic_id != topic_id:
            self._stop_following()
            self._topic_id, self._newest = topic_id, {}
        if self._consumer is None:
            self._consumer = self._clients.consumer()
            self._consumer.assign([self._partition])
            self._consumer.seek(self._partition, first)

    def _stop_following(self) -> None:
        if self._consumer is not None:
            self._consumer.close(timeout_ms=1000)
            self._consumer = None

    def _catch_up(self, bounds: tuple[int, int]) -> None:
        deadline = time.monotonic() + _READ_S
        while self._consumer.position(self._partition) < bounds[1] and time.monotonic() < deadline:
            try:
                polled = self._consumer.poll(timeout_ms=200)
            except OffsetOutOfRangeError:
                self._consumer.seek(self._partition, bounds[0])  # compacted away under us
                continue
            for record in polled.get(self._partition, ()):
                if record.key is not None and record.value is not None:
                    self._newest[record.key.decode()] = record.value
