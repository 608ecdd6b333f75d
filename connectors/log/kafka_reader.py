"""Reads the log's partition from one offset on.

A place is an offset. The reader never lets Kafka choose another one (P12): what is out of range is
trimmed (below) or another log (above), and says so.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from kafka import TopicPartition
from kafka.errors import (
    CorruptRecordError,
    KafkaError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from connectors.interfaces import Record
from connectors.log.kafka_clients import KafkaClients, drive_yourself
from connectors.log.kafka_errors import kafka_error, log_damaged, log_missing
from connectors.log.kafka_topic import find_topic_id
from schemas.errors import BEGIN_ANEW, HistoryBroken, KeepstreamError, PlaceTrimmed

# Until a consumer has the topic's metadata, it sleeps through each poll: short ones, shorter while it is new.
# Whose poll brought records has it; and each poll of an idle log costs processor time.
_SLICE_S = 0.25
_LONG_SLICE_S = 1.0
_FIRST_SLICES = ((0.06, 0.005), (0.5, 0.025))
_MAX_RECORDS = 500
# How often Kafka is asked whether it is there, and the topic still the one we know.
_IDENTITY_S = 5.0
# A client that waited so long for nothing, though there are records, will not bring them: another one may.
# Requests of its own fail sooner.
_STANDS_STILL_S = 30.0

logger = logging.getLogger("keepstream.log")


class KafkaReader:
    """A `LogReader` of one topic."""

    def __init__(self, clients: KafkaClients, topic: str, place: int | None) -> None:
        self._clients = clients
        self._topic = topic
        self._partition = TopicPartition(topic, 0)
        self._where = f"{clients.where}/{topic}"
        self._topic_id = ""
        self._identity_checked = 0.0
        self._next = place
        self._begun_at = 0.0
        self._consumer: Any = None
        self._answered = False
        self._has_read = False
        self._waited_s = 0.0

    def read(self, timeout_s: float) -> list[Record]:
        """See `LogReader.read`."""
        deadline = time.monotonic() + timeout_s
        if self._consumer is None:
            self._begin()
        while True:
            self._check_identity()  # before the poll: what was polled must be returned
            self._check_client()
            records = self._poll(max(0.0, min(self._slice_s(), deadline - time.monotonic())))
            if records:
                return records
            if time.monotonic() >= deadline:
                return []

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        if self._answered:
            self._clients.give_back(consumer)
        else:
            consumer.close(timeout_ms=1000)

    def _begin(self) -> None:
        topic_id = find_topic_id(self._clients, self._topic)
        if topic_id is None:
            raise log_missing(self._where)
        self._topic_id, self._identity_checked = topic_id, time.monotonic()
        if self._next is None:
            self._next = self._bounds()[0]
        self._consumer = self._clients.consumer()
        self._consumer.assign([self._partition])
        self._consumer.seek(self._partition, self._next)
        self._begun_at = time.monotonic()

    def _slice_s(self) -> float:
        if self._has_read:
            return _LONG_SLICE_S
        age_s = time.monotonic() - self._begun_at
        return next((slice_s for until_s, slice_s in _FIRST_SLICES if age_s < until_s), _SLICE_S)

    def _poll(self, timeout_s: float) -> list[Record]:
        self._answered, began_at = False, time.monotonic()
        try:
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=_MAX_RECORDS)
        except KafkaError as error:
            raise self._read_error(error) from error
        records = [
            Record(record.offset, record.offset + 1, record.value or b"")
            for record in polled.get(self._partition, ())
        ]
        if records:
            self._next, self._answered = records[-1].next_place, True
            self._has_read, self._waited_s = True, 0.0
            drive_yourself(self._consumer)
        else:
            self._waited_s += time.monotonic() - began_at
        return records

    def _read_error(self, error: KafkaError) -> KeepstreamError:
        assert self._next is not None
        if isinstance(error, CorruptRecordError):
            servers = self._clients.where.removeprefix("kafka://")
            return log_damaged(self._where, servers=servers, topic=self._topic, offset=self._next)
        if isinstance(error, (OffsetOutOfRangeError, NoOffsetForPartitionError, LogTruncationError)):
            self._check_range(self._next, self._bounds())
            return self._shortened("its records before our place were replaced")
        return kafka_error(error, self._where)

    def _bounds(self) -> tuple[int, int]:
        bounds = self._clients.offsets(self._topic)
        if bounds is None:
            raise log_missing(self._where)
        return bounds

    def _check_range(self, place: int, bounds: tuple[int, int]) -> None:
        first, end = bounds
        if place < first:
            raise PlaceTrimmed(
                f"offset {place} was trimmed from {self._where}, which begins at {first}",
                code="log-trimmed",
                hint="This replica must be copied anew: drop and create its database, then `keepstream run`.",
            )
        if place > end:
            raise self._shortened(f"it ends at offset {end}, our place is {place}")

    def _check_identity(self) -> None:
        """A topic that was deleted and made anew can be longer than our place already."""
        if time.monotonic() - self._identity_checked < _IDENTITY_S:
            return
        self._identity_checked = time.monotonic()
        topic_id = find_topic_id(self._clients, self._topic)
        if topic_id is None:
            raise log_missing(self._where)
        if topic_id != self._topic_id:
            raise self._recreated("its topic id has changed")

    def _check_client(self) -> None:
        """A client that brings nothing, and no error either, would let its reader wait for ever."""
        if self._waited_s < _STANDS_STILL_S:
            return
        self._waited_s = 0.0
        assert self._next is not None
        if self._bounds()[1] > self._next:
            logger.warning("a Kafka client stands still: another one reads on", extra={"offset": self._next})
            self.close()
            self._begin()

    def _shortened(self, seen: str) -> HistoryBroken:
        return self._recreated(
            seen,
            hint="It was deleted and made anew, or a broker without its end became leader: if another broker"
            f" has the end, let that one lead. If there is none, {BEGIN_ANEW}.",
        )

    def _recreated(self, seen: str, *, hint: str = "") -> HistoryBroken:
        return HistoryBroken(
            f"{self._where} is not the log that was read before: {seen}",
            code="log-recreated",
            hint=hint or f"A topic that was deleted cannot be brought back: {BEGIN_ANEW}.",
        )
