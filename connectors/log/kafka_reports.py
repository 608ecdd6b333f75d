"""The stages' status reports in a small compacted topic beside the log.

Reports are hints: publishing one never makes a stage wait for Kafka, and a lost one is replaced by the
next within seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from connectors.log.kafka_clients import KafkaClients
from connectors.log.kafka_errors import kafka_error, translated
from connectors.log.kafka_topic import find_topic_id
from schemas.errors import KeepstreamError

_READ_S = 5.0
_DELIVERY_MS = 20_000
_METADATA_MS = 5_000
_CLOSE_S = 3.0


class KafkaReportPublisher:
    """Sends the newest report of each stage from a thread of its own. `put` may be called from any thread.

    make_topic: makes the topic unless it is there. Called before the first report and after one that failed:
    kafka-python tells a topic that was deleted under it from a broker that is away by nothing.
    """

    def __init__(self, clients: KafkaClients, topic: str, make_topic: Callable[[], None]) -> None:
        self._clients = clients
        self._topic = topic
        self._make_topic = make_topic
        self._is_topic_sure = False
        self._pending: dict[str, bytes] = {}
        self._error: KeepstreamError | None = None
        self._is_error_told = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def put(self, stage: str, report: bytes) -> None:
        """Have a report sent soon. Raises what became of an earlier one that failed, until one arrives."""
        with self._changed:
            self._pending[stage] = report
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="log-reports", daemon=True)
                self._thread.start()
            self._changed.notify()
            error, self._is_error_told = self._error, True
        if error is not None:
            raise error

    def close(self) -> None:
        """Send what is pending, if that takes no longer than some seconds."""
        with self._changed:
            self._closing = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join(_CLOSE_S)

    def _run(self) -> None:
        producer: Any = None
        while reports := self._take():
            try:
                if producer is None:
                    producer = self._connect()
                if not self._is_topic_sure:
                    self._is_topic_sure = True
                    self._make_topic()
                self._send(producer, reports)
            except KeepstreamError as error:
                self._note(error)
        if producer is not None:
            _close(producer)

    def _take(self) -> dict[str, bytes]:
        """What is pending, as soon as anything is; {} once closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            reports, self._pending = self._pending, {}
            return reports

    def _connect(self) -> Any:
        return self._clients.producer(
            acks=1, enable_idempotence=False, delivery_timeout_ms=_DELIVERY_MS, max_block_ms=_METADATA_MS
        )

    def _send(self, producer: Any, reports: dict[str, bytes]) -> None:
        where, since = f"{self._clients.where}/{self._topic}", time.monotonic()
        with translated(where):
            for stage, report in reports.items():
                sent = producer.send(self._topic, key=stage.encode(), value=report, partition=0)
                sent.add_callback(lambda _: self._note_arrival())
                sent.add_errback(lambda error: self._note(kafka_error(error, where, since=since)))

    def _note(self, error: KeepstreamError) -> None:
        """For the next `put`. From the producer's thread, too: most of what fails is known only later."""
        with self._changed:
            self._error, self._is_error_told = error, False
            self._is_topic_sure = False

    def _note_arrival(self) -> None:
        with self._changed:
            if self._is_error_told:
                self._error = None


class KafkaReportReader:
    """Reads the newest report of each stage; keeps its place from one call to the next. Thread-safe."""

    def __init__(self, clients: KafkaClients, topic: str) -> None:
        self._clients = clients
        self._topic = topic
        self._partition = TopicPartition(topic, 0)
        self._consumer: Any = None
        self._topic_id = ""
        self._newest: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def newest(self) -> dict[str, bytes]:
        """The newest report of each stage; {} if nothing was ever reported."""
        with self._lock:
            topic_id = find_topic_id(self._clients, self._topic)
            bounds = self._clients.offsets(self._topic)
            if topic_id is None or bounds is None:
                return {}
            with translated(f"{self._clients.where}/{self._topic}"):
                self._follow(topic_id, first=bounds[0])
                self._catch_up(bounds)
            return dict(self._newest)

    def close(self) -> None:
        with self._lock:
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


def _close(producer: Any) -> None:
    try:
        producer.close(timeout=_CLOSE_S)
    except KafkaError:
        producer._sender.force_close()
