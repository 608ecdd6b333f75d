"""A replication slot as SQL shows it: its state, its owner, and how much WAL it holds back.

All of it works for a LOGIN REPLICATION role, with two exceptions, where None stands for what cannot
be seen: how long the owner has been silent needs pg_read_all_stats, the size of pg_wal needs
pg_monitor. The space left on the server's disk is not visible through SQL at all.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from connectors.postgres.activity import APPLICATION_NAME_BYTES, SILENCE_LIMIT_S
from connectors.postgres.replication.walsender import PLUGIN
from connectors.postgres.session import Session, wrapped
from schemas.errors import RetryLater
from schemas.lsn import Lsn, parse_lsn

_POLL_S: Final = 0.1
_STREAM_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class SlotState:
    """One row of pg_replication_slots; None where this server's version has no such column.

    plugin, database: empty for a physical slot.
    retained_bytes: WAL that the slot keeps from being removed; None when it holds none.
    safe_wal_bytes: WAL that can still be written until the slot may be lost
        (max_slot_wal_keep_size); None: no limit, or lost already.
    wal_status: reserved, extended, unreserved (about to be lost) or lost.
    inactive_s: seconds since its owner left; None while it is active.
    read_in: the database of the session that read this.
    failover: whether standbys are to have a copy of it; synced: it is, or was made as, such a copy.
    """

    name: str
    plugin: str
    database: str
    temporary: bool
    active_pid: int | None
    restart_lsn: Lsn | None
    confirmed_flush_lsn: Lsn | None
    retained_bytes: int | None
    safe_wal_bytes: int | None
    wal_status: str
    invalidation_reason: str | None
    catalog_xmin_age: int | None
    inactive_s: float | None
    read_in: str
    failover: bool = False
    synced: bool = False

    @property
    def foreign(self) -> bool:
        """Whether it only has the name: no capture of the database that it was read in makes such a slot."""
        return (self.plugin, self.database, self.temporary) != (PLUGIN, self.read_in, False)

    @property
    def lost(self) -> bool:
        """Whether it can never be read again."""
        return self.wal_status == "lost" or self.invalidation_reason is not None


# Columns that came later are read through JSON, so that one query serves every version.
_STATE: Final = """
    select s.slot_name, coalesce(s.plugin, ''), coalesce(s.database, ''),
           s.temporary, s.active_pid, s.restart_lsn::text, s.confirmed_flush_lsn::text,
           pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                                else pg_current_wal_insert_lsn() end, s.restart_lsn)::bigint,
           s.safe_wal_size, coalesce(s.wal_status, 'lost'), to_jsonb(s) ->> 'invalidation_reason',
           age(s.catalog_xmin),
           case when not s.active then extract(
               epoch from clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)::float8 end,
           current_database()::text, coalesce((to_jsonb(s) ->> 'failover')::bool, false),
           coalesce((to_jsonb(s) ->> 'synced')::bool, false)
      from pg_replication_slots s
     where s.slot_name = %s
"""


def read_slot(session: Session, name: str) -> SlotState | None:
    """The slot `name`; None if there is none in this cluster. It may be another database's, or physical:
    names are one space, so that one stands in the way of ours, too."""
    with wrapped(f"reading slot {name}"):
        row = session.execute(_STATE, [name]).fetchone()
    if row is None:
        return None
    values: tuple[Any, ...] = (*row[:5], *map(_lsn, row[5:7]), *row[7:])
    return SlotState(*values)


def drop_slot(session: Session, name: str) -> bool:
    """Drop this database's logical slot; False if there was none: one of the same name that belongs to a
    standby or another database is left alone. RetryLater (`object-in-use`) while somebody owns it."""
    with wrapped(f"dropping slot {name}"):
        try:
            dropped = session.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                " where slot_name = %s and slot_type = 'logical' and database = current_database()",
                [name],
            )
        except psycopg.errors.UndefinedObject:
            return False
    return dropped.rowcount == 1


@dataclass(frozen=True, slots=True)
class SlotOwner:
    """Who streams from a slot. `application_name` is None if the role is not ours; `silent_s`, the
    time since its last status update by its own clock, and `heard`, which names that update, are None
    without pg_read_all_stats. `session_s`: for how long its session has been there; None as the name."""

    pid: int
    application_name: str | None
    started_at: str
    silent_s: float | None
    heard: str | None = None
    session_s: float | None = None


_OWNER: Final = """
    select a.pid, a.application_name, coalesce(a.backend_start::text, ''),
           extract(epoch from clock_timestamp() - coalesce(w.reply_time, case when w.sent_lsn is not null
                   then w.backend_start end))::float8,
           coalesce(w.reply_time, case when w.sent_lsn is not null then w.backend_start end)::text,
           extract(epoch from clock_timestamp() - a.backend_start)::float8
      from pg_replication_slots s
      join pg_stat_activity a on a.pid = s.active_pid
      left join pg_stat_replication w on w.pid = a.pid
     where s.slot_name = %s
