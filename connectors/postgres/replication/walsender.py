"""A connection in walsender mode: its commands, and the CopyData messages that it streams.

The commands are PostgreSQL's replication protocol; each uses the connection alone, one at a time.
After `start_replication` the connection belongs to `stream`, beside this (P9). The functions at the end parse
and build the stream's messages and do no I/O.
"""

from __future__ import annotations

import re
import select
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import pq, sql

from connectors.postgres.server import DECODING_MEMORY_BYTES
from connectors.postgres.session import connect_replication, sql_error, wrapped
from schemas.errors import BEGIN_ANEW, HistoryBroken, KeepstreamError, RefusedData, RetryLater
from schemas.lsn import ZERO, Lsn, format_lsn, parse_lsn

PLUGIN: Final = "pgoutput"
VALUE_TOO_LARGE: Final = "value-too-large"
"""The code of the error by which a walsender ends that cannot send a row in the form that was asked for."""
TOO_LONG: Final = "invalid memory alloc|string buffer|out of memory|cannot enlarge"
"""What a server says of a value, or of a row, that is too long for it: a pattern."""
_CANCEL_WAIT_S: Final = 10.0
_SLOTS_IN_USE: Final = (
    "Each copy, verification and snapshot takes one until it has its snapshot: wait for others, drop a slot"
    " that nobody uses, or raise max_replication_slots and restart the server."
)


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """IDENTIFY_SYSTEM: which cluster this is and how far its WAL is flushed."""

    system_id: str
    timeline: int
    xlogpos: Lsn
    database: str


@dataclass(frozen=True, slots=True)
class TimelineSwitch:
    """One line of a timeline's history: timeline `parent` ended at `switch_lsn`."""

    parent: int
    switch_lsn: Lsn
    reason: str


@dataclass(frozen=True, slots=True)
class CreatedSlot:
    """A new slot. `consistent_point` is S of P17: the slot gives what has `commit_lsn >= S`, and the
    exported snapshot, if there is one, shows exactly the rest."""

    name: str
    consistent_point: Lsn
    snapshot: str | None


