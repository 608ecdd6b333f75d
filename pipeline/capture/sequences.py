"""Where the source's sequences stand, as the log tells it (P23).

They are not in the stream. So they are read in the background: every ten seconds, when the stream falls
silent after there was something in it, and when somebody waits. What moved goes into the log, at a place
before which everything had committed when they were read: no row before it took a later value.

A sequence that was set back, or began its cycle anew, is told later than others: once the log holds all that
was written before it was read, so that a replica that follows it back holds no row with a later value.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final

from connectors.postgres.sequences.reading import list_followed, read_values
from connectors.postgres.server import insert_lsn
from connectors.postgres.session import Session, connect, wrapped
from pipeline.background import in_background
from schemas.errors import KeepstreamError
from schemas.lsn import START, Lsn, Position
from schemas.sequence import SequenceValue

logger = logging.getLogger("keepstream.capture")

READ_EVERY_S = 10.0
SILENT_S: Final = 1.0
ASKING: Final = frozenset({"keepstream.wait", "keepstream.verify"})
"""Prefixes of messages whose senders wait for the sequences, too. Anybody may send them: they cost a read."""
PER_FRAME: Final = 1000
_PAUSE_S: Final = 0.2
_BUSIEST: Final = 0.05
"""How much of the time may be spent on reading, however often somebody asks."""
_SETTINGS: Final = "set lock_timeout = '100ms'; set statement_timeout = '5s'"


@dataclass(frozen=True, slots=True)
class Read:
    """What stood there. keys: of all that there are, some of which may be locked. `written`: the end of the
    source's WAL after it. hidden: those that our role may not read."""

    values: tuple[SequenceValue, ...]
    keys: frozenset[tuple[str, str]]
    written: Lsn
    hidden: tuple[str, ...] = ()


class SequenceReader:
    """Reads them on a session of its own, which is kept."""

    def __init__(self, source: str, publication: str, *, purpose: str) -> None:
        self._source = source
        self._publication = publication
        self._purpose = purpose
        self._session: Session | None = None

    def read(self) -> Read:
        """In any thread, in one at a time."""
        try:
            session = self._session or self._open()
            known = list_followed(session, self._publication)
            values = read_values(session, known, skip_locked=True)
            hidden = tuple(each.qualified_name for each in known if not each.readable)
            keys = frozenset(each.key for each in known)
            return Read(tuple(values), keys, insert_lsn(session), hidden)
        except KeepstreamError:
            self.close()
            raise

    def _open(self) -> Session:
        self._session = session = connect(self._source, purpose=self._purpose)
        with wrapped("preparing a session that reads sequences"):
            session.execute(_SETTINGS)
        return session

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()


