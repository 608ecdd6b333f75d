"""COPY and simple queries on libpq itself, for sessions that must not block: one COPY from a source session
into a replica session, streamed with bounded memory, and the steps that it is made of.

psycopg's copy objects cost a Python frame per row on both sides; here the rows that the server sends
are handed on in chunks. Nothing blocks for longer than `_WAIT_S` without calling `tick`, so that a
copy can be stopped by an exception from there. After an exception of `stream_…` both sessions are in the
middle of something: the caller closes them.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Final

from psycopg import errors, pq
from psycopg.abc import Buffer
from psycopg.pq.abc import PGconn, PGresult

from connectors.postgres.session import Session
from schemas.errors import Divergence, RetryLater

_CHUNK_BYTES: Final = 256 * 1024
_PIECE_BYTES: Final = 4 * 1024 * 1024
_WAIT_S: Final = 0.25
_AWAKE_S: Final = 5.0
_BINARY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_BINARY_END: Final = b"\xff\xff"

Tick = Callable[[int, int], None]
"""Called with rows and bytes that moved since the last call, at least every `_WAIT_S` (then 0, 0)."""


def stream_copy(source: Session, target: Session, *, read: str, write: str, tick: Tick) -> int:
    """Run `read` (COPY … TO STDOUT) on source into `write` (COPY … FROM STDIN) on target.

    Returns the rows that both servers counted. Raises psycopg.Error as the servers do, and
    Divergence (`copy-rows-differ`) if the replica kept another number of rows than it was sent.
    """
    reader, writer = source.pgconn, target.pgconn
    _start(writer, write, pq.ExecStatus.COPY_IN, tick)
    _start(reader, read, pq.ExecStatus.COPY_OUT, tick)
    _pump(reader, writer, tick)
    sent = _finish(reader, tick)
    writer.put_copy_end()
    require_all(sent, _finish(writer, tick))
    return sent


def require_all(sent: int, kept: int) -> None:
    """Raises Divergence (`copy-rows-differ`) if the replica kept another number of rows than it was sent."""
    if sent != kept:
        raise Divergence(
            f"the replica kept {kept} of {sent} copied rows",
            code="copy-rows-differ",
            hint="Look for a trigger or rule on the replica's table that drops or adds rows, and drop it.",
        )


def _pump(reader: PGconn, writer: PGconn, tick: Tick) -> None:
    chunk, rows = bytearray(), 0
    get_copy_data = reader.get_copy_data
    while True:
        length, row = get_copy_data(1)
        if 0 < length < _CHUNK_BYTES:
            chunk += row
            rows += 1
            if len(chunk) < _CHUNK_BYTES:
                continue
        elif length == 0:
            _wait(reader, select.POLLIN, tick)
            continue
        if chunk:
            _put(writer, chunk, tick)
            tick(rows, len(chunk))
            chunk, rows = bytearray(), 0
        if length < 0:
            return
        if length >= _CHUNK_BYTES:
            _put(writer, row, tick)
            tick(1, length)
        del row  # of a large one, or the next one would stand beside it


def _put(writer: PGconn, data: bytearray | memoryview, tick: Tick) -> None:
    """In pieces: libpq keeps a copy of what it is given at once."""
    for start in range(0, len(data), _PIECE_BYTES):
        writer.put_copy_data(data[start : start + _PIECE_BYTES])
        _flush(writer, tick)


def stream_in_chunks(
    source: Session, target: Session, *, read: str, write: str, binary: bool, tick: Tick
) -> int:
    """`stream_copy` by one COPY FROM STDIN for each `_CHUNK_BYTES` (a longer row has one of its own), all in
    the target's open transaction. `binary`: the format of both statements.

    None of them waits for the source, or for us: under the target's `statement_timeout` and
    `idle_in_transaction_session_timeout` its locks end even if this process is frozen. While the source keeps
    us waiting the target's session is kept awake.
    """
    reader = source.pgconn
    chunks = _Chunks(target, write, binary=binary, tick=tick)
    _start(reader, read, pq.ExecStatus.COPY_OUT, chunks.tick)
    get_copy_data = reader.get_copy_data
    while True:
        length, row = get_copy_data(1)
        if length > 0:
            chunks.add(row)
        elif length == 0:
            _wait(reader, select.POLLIN, chunks.tick)
        else:
            break
    kept = chunks.finish()
    sent = _finish(reader, tick)
    require_all(sent, kept)
    return sent


class _Chunks:
    """What goes to the target: while it takes one chunk the next one is gathered."""

    def __init__(self, target: Session, write: str, *, binary: bool, tick: Tick) -> None:
        self._target = target
        self._write = write
        self._tick = tick
        self._binary = binary
        self._has_begun = False
        self._chunk = bytearray()
        self._rows = 0
        self._kept = 0
        self._is_taking = False
        self._used_at = time.monotonic()

    def add(self, row: Buffer) -> None:
        """One message of the source."""
        if self._binary:
            row = self._without_frame(row)
            if not row:
                return
        self._chunk += row
        self._rows += 1
        if len(self._chunk) >= _CHUNK_BYTES:
            self._send()

    def _without_frame(self, row: Buffer) -> bytes:
        """In binary the first message has a header before its row, and the last one is the end."""
        content = bytes(row)
        if not self._has_begun:
            self._has_begun = True
            content = content[len(_BINARY_HEADER) :]
        return b"" if content == _BINARY_END else content

    def tick(self, rows: int, size: int) -> None:
        """For whoever waits for the source."""
        self._tick(rows, size)
        if time.monotonic() - self._used_at > _AWAKE_S:
            self._settle()
            run_query(self._target, "select", self._tick)
            self._used_at = time.monotonic()

    def finish(self) -> int:
        """The rows that the target has taken."""
        if self._chunk:
            self._send()
        self._settle()
        return self._kept

    def _send(self) -> None:
        self._settle()
        chunk = _BINARY_HEADER + self._chunk + _BINARY_END if self._binary else self._chunk
        send_rows(self._target.pgconn, self._write, chunk, self._tick)
        self._is_taking, self._used_at = True, time.monotonic()
        self._tick(self._rows, len(chunk))
        self._chunk, self._rows = bytearray(), 0

    def _settle(self) -> None:
        if self._is_taking:
            self._is_taking = False
            results = finish_query(self._target.pgconn, self._tick)
            self._kept += sum(each.command_tuples or 0 for each in results)


def run_query(conn: Session, query: str, tick: Tick) -> list[PGresult]:
    """Run a simple query while `tick` is called, for statements that wait for others."""
    send_query(conn.pgconn, query, tick)
    return finish_query(conn.pgconn, tick)


def send_query(pgconn: PGconn, query: str, tick: Tick) -> None:
    """Send a simple query; `finish_query` waits for it."""
    pgconn.send_query(query.encode())
    _flush(pgconn, tick)


def finish_query(pgconn: PGconn, tick: Tick) -> list[PGresult]:
    """The results of a query, or of a COPY that `send_rows` ended. Raises psycopg.Error for a failure."""
    _flush(pgconn, tick)
    results = []
    while (result := _result(pgconn, tick)) is not None:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            _drain(pgconn, tick)
            raise errors.error_from_result(result)
        results.append(result)
    return results


def send_rows(pgconn: PGconn, query: str, rows: Buffer, tick: Tick) -> None:
    """A whole COPY … FROM STDIN; `finish_query` waits until the server has taken the rows."""
    _start(pgconn, query, pq.ExecStatus.COPY_IN, tick)
    pgconn.put_copy_data(rows)
    pgconn.put_copy_end()
    _flush(pgconn, tick)


def _start(pgconn: PGconn, query: str, expected: pq.ExecStatus, tick: Tick) -> None:
    send_query(pgconn, query, tick)
    result = _result(pgconn, tick)
    if result is None:
        raise _lost()
    if result.status != expected:
        _drain(pgconn, tick)
        raise errors.error_from_result(result)


def _finish(pgconn: PGconn, tick: Tick) -> int:
    """The row count of a COPY's command tag."""
    _flush(pgconn, tick)
    result = _result(pgconn, tick)
    if result is None:
        raise _lost()
    _drain(pgconn, tick)
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise errors.error_from_result(result)
    return result.command_tuples or 0


def _result(pgconn: PGconn, tick: Tick) -> PGresult | None:
    while pgconn.is_busy():
        _wait(pgconn, select.POLLIN, tick)
    return pgconn.get_result()


def _drain(pgconn: PGconn, tick: Tick) -> None:
    while _result(pgconn, tick) is not None:
        pass


def _flush(pgconn: PGconn, tick: Tick) -> None:
    while pgconn.flush():
        _wait(pgconn, select.POLLIN | select.POLLOUT, tick)


def _wait(pgconn: PGconn, events: int, tick: Tick) -> None:
    """Wait for the socket; reading what came also notices a lost connection."""
    poll = select.poll()
    poll.register(pgconn.socket, events)
    ready = poll.poll(_WAIT_S * 1000)
    if not ready:
        tick(0, 0)
    elif ready[0][1] & ~select.POLLOUT:
        pgconn.consume_input()


def _lost() -> RetryLater:
    return RetryLater("a session ended in the middle of a copy", code="connection-lost")