class Walsender:
    """One walsender connection. Not thread-safe. Raises RetryLater, LoginRefused at opening."""

    def __init__(self, conninfo: str, *, purpose: str) -> None:
        self._session = connect_replication(conninfo, purpose=purpose)

    @property
    def backend_pid(self) -> int:
        """The walsender's process on the server, for pg_blocking_pids() and pg_stat_replication."""
        return self._session.info.backend_pid

    @property
    def pgconn(self) -> pq.abc.PGconn:
        """libpq's connection, for the one thread that streams."""
        return self._session.pgconn

    def rename(self, purpose: str) -> None:
        """What the connection is for, from now on."""
        name = sql.Literal(f"keepstream:{purpose}").as_string()
        self._rows(f"set application_name = {name}", "naming a session of capture's")

    def identify_system(self) -> SystemIdentity:
        """The cluster's identity (P10); `xlogpos` is the flush position, the insert LSN may be ahead."""
        ((system_id, timeline, xlogpos, database),) = self._rows("IDENTIFY_SYSTEM", "identifying the system")
        return SystemIdentity(system_id, int(timeline), parse_lsn(xlogpos), database)

    def query(self, statement: str) -> list[tuple[str, ...]]:
        """Plain SQL, before anything is streamed; its values as text."""
        return self._rows(statement, "asking the source")

    def timeline_history(self, timeline: int) -> tuple[TimelineSwitch, ...]:
        """How `timeline` came to be, oldest switch first; timeline 1 has no history (P10)."""
        if timeline == 1:
            return ()
        rows = self._rows(f"TIMELINE_HISTORY {timeline:d}", f"reading the history of timeline {timeline}")
        return parse_timeline_history(rows[0][1])

    def create_slot(
        self,
        name: str,
        *,
        temporary: bool,
        export_snapshot: bool = False,
        failover: bool = False,
        waiting: Callable[[float], None] | None = None,
    ) -> CreatedSlot:
        """Create a logical slot for pgoutput.

        This waits until every transaction that now writes, or is prepared, has ended (P17), however
        long; no timeout of the server stops it. `waiting(seconds)` is called about once a
        second meanwhile; if it raises, the command is cancelled and nothing stays behind.
        An exported snapshot lives until the next command on this connection or its end. `failover`: standbys
        are to have a copy of it (PostgreSQL 17 on). RetryLater
        (`slot-exists`) if somebody made one of this name, or (`slots-in-use`) if none is free: those of
        snapshots come and go.
        """
        command = _create_command(
            name, temporary=temporary, export_snapshot=export_snapshot, failover=failover
        )
        with wrapped(f"creating slot {name}"):
            try:
                ((slot, point, snapshot, _),) = self._ask(command, waiting)
            except psycopg.errors.DuplicateObject as exc:
                raise RetryLater(
                    f"slot {name} has just been made by another one", code="slot-exists"
                ) from exc
            except psycopg.errors.ConfigurationLimitExceeded as exc:
                raise RetryLater(
                    f"slot {name} cannot be made: {exc.diag.message_primary}",
                    code="slots-in-use",
                    hint=_SLOTS_IN_USE,
                ) from exc
        return CreatedSlot(slot, parse_lsn(point), snapshot or None)

    def drop_slot(self, name: str) -> None:
        """Drop a slot; RetryLater (`object-in-use`) while somebody streams from it."""
        self._rows(f"DROP_REPLICATION_SLOT {_identifier(name)}", f"dropping slot {name}")

    def let_fail_over(self, name: str) -> None:
        """Let standbys have a copy of the slot (PostgreSQL 17 on); RetryLater (`slot-active`) while somebody
        streams from it."""
        try:
            self._ask(let_fail_over_command(name))
        except psycopg.Error as exc:
            raise stream_error(exc, name) from exc

    def start_replication(
        self, slot: str, publication: str, *, start: Lsn = ZERO, binary: bool = False
    ) -> None:
        """Begin to stream; returns once the server has switched to COPY BOTH.

        The server begins at the later one of `start` and the slot's confirmed_flush_lsn, *without a
        word* if that skips something: compare before. One connection owns the slot from here on
        (P4); RetryLater (`slot-active`) if another does. HistoryBroken: `slot-missing`,
        `slot-invalidated`.
        """
        self._rows(_KEEP_IN_MEMORY, "choosing the decoder's memory")
        command = start_command(slot, publication, start, binary=binary)
        try:
            result = self.pgconn.exec_(command.encode())
            if result.status != pq.ExecStatus.COPY_BOTH:
                raise psycopg.errors.error_from_result(result)
        except psycopg.Error as exc:
            raise stream_error(exc, slot) from exc

    def close(self) -> None:
        """Close the connection; a temporary slot and an exported snapshot end with it."""
        self._session.close()

    def _rows(self, command: str, doing: str) -> list[tuple[str, ...]]:
        with wrapped(doing):
            return self._ask(command)

    def _ask(self, command: str, waiting: Callable[[float], None] | None = None) -> list[tuple[str, ...]]:
        """Raises psycopg.Error, and what `waiting` raises."""
        if waiting is None:
            result = self.pgconn.exec_(command.encode())
        else:
            result = self._exec_waiting(command, waiting)
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise psycopg.errors.error_from_result(result)
        return [
            tuple((result.get_value(row, column) or b"").decode() for column in range(result.nfields))
            for row in range(result.ntuples)
        ]

    def _exec_waiting(self, command: str, waiting: Callable[[float], None]) -> pq.abc.PGresult:
        self.pgconn.send_query(command.encode())
        started = time.monotonic()
        answered = False
        try:
            while not (answered := self._answered(1.0)):
                waiting(time.monotonic() - started)
        finally:
            if not answered and self.pgconn.status == pq.ConnStatus.OK:
                self._cancel()
        return self._take_result()

    def _answered(self, timeout_s: float) -> bool:
        """Whether the whole answer arrives within the time."""
        deadline = time.monotonic() + timeout_s
        while self.pgconn.is_busy():
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0 or not select.select([self.pgconn.socket], [], [], remaining_s)[0]:
                return False
            self.pgconn.consume_input()
        return True

    def _take_result(self) -> pq.abc.PGresult:
        result = self.pgconn.get_result()
        while self.pgconn.get_result() is not None:
            pass
        if result is None:
            raise psycopg.OperationalError("the server gave no answer")
        return result

    def _cancel(self) -> None:
        """Stop the running command; if the server does not stop in time, close the connection."""
        self._session.cancel_safe(timeout=_CANCEL_WAIT_S)
        if self._answered(_CANCEL_WAIT_S):
            self._take_result()
        else:
            self.close()