"""


def read_owner(session: Session, slot: str) -> SlotOwner | None:
    """Who owns the slot now; None if nobody does."""
    with wrapped(f"reading the owner of slot {slot}"):
        row = session.execute(_OWNER, [slot]).fetchone()
    return None if row is None else SlotOwner(*row)


def owner_purpose(name: str, stream: bytes) -> str:
    """The `purpose` under which a stream's walsender connects, so that `terminate_owner` knows it:
    the pipeline's name and the first half of the stream's uuid, which is what fits."""
    purpose = f"{name}:{stream.hex()[:_STREAM_DIGITS]}"
    assert len(f"keepstream:{purpose}") <= APPLICATION_NAME_BYTES
    return purpose


class OwnerWatch:
    """How long an owner has been silent, by our own clock.

    The server shows when the *owner* says it wrote its last status update. If the clock over there is
    slow, an owner that answers looks silent, and two captures would end each other for ever (P4).
    `pid`: of the owner that was looked at last.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        self._seen: tuple[int, str, str | None] | None = None
        self._since = 0.0

    def silent_s(self, owner: SlotOwner) -> float | None:
        """Seconds since a look first saw its newest status update; None if those cannot be seen."""
        self.pid = owner.pid
        if owner.heard is None:
            return None
        seen = (owner.pid, owner.started_at, owner.heard)
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since


def terminate_owner(
    session: Session,
    slot: str,
    *,
    purpose: str,
    take_over: bool = False,
    watch: OwnerWatch | None = None,
    timeout_s: float = 10.0,
) -> bool:
    """End the walsender that owns the slot, if P4 lets us, and wait until the slot is free.

    It must carry this stream's application_name and have been silent for longer than 30 s, by the clock
    of `watch` if there is one; with `take_over` neither is asked. False if nobody owned it. Raises
    RetryLater: `slot-active` if it may not be ended, `slot-not-freed` if it does not go in time.
    """
    owner = read_owner(session, slot)
    if owner is None:
        return False
    silent_s = watch.silent_s(owner) if watch else owner.silent_s
    if not take_over and not _may_end(owner, purpose, silent_s):
        raise _still_owned(slot, owner, silent_s)
    with wrapped(f"ending process {owner.pid}, which owns slot {slot}"):
        session.execute(
            "select pg_terminate_backend(s.active_pid) from pg_replication_slots s"
            " join pg_stat_activity a on a.pid = s.active_pid"
            " where s.slot_name = %s and a.pid = %s and coalesce(a.backend_start::text, '') = %s",
            [slot, owner.pid, owner.started_at],
        )
    _wait_until_free(session, slot, owner, timeout_s)
    return True


def _may_end(owner: SlotOwner, purpose: str, silent_s: float | None) -> bool:
    ours = owner.application_name == f"keepstream:{purpose}"
    return ours and silent_s is not None and silent_s > SILENCE_LIMIT_S


def _still_owned(slot: str, owner: SlotOwner, silent_s: float | None) -> RetryLater:
    who = owner.application_name or "another role's session"
    silent = "" if silent_s is None else f", heard {silent_s:.0f} s ago"
    return RetryLater(
        f"slot {slot} is owned by {who} (process {owner.pid}{silent})",
        code="slot-active",
        hint="If that is a capture that should not run, stop it, or start this one with --take-over.",
    )


def _wait_until_free(session: Session, slot: str, owner: SlotOwner, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while (found := read_owner(session, slot)) is not None and found.pid == owner.pid:
        if time.monotonic() > deadline:
            raise RetryLater(
                f"process {owner.pid} was told to end but still owns slot {slot}",
                code="slot-not-freed",
                hint=f"Run as a superuser: select pg_terminate_backend({owner.pid});",
            )
        time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class WalSpace:
    """What limits the WAL that slots may hold back.

    keep_limit_bytes: max_slot_wal_keep_size; None: unlimited, so a slot can fill the disk.
    directory_bytes: size of pg_wal now; None without pg_monitor.
    insert_lsn: where the next WAL record goes; two readings give the rate of writing.
    """

    keep_limit_bytes: int | None
    directory_bytes: int | None
    insert_lsn: Lsn


_SPACE: Final = """
    select (select nullif(setting::bigint, -1) * 1024 * 1024 from pg_settings
             where name = 'max_slot_wal_keep_size'),
           pg_current_wal_insert_lsn()::text,
           has_function_privilege('pg_ls_waldir()', 'execute')
"""


def read_wal_space(session: Session) -> WalSpace:
    """The source's limits; on a primary only."""
    with wrapped("reading how much WAL may be kept"):
        row = session.execute(_SPACE).fetchone()
        assert row is not None
        limit_bytes, insert_lsn, may_list = row
        directory_bytes = _directory_bytes(session) if may_list else None
    return WalSpace(limit_bytes, directory_bytes, parse_lsn(insert_lsn))


def _directory_bytes(session: Session) -> int:
    row = session.execute("select coalesce(sum(size), 0)::bigint from pg_ls_waldir()").fetchone()
    assert row is not None
    return int(row[0])


def time_to_full_s(room_bytes: int | None, bytes_per_s: float) -> float | None:
    """Seconds until `room_bytes` are written at this rate; None: never, or not known.

    The room is `SlotState.safe_wal_bytes`, or the disk's free space where an operator knows it.
    """
    if room_bytes is None or bytes_per_s <= 0:
        return None
    seconds = max(room_bytes, 0) / bytes_per_s
    return seconds if math.isfinite(seconds) else None


def _lsn(text: str | None) -> Lsn | None:
    return None if text is None else parse_lsn(text)
