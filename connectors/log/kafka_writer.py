"""Appends the records of one epoch to the log's partition and proves each to be ours (P8).

An acknowledgement alone proves nothing. Offsets of a partition that is neither compacted nor written in
transactions are contiguous, so a record counts only if its offset is the one after our previous record,
counted from our CAPTURE_START. What others wrote between is read: if every reader ignores it, we go on.

States: writing → fenced (for good, at the first record that cannot be proven; its producer is thrown away).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kafka.errors import KafkaError

from connectors.failpoints import failpoint
from connectors.log.kafka_clients import KafkaClients
from connectors.log.kafka_errors import kafka_error
from connectors.log.kafka_reader import KafkaReader
from connectors.log.limits import refuse_oversized
from schemas.errors import InternalError, KeepstreamError, LogFenced, OperatorNeeded

MAX_IN_FLIGHT_RECORDS = 32
MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024
_GAP_READ_S = 10.0
_BEGIN_S = 60.0
_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class _Sent:
    future: Any
    size: int


class KafkaWriter:
    """A `LogWriter` of one topic. `begin` makes one."""

    def __init__(
        self,
        clients: KafkaClients,
        topic: str,
        producer: Any,
        *,
        topic_id: str,
        is_ignorable: Callable[[bytes], bool],
    ) -> None:
        self._clients = clients
        self._topic = topic
        self._where = f"{clients.where}/{topic}"
        self._producer = producer
        self._topic_id = topic_id
        self._is_ignorable = is_ignorable
        self._in_flight: deque[_Sent] = deque()
        self._in_flight_bytes = 0
        self._start = -1
        self._last_offset = -1
        self._durable = 0
        self._reported = 0
        self._error: KeepstreamError | None = None

    def begin(self, record: bytes) -> None:
        """Append CAPTURE_START and wait until it is there. Raises LogFenced, RetryLater."""
        future = self._send(record)
        try:
            self._start = self._last_offset = int(future.get(timeout=_BEGIN_S).offset)
        except KafkaError as error:
            raise self._give_up(self._failed(error)) from error
        if self._start < 0:
            raise self._give_up(self._fenced("the broker named no offset for CAPTURE_START", "log-no-offset"))
        self._refuse_other_topic()

    @property
    def start_place(self) -> int:
        return self._start

    def append(self, record: bytes, *, boundary: bool = False) -> None:
        """See `LogWriter.append`. `boundary` means nothing here: a reader can begin at any offset."""
        refuse_oversized(record)
        while self._is_full():
            self._wait(_WAIT_S)
            self._settle()
        if self._error is not None:
            raise self._error
        self._in_flight.append(_Sent(self._send(record), len(record)))
        self._in_flight_bytes += len(record)
        failpoint("log.sent")

    def durable(self, timeout_s: float) -> int:
        """See `LogWriter.durable`."""
        deadline = time.monotonic() + timeout_s
        self._settle()
        while self._durable == self._reported and self._error is None and self._in_flight:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            self._wait(left_s)
            self._settle()
        if self._durable == self._reported and self._error is not None:
            raise self._error
        if self._durable == self._reported and not self._in_flight:
            time.sleep(max(0.0, deadline - time.monotonic()))
        self._reported = self._durable
        return self._durable

    def close(self) -> None:
        self._error = self._error or InternalError("the log writer is closed", code="log-writer-closed")
        self._discard_producer()

    def _is_full(self) -> bool:
        full = len(self._in_flight) >= MAX_IN_FLIGHT_RECORDS or self._in_flight_bytes >= MAX_IN_FLIGHT_BYTES
        return full and self._error is None

    def _send(self, record: bytes) -> Any:
        try:
            return self._producer.send(self._topic, value=record, partition=0)
        except (KafkaError, ValueError) as error:  # ValueError: the topic is gone from the metadata
            raise self._give_up(self._failed(error)) from error

    def _wait(self, timeout_s: float) -> None:
        """Until the oldest record in flight has its answer, at most `timeout_s`."""
        try:
            self._in_flight[0].future.get(timeout=timeout_s)
        except KafkaError:
            pass  # `_settle` looks at the future itself

    def _settle(self) -> None:
        """Count the answered records at the front, as long as each is proven."""
        while self._error is None and self._in_flight and self._in_flight[0].future.is_done:
            sent = self._in_flight.popleft()
            self._in_flight_bytes -= sent.size
            failpoint("log.acknowledged")
            try:
                self._prove(sent.future)
            except KeepstreamError as error:
                self._give_up(error)
                return
            self._durable += 1

    def _prove(self, future: Any) -> None:
        if future.failed():
            raise self._failed(future.exception)
        offset = future.value.offset
        if offset <= self._last_offset:
            raise self._fenced(
                f"a record got offset {offset}, after {self._last_offset}: the topic was made anew or cut",
                "log-recreated",
            )
        if offset > self._last_offset + 1:
            self._read_gap(self._last_offset + 1, offset)
        self._refuse_other_topic()
        self._last_offset = offset

    def _read_gap(self, first: int, end: int) -> None:
        """Offsets that others took between our records must hold what every reader ignores."""
        reader = KafkaReader(self._clients, self._topic, first)
        deadline = time.monotonic() + _GAP_READ_S
        expected = first
        try:
            while expected < end:
                records = reader.read(max(0.0, deadline - time.monotonic()))
                for record in records:
                    if record.place < end and (
                        record.place != expected or not self._is_ignorable(record.value)
                    ):
                        raise self._foreign(expected)
                    expected = record.next_place
                if not records and time.monotonic() > deadline:
                    raise self._foreign(expected)
        except OperatorNeeded as error:
            raise self._foreign(expected) from error
        finally:
            reader.close()

    def _refuse_other_topic(self) -> None:
        """The producer's metadata is renewed whenever the partition it knew is gone."""
        seen = self._producer._metadata.topic_id(self._topic)
        if seen is not None and str(seen) != self._topic_id:
            raise self._fenced("the topic was deleted and made anew", "log-recreated")

    def _foreign(self, offset: int) -> LogFenced:
        return self._fenced(f"another capture wrote at offset {offset}, between our records", "log-fenced")

    def _failed(self, error: Exception) -> KeepstreamError:
        """A send that failed: whether it is in the log is unknown, and what follows it is void."""
        known = kafka_error(error, self._where)
        if isinstance(known, OperatorNeeded):
            return known
        return LogFenced(f"a record was not acknowledged: {known.message}", code=known.code, hint=known.hint)

    def _fenced(self, seen: str, code: str) -> LogFenced:
        return LogFenced(
            f"{self._where}: {seen}", code=code, hint="Nothing to do: capture begins a new epoch by itself."
        )

    def _give_up(self, error: KeepstreamError) -> KeepstreamError:
        self._error = error
        self._discard_producer()
        return error

    def _discard_producer(self) -> None:
        """Throw the producer away with all it still holds (P8): none of that may be sent any more."""
        sender = self._producer._sender
        sender.force_close()
        try:
            self._producer.close(timeout=0)
        except KafkaError:
            pass  # it gave up waiting for records that we do not want sent