def _create_command(name: str, *, temporary: bool, export_snapshot: bool, failover: bool) -> str:
    kept = "TEMPORARY " if temporary else ""
    options = f"SNAPSHOT '{'export' if export_snapshot else 'nothing'}'" + (", FAILOVER" if failover else "")
    return f"CREATE_REPLICATION_SLOT {_identifier(name)} {kept}LOGICAL {PLUGIN} ({options})"


def let_fail_over_command(name: str) -> str:
    """Of the replication protocol; no SQL function does it."""
    return f"ALTER_REPLICATION_SLOT {_identifier(name)} (FAILOVER true)"


_KEEP_IN_MEMORY: Final = f"""
    select set_config(name, '{DECODING_MEMORY_BYTES >> 10}', false)
      from pg_settings where name = 'logical_decoding_work_mem' and source = 'default'
"""  # noqa: S608 - a constant
"""Where nobody chose a value, for the server, the role, the database or in the connection's options. What is
over it goes to the source's disk, and back, before its first byte is sent (P3)."""


def start_command(slot: str, publication: str, start: Lsn, *, binary: bool = False) -> str:
    """START_REPLICATION as capture needs it: text values (pinned by the session) or, where a text would be
    too long, binary ones; whole transactions only (P3), messages for P22 and joins."""
    publications = sql.Literal(_identifier(publication)).as_string()
    form = "true" if binary else "false"
    options = f"proto_version '1', publication_names {publications}, messages 'true', binary '{form}'"
    return f"START_REPLICATION SLOT {_identifier(slot)} LOGICAL {format_lsn(start)} ({options})"


def stream_error(exc: psycopg.Error, slot: str) -> KeepstreamError:
    """The error that a failed or ended stream means."""
    said = str(exc.diag.message_primary or exc)
    seen = " ".join(said.split())
    for states, pattern, make in _STREAM_ERRORS:
        if exc.sqlstate in states and re.search(pattern, said):
            return make(seen, slot)
    return sql_error(exc, f"streaming from slot {slot}")


def _slot_active(seen: str, slot: str) -> KeepstreamError:
    return RetryLater(
        f"slot {slot} is in use: {seen}",
        code="slot-active",
        hint="If that is a capture that should not run, stop it, or start this one with --take-over.",
    )


def _slot_missing(seen: str, slot: str) -> KeepstreamError:
    return HistoryBroken(
        f"slot {slot} cannot be used: {seen}",
        code="slot-missing",
        hint=f"Changes since it was dropped are lost to the log: {BEGIN_ANEW}.",
    )


def _slot_invalidated(seen: str, slot: str) -> KeepstreamError:
    return HistoryBroken(
        f"slot {slot} was invalidated: {seen}",
        code="slot-invalidated",
        hint="The source removed WAL that the log does not have. Raise max_slot_wal_keep_size and "
        f"idle_replication_slot_timeout, then {BEGIN_ANEW}.",
    )


