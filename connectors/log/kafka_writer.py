"""Appends the records of one epoch to the log's partition and proves each to be ours (P8).

An acknowledgement alone proves nothing. Offsets of a partition that is neither compacted nor written in
transactions are contiguous, so a record counts only if its offset is the one after our previous record,
counted from our CAPTURE_START. What others wrote between is read: if every reader ignores it, we go on.
And it counts only if the topic is still the one it was: its id is asked for after the acknowledgement.

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
from connectors.log.kafka_topic import find_topic_id
from connectors.log.limits import refuse_oversized
from schemas.errors import InternalError, KeepstreamError, LogFenced, OperatorNeeded, RetryLater

PACE_S = 0.006
MAX_IN_FLIGHT_RECORDS = 32
MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024
_GAP_READ_S = 10.0
_BEGIN_S = 60.0
_WAIT_S = 1.0
_PROOF_EVERY_S, _PROOF_SOON_S = 0.25, 0.05
"""While many records come, and when all have been acknowledged."""
_POLL_S = 0.01
_PROOF_SHARE = 0.05
"""Of the time may be spent on asking for the topic's id, whose answer the writer waits for."""
_TOPIC_PROOF_S = 60.0
_SILENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class _Sent:
    future: Any
    size: int
    sent_at: float


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
        self._contiguous = 0
        self._durable = 0
        self._reported = 0
        self._appended_at = 0.0
        self._topic_checked_at = 0.0
        self._topic_check_s = 0.0
        self._unproven_since = 0.0
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

    @property
    def start_place(self) -> int:
        return self._start

    @property
    def pace_s(self) -> float:
        return PACE_S

    def append(self, record: bytes, *, boundary: bool = False) -> None:
        """See `LogWriter.append`. `boundary` means nothing here: a reader can begin at any offset."""
        refuse_oversized(record)
        while self._is_full():
            self._wait(self._in_flight[0].future, _WAIT_S)
            self._settle()
        if self._error is not None:
            raise self._error
        self._appended_at = time.monotonic()
        self._in_flight.append(_Sent(self._send(record), len(record), self._appended_at))
        self._in_flight_bytes += len(record)
        failpoint("log.sent")

    def is_idle(self, timeout_s: float) -> bool:
        """See `LogWriter.is_idle`."""
        if not self._in_flight:
            return True
        newest = self._in_flight[-1].future
        if not newest.is_done and timeout_s > 0:
            self._wait(newest, timeout_s)
        return bool(newest.is_done)

    def durable(self, timeout_s: float) -> int:
        """See `LogWriter.durable`."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._settle()
            self._prove_topic()
            left_s = deadline - time.monotonic()
            if self._durable > self._reported or self._error is not None or left_s <= 0:
                break
            if self._contiguous > self._durable:
                time.sleep(min(left_s, _POLL_S))
            elif self._in_flight:
                self._wait(self._in_flight[0].future, left_s)
            else:
                time.sleep(left_s)
        if self._durable == self._reported and self._error is not None:
            raise self._error
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

    def _wait(self, future: Any, timeout_s: float) -> None:
        """Until a record in flight has its answer, at most `timeout_s`."""
        try:
            future.get(timeout=timeout_s)
        except KafkaError:
            pass  # `_settle` looks at the future itself

    def _settle(self) -> None:
        """Count the answered records at the front, as long as their offsets are contiguous."""
        while self._error is None and self._in_flight and self._in_flight[0].future.is_done:
            sent = self._in_flight.popleft()
            self._in_flight_bytes -= sent.size
            failpoint("log.acknowledged")
            try:
                self._check_offset(sent.future)
            except KeepstreamError as error:
                self._give_up(error)
                return
            if self._contiguous == self._durable:
                self._unproven_since = time.monotonic()
            self._contiguous += 1
        if self._error is None and self._in_flight:
            self._refuse_silence(self._in_flight[0])

    def _refuse_silence(self, oldest: _Sent) -> None:
        """The producer's own time limit has been seen to pass unnoticed."""
        limit_s = self._producer.config["delivery_timeout_ms"] / 1000 + _SILENCE_S
        if time.monotonic() - oldest.sent_at > limit_s:
            self._give_up(self._fenced(f"no answer for {limit_s:.0f} s", "log-unreachable"))

    def _check_offset(self, future: Any) -> None:
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
        self._last_offset = offset

    def _prove_topic(self) -> None:
        """Contiguous offsets prove nothing in a topic that was made anew and filled to the same length.

        Asked after the records were acknowledged, but not for each: the thread waits for the answer.
        """
        now = time.monotonic()
        if self._contiguous == self._durable or now - self._topic_checked_at < self._proof_pause_s(now):
            return
        self._topic_checked_at = now
        try:
            topic_id = find_topic_id(self._clients, self._topic)
        except RetryLater as error:
            if now - self._unproven_since > _TOPIC_PROOF_S:
                self._give_up(error)
            return
        self._topic_check_s = time.monotonic() - now
        if topic_id != self._topic_id:
            self._give_up(self._fenced("the topic was deleted and made anew", "log-recreated"))
            return
        self._durable = self._contiguous

    def _proof_pause_s(self, now: float) -> float:
        """How long no proof follows another one. Where many records come, the next one is hardly ever on its
        way when the last has been acknowledged, and for each proof they all wait."""
        many_come = self._contiguous - self._durable > 1 and now - self._appended_at < _PROOF_SOON_S
        if self._in_flight or many_come:
            return _PROOF_EVERY_S
        return min(_PROOF_SOON_S, self._topic_check_s / _PROOF_SHARE)

    def _read_gap(self, first: int, end: int) -> None:
        """Offsets that others took between our records must hold what every reader ignores."""
        reader = KafkaReader(self._clients, self._topic, first)
        deadline = time.monotonic() + _GAP_READ_S
        expected = first
        try:
            while expected < end:
                records = reader.read(max(0.0, deadline - time.monotonic()))
                for record in records:
                    if expected == end:
                        break
                    if record.place != expected or not self._is_ignorable(record.value):
                        raise self._foreign(expected)
                    expected = record.next_place
                if not records and time.monotonic() > deadline:
                    raise self._foreign(expected)
        except OperatorNeeded as error:
            raise self._foreign(expected) from error
        finally:
            reader.close()

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
