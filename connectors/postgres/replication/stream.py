"""The stream of one slot: a thread that owns the walsender connection, and a queue that it fills (P9).

States: new → `start` → streaming → ended (by `close`, or by an error that `read` then raises).
Invariants: only the thread touches the connection from START_REPLICATION on. It never waits for the
consumer: with a full queue it stops reading but goes on sending status updates, so that neither a
slow log nor a busy encoder lets wal_sender_timeout end the stream. Messages reach the consumer in
order, none skipped, none twice. Nothing is confirmed but what `confirm` was given.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NoReturn

import psycopg
from psycopg import pq

from connectors.postgres.replication.copydata import take_messages
from connectors.postgres.replication.walsender import (
    KEEPALIVE,
    Keepalive,
    Walsender,
    parse_keepalive,
    status_update,
    stream_error,
    xlog_data_time,
)
from schemas.errors import InternalError, KeepstreamError, RetryLater
from schemas.lsn import ZERO, Lsn

QUEUE_LIMIT_BYTES: Final = 16 * 1024 * 1024
STATUS_INTERVAL_S: Final = 0.2
"""P9 asks for at most 10. But since PostgreSQL 16 a walsender can miss the wake-up of a commit that is
flushed just as it goes to sleep; then it sends that commit when the next thing wakes it, which this is."""
_BATCH_BYTES: Final = 256 * 1024
_STATUS_PAUSE_S: Final = 0.1
_GATHER_S: Final = 0.003
_PLENTY_BYTES: Final = 128 * 1024
_FLOW_WINDOW_S: Final = 0.01
_FLOW_COUNT: Final = 60
"""With so many messages in a window the stream flows: what comes then, and in the next window, gathers before
it is read, unless the read before brought plenty. The server sends each row by itself; to be woken for each
cost both sides more than the rows."""
_SHUTDOWN_PATIENCE_S: Final = 15.0
_ECHO_S: Final = 0.25
_FINISH_S: Final = 1.0
_JOIN_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class Batch:
    """What came since the last read, in order.

    messages: pgoutput messages for the Decoder.
    wal_end: every transaction with `commit_lsn < wal_end` is in this batch or came earlier, so it is
        the LSN of a heartbeat when nothing is open (P9). ZERO until the server said it.
    reply_requested: the server asked for an answer after these messages. When it shuts down it does
        so until `wal_end` is confirmed: write the heartbeat now.
    server_time: when the server sent the newest of it, µs since 1970 UTC; 0 if nothing came.
    """

    messages: list[bytes] = field(default_factory=list)
    bytes: int = 0
    wal_end: Lsn = ZERO
    reply_requested: bool = False
    server_time: int = 0

    def extend(self, later: Batch) -> None:
        """Take over what came right after."""
        self.messages += later.messages
        self.bytes += later.bytes
        self.wal_end = max(self.wal_end, later.wal_end)
        self.reply_requested |= later.reply_requested
        self.server_time = later.server_time or self.server_time


class SlotStream:
    """Streams a slot. One consumer thread calls `read` and `confirm`."""

    def __init__(
        self,
        walsender: Walsender,
        *,
        slot: str,
        publication: str,
        start: Lsn = ZERO,
        binary: bool = False,
        queue_limit_bytes: int = QUEUE_LIMIT_BYTES,
        status_interval_s: float = STATUS_INTERVAL_S,
    ) -> None:
        """`walsender` belongs to the stream from `start()` on, closing included. `binary`: values come in
        their types' send form.

        The queue holds at most `queue_limit_bytes` and one message more, however large.
        """
        self._walsender = walsender
        self._pgconn = walsender.pgconn
        self._slot = slot
        self._publication = publication
        self._start_lsn = start
        self._binary = binary
        self._limit_bytes = queue_limit_bytes
        self._status_interval_s = status_interval_s
        self._thread = threading.Thread(target=self._run, name=f"stream {slot}", daemon=True)
        self._wake_reader = self._wake_writer = -1

        # shared with the consumer; under the condition's lock
        self._changed = threading.Condition()
        self._batches: deque[Batch] = deque()
        self._queued_bytes = 0
        self._full = False
        self._ended: KeepstreamError | None = None
        self._confirmed = ZERO
        self._closing = False
        self._closed = False
        self._delivered_wal_end = ZERO
        self._reply_wanted = False

        # the thread's own
        self._status_sent_at = 0.0
        self._status_confirmed = ZERO
        self._reply_due = False
        self._unsent = False
        self._window_at = 0.0
        self._in_window = 0
        self._flows = False
        self._echo_first_at = 0.0
        self._echo_last_at = 0.0

    # -- the consumer's side

    def start(self) -> None:
        """START_REPLICATION, then the thread. Raises what `Walsender.start_replication` raises; the
        walsender is then as it was, and a new stream can be tried with it."""
        self._walsender.start_replication(
            self._slot, self._publication, start=self._start_lsn, binary=self._binary
        )
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._pgconn.nonblocking = 1
        self._thread.start()

    def read(self, timeout_s: float) -> Batch:
        """The next messages, as soon as there is one, or a batch without any after `timeout_s`.

        About 256 KiB a call unless one message is larger. After the last message raises what ended
        the stream: RetryLater (`connection-lost`, `server-stopping`), HistoryBroken (`slot-missing`,
        `slot-invalidated`, `publication-missing`), RefusedData (`value-too-large`).
        """
        with self._changed:
            self._changed.wait_for(self._readable, timeout_s)
            if not self._batches:
                if self._ended is not None:
                    raise self._ended
                return self._empty_batch()
            batch = self._batches.popleft()
            self._queued_bytes -= batch.bytes
            self._delivered_wal_end = batch.wal_end = max(batch.wal_end, self._delivered_wal_end)
            resume = self._full and self._queued_bytes <= self._limit_bytes // 2
            if resume:
                self._full = False
        if resume:
            self._wake_thread()
        return batch

    def confirm(self, lsn: Lsn) -> None:
        """Let the server forget everything below `lsn`: call it only with what is durable (P8, P9).

        Sent within 0.1 s, then with every status update. Does nothing after the stream's end. Raises
        InternalError (`confirm-backwards`) if it goes backwards.
        """
        with self._changed:
            if lsn < self._confirmed:
                raise InternalError("a confirmed LSN went backwards", code="confirm-backwards")
            if lsn == self._confirmed:
                return
            self._confirmed = lsn
        self._wake_thread()

    @property
    def confirmed_lsn(self) -> Lsn:
        """What `confirm` was last given; 0 until then."""
        return self._confirmed

    @property
    def queued_bytes(self) -> int:
        """How much waits for the consumer."""
        return self._queued_bytes

    def close(self) -> None:
        """Send what was confirmed, end the stream and the connection. Idempotent."""
        if self._closed:
            return
        if self._thread.ident is not None:
            self._closing = True
            self._wake_thread()
            self._thread.join(_JOIN_TIMEOUT_S)
            if self._thread.is_alive():
                return  # a daemon; its connection goes with the process
            os.close(self._wake_reader)
            os.close(self._wake_writer)
        self._closed = True
        self._walsender.close()

    def __enter__(self) -> SlotStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _readable(self) -> bool:
        return bool(self._batches) or self._ended is not None or self._reply_wanted

    def _empty_batch(self) -> Batch:
        reply_wanted, self._reply_wanted = self._reply_wanted, False
        return Batch(wal_end=self._delivered_wal_end, reply_requested=reply_wanted)

    def _wake_thread(self) -> None:
        if self._wake_writer < 0 or self._closed:
            return
        try:
            os.write(self._wake_writer, b"\0")
        except BlockingIOError:
            pass  # it is awake already

    # -- the thread's side

    def _run(self) -> None:
        ended: KeepstreamError = InternalError("the stream's thread died", code="stream-died")
        try:
            while not self._closing:
                self._step()
            self._finish()
            ended = RetryLater("the stream was closed", code="stream-closed")
        except psycopg.Error as exc:
            ended = stream_error(exc, self._slot)
            ended.__cause__ = exc
        except KeepstreamError as exc:
            ended = exc
        finally:
            self._walsender.close()  # frees the slot
            with self._changed:
                self._ended = ended
                self._changed.notify_all()

    def _step(self) -> None:
        self._send_status_if_due()
        size_bytes = 0 if self._full else self._receive()
        if not size_bytes:
            self._wait()
        elif size_bytes < _PLENTY_BYTES:
            self._gather()

    def _receive(self) -> int:
        """Take what came, about 256 KiB at most; hand it over. How much there was.

        Reads without asking poll() first: that would give up the GIL for each 16 KiB.
        """
        batch = Batch()
        length = 1
        before = -1
        while length >= 0 and before < batch.bytes < _BATCH_BYTES:
            before = batch.bytes
            self._pgconn.consume_input()
            length = self._take_parsed(batch)
        arrived = bool(batch.messages) or bool(batch.wal_end)
        self._in_window += len(batch.messages)
        if arrived:
            self._hand_over(batch)
        if length < 0:
            self._raise_end()
        return batch.bytes or int(arrived)

    def _gather(self) -> None:
        """Let a stream that flows bring more before it is read again."""
        now = time.monotonic()
        age_s = now - self._window_at
        if age_s > _FLOW_WINDOW_S:
            self._flows = self._in_window >= _FLOW_COUNT and age_s < 2 * _FLOW_WINDOW_S
            self._window_at, self._in_window = now, 0
        if self._flows or self._in_window >= _FLOW_COUNT:
            time.sleep(_GATHER_S)

    def _take_parsed(self, batch: Batch) -> int:
        """Move the messages that libpq holds whole to the batch, until it is full. Returns what
        get_copy_data said last: 0, more will come; less, the stream has ended."""
        length = 1
        while length > 0 and batch.bytes < _BATCH_BYTES:
            room_bytes = _BATCH_BYTES - batch.bytes
            length, data, size, header = take_messages(self._pgconn.get_copy_data, batch.messages, room_bytes)
            batch.bytes += size
            if header:
                batch.server_time = xlog_data_time(header)
            if length > 0 and data is not None:
                self._take_other(data, batch)
        return length

    def _take_other(self, data: memoryview, batch: Batch) -> None:
        if data[0] != KEEPALIVE:
            raise InternalError(f"CopyData of unknown kind {chr(data[0])!r}", code="walsender-unknown")
        self._heed(parse_keepalive(data), batch)

    def _heed(self, keepalive: Keepalive, batch: Batch) -> None:
        batch.wal_end = keepalive.wal_end
        if keepalive.reply_requested:
            batch.reply_requested = True
            self._reply_due = True
            self._watch_for_shutdown(keepalive)

    def _watch_for_shutdown(self, keepalive: Keepalive) -> None:
        """A server that shuts down asks again after every answer, until `wal_end` is confirmed, and
        does not end before. If that goes on, e.g. because the log is away, leave it: it comes again."""
        now = time.monotonic()
        if now - self._status_sent_at > _ECHO_S or self._confirmed >= keepalive.wal_end:
            self._echo_last_at = 0.0
            return
        if now - self._echo_last_at > 1.0:
            self._echo_first_at = now
        self._echo_last_at = now
        if now - self._echo_first_at > _SHUTDOWN_PATIENCE_S:
            raise RetryLater("the source is shutting down", code="server-stopping")

    def _hand_over(self, batch: Batch) -> None:
        with self._changed:
            last = self._batches[-1] if self._batches else None
            if last is None:
                if batch.messages:
                    self._batches.append(batch)
                else:
                    self._delivered_wal_end = max(self._delivered_wal_end, batch.wal_end)
                    self._reply_wanted |= batch.reply_requested
            elif last.bytes + batch.bytes <= _BATCH_BYTES:
                last.extend(batch)
            else:
                self._batches.append(batch)
            self._queued_bytes += batch.bytes
            self._full = self._queued_bytes >= self._limit_bytes
            self._changed.notify_all()

    def _send_status_if_due(self) -> None:
        if self._unsent:
            self._unsent = self._pgconn.flush() == 1
        if self._unsent or self._status_due_in_s() > 0:
            return
        confirmed = self._confirmed
        if self._pgconn.put_copy_data(status_update(confirmed, now=time.time_ns() // 1000)) == 1:
            self._reply_due = False
            self._status_confirmed = confirmed
            self._status_sent_at = time.monotonic()
        self._unsent = self._pgconn.flush() == 1

    def _status_due_in_s(self) -> float:
        hurry = self._reply_due or self._confirmed != self._status_confirmed
        pause_s = min(_STATUS_PAUSE_S, self._status_interval_s) if hurry else self._status_interval_s
        return self._status_sent_at + pause_s - time.monotonic()

    def _wait(self) -> None:
        """Until the socket has something for us, a status update is due or the consumer calls."""
        poll = select.poll()
        poll.register(self._wake_reader, select.POLLIN)
        events = (0 if self._full else select.POLLIN) | (select.POLLOUT if self._unsent else 0)
        if events:
            poll.register(self._pgconn.socket, events)
        timeout_s = self._status_interval_s if self._unsent else max(self._status_due_in_s(), 0.0)
        for descriptor, _ in poll.poll(timeout_s * 1000 + 1):
            if descriptor == self._wake_reader:
                os.read(self._wake_reader, 4096)

    def _raise_end(self) -> NoReturn:
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
        raise RetryLater("the source ended the stream, it is shutting down", code="server-stopping")

    def _finish(self) -> None:
        """Say what was confirmed, then end the stream; do not wait long for the server to agree."""
        self._pgconn.put_copy_data(status_update(self._confirmed, now=time.time_ns() // 1000))
        self._pgconn.put_copy_end()
        deadline = time.monotonic() + _FINISH_S
        while time.monotonic() < deadline:
            unsent = self._pgconn.flush() == 1
            self._pgconn.consume_input()
            length = 1
            while length > 0:
                length, _ = self._pgconn.get_copy_data(1)
            if length < 0:
                return
            poll = select.poll()
            poll.register(self._pgconn.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
            poll.poll(_FINISH_S * 1000)
