"""Prepared statements through libpq's pipeline mode: sent one after the other, answered later.

psycopg's own pipeline costs more per statement than PostgreSQL does; this is the same protocol with
nothing around it. What is on its way is bounded, waiting never holds the interpreter's lock, and a
statement that fails is found by the tag that it was sent with.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import pq

from connectors.postgres.session import Session, sql_error
from schemas.errors import RetryLater

MAX_OUTSTANDING: Final = 1024
PUSH_STATEMENTS: Final = 128
PUSH_BYTES: Final = 256 * 1024
STOP_GRACE_S: Final = 5.0
_POLL_MS: Final = 250

_OK: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_READ: Final = select.POLLIN | select.POLLHUP | select.POLLERR

Count = Callable[[Any, int], None]
"""Told (tag, rows) of each statement that was sent with a tag and touched another number of rows than 1."""


@dataclass(frozen=True, slots=True)
class Uncounted:
    """A tag of a statement whose number of rows means nothing."""

    tag: Any


class StatementFailed(Exception):
    """A statement failed on the server; `tag` is what it was sent with."""

    def __init__(self, error: psycopg.Error, tag: Any) -> None:
        super().__init__(str(error.sqlstate))
        self.error = error
        self.tag = tag


class Pipe:
    """One session's pipeline. Outside of `open` … `close` the session is used as usual."""

    def __init__(self, conn: Session, *, miscounted: Count, should_stop: Callable[[], bool]) -> None:
        self._pg = conn.pgconn
        self._miscounted = miscounted
        self._should_stop = should_stop
        self._expected: deque[Any] = deque()
        self._names: dict[bytes, bytes] = {}
        self._made = 0
        self._answered = False
        self._open = False
        self._unpushed = 0
        self._unpushed_bytes = 0
        self._failure: StatementFailed | None = None
        self._poll = select.poll()

    def open(self) -> None:
        """Enter pipeline mode; nothing may be under way on the session."""
        with self._lost():
            self._pg.enter_pipeline_mode()
            self._poll.register(self._pg.socket, _READ)
        self._open = True

    def close(self) -> None:
        """Leave pipeline mode; `sync` or `drain` must have come before."""
        with self._lost():
            self._poll.unregister(self._pg.socket)
            self._pg.exit_pipeline_mode()
        self._open = False

    @property
    def is_open(self) -> bool:
        """Whether the session is in pipeline mode now."""
        return self._open

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Use the session as usual in the middle of a transaction; everything sent has been answered."""
        self.sync()
        self.close()
        yield
        self.open()

    def prepare(self, sql: bytes, tag: Any = None) -> bytes:
        """The name of the prepared statement, made now if it is not there yet; `tag` if that fails."""
        name = self._names.get(sql)
        if name is None:
            self._made += 1
            name = self._names[sql] = b"ks_%d" % self._made
            with self._lost():
                self._pg.send_prepare(name, sql)
            self._expected.append(Uncounted(tag))
        return name

    def forget(self) -> None:
        """After a failure, which may have kept statements from being prepared."""
        self._names.clear()
        self._failure = None

    @property
    def prepared(self) -> int:
        """How many statements are prepared."""
        return len(self._names)

    def run(self, sql: bytes, parameters: Sequence[bytes | None] = (), *, tag: Any) -> None:
        """Send one statement, prepared if it is new."""
        self.send(self.prepare(sql, tag), parameters, tag, 0)

    def send(
        self,
        name: bytes,
        parameters: Sequence[bytes | None],
        tag: Any,
        size_bytes: int,
        formats: Sequence[pq.Format] | None = None,
    ) -> None:
        """Send one execution of a prepared statement. `formats`: of the parameters; None: text. Raises
        StatementFailed for an earlier one, RetryLater (`connection-lost`, `stopped`)."""
        try:
            self._pg.send_query_prepared(name, parameters, formats)
        except psycopg.OperationalError as error:
            raise sql_error(error, "sending to the replica") from error
        self._expected.append(tag)
        self._unpushed += 1
        self._unpushed_bytes += size_bytes
        if self._unpushed >= PUSH_STATEMENTS or self._unpushed_bytes >= PUSH_BYTES:
            self.push()

    def sync(self) -> None:
        """Wait until everything sent has been answered. Raises StatementFailed for the first failure."""
        self.drain()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def drain(self) -> None:
        """The same without raising it; after a failure the server is ready for ROLLBACK."""
        with self._lost():
            self._pg.pipeline_sync()
        self._expected.append(_SYNC)
        self._exchange(lambda: not self._expected)
        self._unpushed = self._unpushed_bytes = 0

    def push(self) -> None:
        """Hand everything over to the network; wait while too much is unanswered."""
        with self._lost():
            self._pg.send_flush_request()
        self._unpushed = self._unpushed_bytes = 0
        most = MAX_OUTSTANDING
        self._exchange(lambda: self._pg.flush() == 0 and len(self._expected) <= most)
        if self._failure is not None:
            self.sync()

    def _exchange(self, done: Callable[[], bool]) -> None:
        waited_since = time.monotonic()
        while True:
            with self._lost():
                unsent = self._pg.flush() != 0
                self._read()
                if done():
                    return
                if self._wait(unsent):
                    waited_since = time.monotonic()
                    self._pg.consume_input()
            if self._should_stop() and time.monotonic() - waited_since > STOP_GRACE_S:
                raise RetryLater("stopped while the replica did not answer", code="stopped")

    def _wait(self, unsent: bool) -> bool:
        self._poll.modify(self._pg.socket, _READ | select.POLLOUT if unsent else _READ)
        return bool(self._poll.poll(_POLL_MS))

    def _read(self) -> None:
        pg = self._pg
        while not pg.is_busy():
            result = pg.get_result()
            if result is None:
                if not self._answered:
                    return
                self._answered = False
            else:
                self._take(result)

    def _take(self, result: pq.abc.PGresult) -> None:
        status = result.status
        tag = self._expected.popleft()
        if status == pq.ExecStatus.PIPELINE_SYNC:
            return
        self._answered = True
        if status in _OK:
            if result.command_tuples != 1 and not isinstance(tag, Uncounted) and self._failure is None:
                self._miscounted(tag, result.command_tuples or 0)
        elif status != pq.ExecStatus.PIPELINE_ABORTED and self._failure is None:
            cause = tag.tag if isinstance(tag, Uncounted) else tag
            self._failure = StatementFailed(psycopg.errors.error_from_result(result), cause)

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except psycopg.OperationalError as error:
            raise sql_error(error, "writing to the replica") from error


_SYNC: Final = object()
