"""The producer of the next epoch, made before it is needed.

To make one and have it learn of its topic takes 40 ms, nearly all of them waiting. Capture spends them on the
source.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from kafka.errors import KafkaError

from connectors.log.kafka_clients import KafkaClients
from schemas.errors import KeepstreamError

_FRESH_S = 10.0
"""A younger producer has lost no connection because of idleness."""
_CLOSE_S = 1.0


class ProducerAhead:
    """At most one producer for a topic. One thread uses it."""

    def __init__(self, clients: KafkaClients, topic: str) -> None:
        self._clients = clients
        self._topic = topic
        self._thread: threading.Thread | None = None
        self._made: tuple[Any, float] | None = None
        self._closed = False

    def begin(self) -> None:
        """Make one in the background, unless that was begun a moment ago."""
        if self._thread is not None and (self._thread.is_alive() or self._is_fresh()):
            return
        self._discard()
        self._thread = threading.Thread(target=self._make, name="log-producer", daemon=True)
        self._thread.start()

    def take(self) -> Any:
        """That producer, or a new one where it is none. Raises what making one raises."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        if self._is_fresh():
            assert self._made is not None
            producer, self._made = self._made[0], None
            return producer
        self._discard()
        return self._clients.producer()

    def close(self) -> None:
        """Idempotent. One that is still being made is closed as soon as it is there."""
        self._closed = True
        self._discard()

    def _discard(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            made[0].close(timeout=_CLOSE_S)

    def _is_fresh(self) -> bool:
        return self._made is not None and time.monotonic() - self._made[1] < _FRESH_S

    def _make(self) -> None:
        """What fails here fails again for who needs one, and is told there."""
        try:
            producer = self._clients.producer()
            self._made = producer, time.monotonic()
            producer.partitions_for(self._topic)
            if self._closed:
                self._discard()
        except (KafkaError, KeepstreamError):
            return