class Announced:
    """What the log of this epoch has of them, and what it is to be told. Without a clock.

    A value that is behind what was told waits for the log to come to where the WAL ended when it was first
    seen there.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], SequenceValue] = {}
        self._back: dict[tuple[str, str], tuple[SequenceValue, Lsn]] = {}
        self._ahead: dict[tuple[str, str], SequenceValue] = {}
        self._again: set[tuple[str, str]] = set()

    def see(self, read: Read) -> None:
        """What was read last. A sequence that is not there any more is forgotten."""
        self._told = {key: value for key, value in self._told.items() if key in read.keys}
        self._ahead = {key: value for key, value in self._ahead.items() if key in read.keys}
        self._back = {key: value for key, value in self._back.items() if key in read.keys}
        self._again &= read.keys
        for value in read.values:
            self._see(value, read.written)

    def _see(self, value: SequenceValue, written: Lsn) -> None:
        key = value.key
        told = self._told.get(key)
        if told is None or value.passed(told):
            self._ahead[key] = value
            self._back.pop(key, None)
        elif told.passed(value):
            self._ahead.pop(key, None)
            before = self._back.get(key)
            seen_at = written if before is None or before[0].passed(value) else before[1]
            self._back[key] = replace(value, back_from=told.last_value), seen_at
        elif key in self._again:
            self._ahead[key] = value
            self._back.pop(key, None)
        else:
            self._ahead.pop(key, None)
            self._back.pop(key, None)

    def take(self, log: Lsn) -> tuple[SequenceValue, ...]:
        """What the log is to be told where it stands at `log`; it counts as told."""
        due = [*self._ahead.values()]
        due += [value for value, written in self._back.values() if written <= log]
        for value in due:
            self._told[value.key] = replace(value, back_from=None)
            self._ahead.pop(value.key, None)
            self._back.pop(value.key, None)
            self._again.discard(value.key)
        return tuple(due)

    def is_due(self, log: Lsn) -> bool:
        """Whether `take` would return anything."""
        return bool(self._ahead) or any(written <= log for _, written in self._back.values())

    def forget(self) -> None:
        """A replica has sequences that it lacked before: everything is to be told again."""
        self._again = set(self._told)


class Sequences:
    """One capture's look at the sequences. The thread that decodes calls it; it never waits for the source.

    An error is told, and tried again at the next read: sequences hold nothing else up.
    """

    def __init__(self, reader: SequenceReader, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._announced = Announced()
        self._reading: Future[Read] | None = None
        self._asked = True
        self._moved_at = clock()
        self._begun_at = self._moved_at - READ_EVERY_S
        self._took_s = 0.0
        self._position: Position = START
        self._read_position: Position = START
        self._error: str | None = None
        self.read_at: float | None = None
        self.count = 0
        self.hidden: tuple[str, ...] = ()

    def ask(self) -> None:
        """Somebody waits for what they are now."""
        self._asked = True

    def forget(self) -> None:
        """Tables joined, or a schema changed: what replicas were told before of sequences that came with that
        was in vain."""
        self._announced.forget()
        self._asked = True

    def look(self, position: Position) -> None:
        """Call it often; `position`: the log's."""
        now = self._clock()
        if position != self._position:
            self._position, self._moved_at = position, now
        if self._reading is not None:
            if not self._reading.done():
                return
            self._took_s = now - self._begun_at
            self._end(self._reading)
            self._reading = None
        if self._is_time(now):
            self._asked, self._begun_at, self._read_position = False, now, position
            self._reading = in_background(self._reader.read, name="sequences")

    def _is_time(self, now: float) -> bool:
        since_s = now - self._begun_at
        if since_s < min(READ_EVERY_S, max(_PAUSE_S, self._took_s / _BUSIEST)):
            return False
        silent = self._position.xid != self._read_position.xid and now - self._moved_at >= SILENT_S
        return self._asked or silent or since_s >= READ_EVERY_S

    def _end(self, reading: Future[Read]) -> None:
        try:
            read = reading.result()
        except KeepstreamError as error:
            if self._error != error.code:
                logger.warning("sequences not read", extra={"code": error.code, "error": error.message})
            self._error = error.code
            return
        self._error = None
        self._announced.see(read)
        self.read_at, self.count = time.time(), len(read.values)
        if read.hidden != self.hidden and read.hidden:
            logger.warning("sequences that our role may not read", extra={"sequences": _named(read.hidden)})
        self.hidden = read.hidden

    @property
    def is_reading(self) -> bool:
        return self._reading is not None

    def is_due(self, log: Lsn) -> bool:
        """Whether `take` has something for the log, which stands at `log` and inside of no transaction."""
        return self._announced.is_due(log)

    def take(self, log: Lsn) -> Iterable[tuple[SequenceValue, ...]]:
        """Values for the log, those of one frame together."""
        values = self._announced.take(log)
        return [values[start : start + PER_FRAME] for start in range(0, len(values), PER_FRAME)]

    def to_json(self) -> dict[str, object]:
        """What the stage's report says. May be called from any thread."""
        return {
            "count": self.count,
            "read_at": self.read_at,
            "hidden": len(self.hidden),
            "error": self._error,
        }

    def close(self) -> None:
        """Does not wait for a read that is under way."""
        if self._reading is None:
            self._reader.close()
        else:
            self._reading.add_done_callback(lambda _: self._reader.close())


def _named(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
