"""Makes kafka-python's clients, with what the protocol needs of each.

kafka-python has no type hints, so that its clients are Any here and in the modules beside.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetSpec, TopicPartition
from kafka.errors import KafkaError, UnknownTopicOrPartitionError
from kafka.net.compat import KafkaNetClient

from connectors.ahead import Ahead
from connectors.log.kafka_errors import quieten, translated
from connectors.log.kafka_settings import ClientSettings
from connectors.log.kafka_sockets import DIRECT_URL
from connectors.log.limits import MAX_MESSAGE_BYTES
from schemas.errors import ConfigError, KeepstreamError

_BOOTSTRAP_MS = 10_000
_REQUEST_MS = 15_000
_RECONNECT_MS = 1_000
_METADATA_PAUSE_MS = 8
"""Between two looks at the cluster. A new client that is told its topic sleeps for it, too: kafka-python
counts it from the first answer, and gives its metadata 100 ms whatever `retry.backoff.ms` says."""
_DELIVERY_MS = 45_000
_BATCH_BYTES = 1024 * 1024
_CLOSE_S = 1.0
_FETCH_WAIT_MS = 2_000
_FETCH_BYTES = 4 * 1024 * 1024


class KafkaClients:
    """Clients of one cluster. The admin client is made once and shared by all threads; one idle
    consumer is kept for who reads next, and can be made before."""

    def __init__(
        self,
        servers: list[str],
        settings: ClientSettings,
        client_id: str,
        *,
        patience_s: float | None = None,
    ) -> None:
        quieten()
        limit_ms = _REQUEST_MS if patience_s is None else int(patience_s * 1000)
        self.where = f"kafka://{','.join(servers)}"
        self._settings = settings
        self._common: dict[str, Any] = {
            "bootstrap_servers": servers,
            "client_id": client_id,
            "bootstrap_timeout_ms": min(_BOOTSTRAP_MS, limit_ms),
            "request_timeout_ms": limit_ms,
            "reconnect_backoff_max_ms": _RECONNECT_MS,
            "proxy_url": DIRECT_URL,
            **settings.common,
        }
        self._admin: Any = None
        self._admins = Ahead(self._new_admin, _close_admin)
        self._find_topic: Callable[[], str | None] = lambda: None
        self._consumers = Ahead(self._expected_consumer, _close_consumer)
        self._lock = threading.Lock()

    def admin(self) -> Any:
        """The shared admin client, connected. Raises RetryLater, LoginRefused."""
        with self._lock:
            if self._admin is None:
                made = self._admins.take()
                self._admin = self._new_admin() if made is None else made
            return self._admin

    def _new_admin(self) -> Any:
        return self._make(KafkaAdminClient, **self._common)

    def producer(self, **own: Any) -> Any:
        """A producer that waits for nothing, sends each record at once and proves all replicas have it."""
        standard = {
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 0,
            "batch_size": _BATCH_BYTES,
            "delivery_timeout_ms": _DELIVERY_MS,
            "max_request_size": MAX_MESSAGE_BYTES,
            "max_block_ms": _REQUEST_MS,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        return self._make(KafkaProducer, **self._common, **(standard | dict(self._settings.producer) | own))

    def producer_of(self, topic: str) -> Any:
        """A producer that knows this topic, which must exist."""
        producer = self.producer()
        try:
            with translated(f"{self.where}/{topic}"):
                producer.partitions_for(topic)
        except KeepstreamError:
            close_producer(producer)
            raise
        return producer

    def expect_reader(self, find_topic: Callable[[], str | None]) -> None:
        """Make a consumer in the background, unless one is kept, and the admin client. `find_topic`: asks for
        the name of the topic that will be read; None: there is none yet."""
        if self._admin is None:
            self._admins.begin()
        self._find_topic = find_topic
        self._consumers.begin()

    def consumer(self) -> Any:
        """A consumer without group, which never chooses an offset by itself (P12), for who assigns it anew.
        `give_back` it, or close it: making one takes 40 ms, and capture starts by reading the end thrice."""
        kept = self._consumers.take()
        return self._new_consumer() if kept is None else kept

    def _expected_consumer(self) -> Any:
        """One that asks for its topic's metadata at once, not only when it is first read from. For those of a
        missing topic it would ask a hundred times a second."""
        consumer = self._new_consumer()
        with contextlib.suppress(KeepstreamError):
            topic = self._find_topic()
            if topic is not None:
                consumer.assign([TopicPartition(topic, 0)])
        return consumer

    def _new_consumer(self) -> Any:
        standard = {
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "check_crcs": True,
            "fetch_max_wait_ms": min(_FETCH_WAIT_MS, self._common["request_timeout_ms"] // 2),
            "max_partition_fetch_bytes": _FETCH_BYTES,
            "fetch_max_bytes": _FETCH_BYTES,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        return self._make(KafkaConsumer, **self._common, **(standard | dict(self._settings.consumer)))

    def give_back(self, consumer: Any) -> None:
        """It answered when it was last asked. Until somebody takes it, it works in its own thread again."""
        consumer._net.start()
        self._consumers.give(consumer)

    def offsets(self, topic: str) -> tuple[int, int] | None:
        """The first offset kept and the one after the last; None if there is no such topic."""
        partition = TopicPartition(topic, 0)
        with translated(f"{self.where}/{topic}"):
            ask = self.admin().list_partition_offsets
            try:
                first = int(ask({partition: OffsetSpec.EARLIEST})[partition].offset)
                return first, int(ask({partition: OffsetSpec.LATEST})[partition].offset)
            except UnknownTopicOrPartitionError:
                return None

    def close(self) -> None:
        self._consumers.close()
        self._admins.close()
        with self._lock:
            if self._admin is not None:
                self._admin.close()
                self._admin = None

    def _make(self, kind: Any, **settings: Any) -> Any:
        self._check_files()
        try:
            with translated(self.where), ExitStack() as unfinished:

                def network(**own: Any) -> Any:
                    made = KafkaNetClient(**own)
                    made.cluster.config["retry_backoff_ms"] = _METADATA_PAUSE_MS
                    unfinished.callback(made.close)  # a client whose making fails leaves thread and sockets
                    return made

                client = kind(**settings, kafka_client=network)
                unfinished.pop_all()
                return client
        except (ValueError, RuntimeError) as error:  # for example a codec that is not installed
            raise ConfigError(
                f"log.client cannot be used: {error}",
                code="kafka-setting-invalid",
                hint="Correct the setting that it names.",
            ) from error

    def _check_files(self) -> None:
        """kafka-python would take a missing file for a broker that is away."""
        for word in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile"):
            path = self._common.get(word)
            if path is not None and not os.access(path, os.R_OK):
                raise ConfigError(
                    f"log.client names the file {path}, which cannot be read",
                    code="kafka-setting-invalid",
                    hint="Correct the path, or let the user that runs keepstream read the file.",
                )


def drive_yourself(consumer: Any) -> None:
    """From now on the consumer works in the thread that polls it, while that polls. Idempotent.

    By itself it works in a thread of its own, and each poll changes to that one and back twice: on busy cores
    it waits for its turn each time. Not for a consumer that still looks for its topic: that would go on only
    while it is asked.
    """
    consumer._net.stop()


def close_producer(producer: Any) -> None:
    """One that has nothing to send."""
    with contextlib.suppress(KafkaError):
        producer.close(timeout=_CLOSE_S)


def _close_admin(admin: Any) -> None:
    admin.close()


def _close_consumer(consumer: Any) -> None:
    consumer.close(timeout_ms=int(_CLOSE_S * 1000))