def _publication_missing(seen: str, slot: str) -> KeepstreamError:
    return HistoryBroken(
        f"slot {slot} cannot be decoded: {seen}",
        code="publication-missing",
        hint=f"It was dropped, so changes may be lost: {BEGIN_ANEW}.",
    )


def _value_too_large(seen: str, slot: str) -> KeepstreamError:
    return RefusedData(
        f"the source cannot send a row through slot {slot}: {seen}",
        code=VALUE_TOO_LARGE,
        hint="PostgreSQL can send a row of up to 1 GB, as text or in binary form; this one fits in neither. "
        f"Exclude its table under source.tables.exclude, then {BEGIN_ANEW}.",
    )


def _without_binary_form(seen: str, slot: str) -> KeepstreamError:
    return RefusedData(
        f"the source cannot send a row through slot {slot} in binary form: {seen}",
        code="binary-form-missing",
        hint="It came in binary form because a value close before or behind it is too large for text. Exclude"
        f" the table of one of both under source.tables.exclude, then {BEGIN_ANEW}.",
    )


_STREAM_ERRORS: Final[tuple[tuple[tuple[str, ...], str, Callable[[str, str], KeepstreamError]], ...]] = (
    (("55006",), "", _slot_active),
    (("42704",), r"^replication slot ", _slot_missing),
    (("42704",), r"^publication ", _publication_missing),
    (("55000",), r"can no longer|cannot read from|invalidated|has been removed", _slot_invalidated),
    (("58P01",), r"requested WAL segment .* has already been removed", _slot_invalidated),
    (("XX000", "54000"), TOO_LONG, _value_too_large),
    (("42883",), "", _without_binary_form),
)


def parse_timeline_history(content: str) -> tuple[TimelineSwitch, ...]:
    """A timeline history file: lines `parent<TAB>LSN<TAB>reason`, comments and blanks between."""
    switches = []
    for line in content.splitlines():
        fields = line.strip().split("\t", 2)
        if fields[0].isdecimal() and len(fields) > 1:
            reason = fields[2] if len(fields) > 2 else ""
            switches.append(TimelineSwitch(int(fields[0]), parse_lsn(fields[1]), reason))
    return tuple(switches)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


XLOG_DATA: Final = ord("w")
KEEPALIVE: Final = ord("k")
XLOG_DATA_HEADER_BYTES: Final = 25
_EPOCH_MICROSECONDS: Final = 946_684_800_000_000
_XLOG_DATA: Final = struct.Struct(">xQQq")
_KEEPALIVE: Final = struct.Struct(">xQqB")
_STATUS: Final = struct.Struct(">cQQQqB")


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Primary keepalive message. Every transaction with `commit_lsn < wal_end` was sent before it;
    `server_time` is in µs since 1970 UTC."""

    wal_end: Lsn
    server_time: int
    reply_requested: bool


def parse_keepalive(message: bytes | memoryview) -> Keepalive:
    """`k` Int64 WAL end, Int64 time, Byte reply requested. Raises struct.error."""
    wal_end, server_time, reply = _KEEPALIVE.unpack(message)
    return Keepalive(wal_end, server_time + _EPOCH_MICROSECONDS, reply == 1)


def xlog_data_time(message: bytes | memoryview) -> int:
    """When the server sent an XLogData message, in µs since 1970 UTC. Its header: `w` Int64 start,
    Int64 end, Int64 time; the payload follows."""
    server_time: int = _XLOG_DATA.unpack_from(message)[2]
    return server_time + _EPOCH_MICROSECONDS


def status_update(confirmed: Lsn, *, now: int, reply_requested: bool = False) -> bytes:
    """Standby status update: `r`, then written, flushed and applied LSN, all of them `confirmed` (P9;
    0 confirms nothing), the client's time (`now`, µs since 1970 UTC), Byte reply requested."""
    time_sent = now - _EPOCH_MICROSECONDS
    return _STATUS.pack(b"r", confirmed, confirmed, confirmed, time_sent, reply_requested)
