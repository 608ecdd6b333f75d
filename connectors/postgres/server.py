"""The source server and our role on it: version, settings, free slots and senders, what we may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from connectors.postgres.session import Session, wrapped
from schemas.lsn import Lsn, parse_lsn

DECODING_MEMORY_BYTES: Final = 256 * 1024 * 1024
"""logical_decoding_work_mem of a stream where nobody chose one; PostgreSQL's own default is 64 MB."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a source must have. Limits that are off are None.

    max_slot_wal_keep_bytes: None keeps all WAL a slot needs, until the disk is full.
    idle_slot_timeout_s: idle_replication_slot_timeout (PostgreSQL 18); None: never invalidates.
    slots_used and senders_used count everybody's.
    held_wal_bytes: the most WAL that a slot, whoever's, holds back now.
    decoding_memory_bytes: logical_decoding_work_mem of our stream.
    """

    version: int
    version_name: str
    in_recovery: bool
    encoding: str
    wal_level: str
    max_replication_slots: int
    slots_used: int
    max_wal_senders: int
    senders_used: int
    wal_sender_timeout_s: float | None
    max_slot_wal_keep_bytes: int | None
    held_wal_bytes: int
    idle_slot_timeout_s: float | None
    decoding_memory_bytes: int
    synchronous_standby_names: str
    synchronous_commit: str
    max_prepared_transactions: int
    session_replication_role_settable: bool

    @property
    def major(self) -> int:
        """18 for 180006."""
        return self.version // 10000


@dataclass(frozen=True, slots=True)
class Role:
    """The role that we are. `replication`: it may start a walsender, itself or through a managed
    service's role (rds_replication)."""

    name: str
    replication: bool
    creates_in_database: bool
    makes_temporary_tables: bool


_UNITS: Final = {
    "": 1.0, "B": 1.0, "kB": 1024.0, "8kB": 8192.0, "MB": 1024.0**2, "GB": 1024.0**3,
    "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip

_FACTS: Final = """
    select current_setting('server_version'), pg_is_in_recovery(),
           (select pg_encoding_to_char(encoding) from pg_database where datname = current_database()),
           (select count(*) from pg_replication_slots), (select count(*) from pg_stat_get_wal_senders()),
           (select rolsuper from pg_roles where rolname = current_user),
           (select source = 'default' from pg_settings where name = 'logical_decoding_work_mem'),
           (select coalesce(max(pg_wal_lsn_diff(
                       case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                            else pg_current_wal_insert_lsn() end, restart_lsn)), 0)::bigint
              from pg_replication_slots)
"""
_PARAMETER_PRIVILEGES_SINCE: Final = 150000  # older ones are read too: `check` says that they are too old


def read_server(session: Session) -> Server:
    """The facts of the session's server and database."""
    with wrapped("reading the server's settings"):
        facts = session.execute(_FACTS).fetchone()
        assert facts is not None
        version_name, in_recovery, encoding, slots_used, senders_used, superuser, memory_unset, held = facts
        setting = _settings(session)
        settable = superuser or _may_set_replication_role(session)
    number = setting.number
    decoding_memory = int(number("logical_decoding_work_mem"))
    return Server(
        version=session.info.server_version,
        version_name=version_name,
        in_recovery=in_recovery,
        encoding=encoding,
        wal_level=setting.text("wal_level"),
        max_replication_slots=int(number("max_replication_slots")),
        slots_used=slots_used,
        max_wal_senders=int(number("max_wal_senders")),
        senders_used=senders_used,
        wal_sender_timeout_s=number("wal_sender_timeout") or None,
        max_slot_wal_keep_bytes=_limit(number("max_slot_wal_keep_size")),
        held_wal_bytes=held,
        idle_slot_timeout_s=number("idle_replication_slot_timeout") or None,
        decoding_memory_bytes=DECODING_MEMORY_BYTES if memory_unset else decoding_memory,
        synchronous_standby_names=setting.text("synchronous_standby_names"),
        synchronous_commit=setting.text("synchronous_commit"),
        max_prepared_transactions=int(number("max_prepared_transactions")),
        session_replication_role_settable=settable,
    )


class _Settings:
    """pg_settings by name, in bytes and seconds; a name that this version does not have is 0."""

    def __init__(self, rows: dict[str, tuple[str, str]]) -> None:
        self._rows = rows

    def text(self, name: str) -> str:
        return self._rows[name][0]

    def number(self, name: str) -> float:
        value, unit = self._rows.get(name, ("0", ""))
        return -1.0 if value == "-1" else float(value) * _UNITS[unit]


def _settings(session: Session) -> _Settings:
    rows = session.execute("select name, setting, coalesce(unit, '') from pg_settings").fetchall()
    return _Settings({name: (value, unit) for name, value, unit in rows})


def _limit(value: float) -> int | None:
    return None if value < 0 else int(value)


def _may_set_replication_role(session: Session) -> bool:
    if session.info.server_version < _PARAMETER_PRIVILEGES_SINCE:
        return False
    return bool(_value(session, "select has_parameter_privilege('session_replication_role', 'set')"))


_ROLE: Final = """
    select r.rolname,
           r.rolsuper or r.rolreplication or exists (
               select from pg_roles m where m.rolname = 'rds_replication' and pg_has_role(m.oid, 'usage')),
           has_database_privilege(current_database(), 'create'),
           has_database_privilege(current_database(), 'temporary')
      from pg_roles r
     where r.rolname = current_user
"""


def read_role(session: Session) -> Role:
    """What our own role may do on this database."""
    with wrapped("reading our role"):
        row = session.execute(_ROLE).fetchone()
    assert row is not None
    return Role(*row)


def insert_lsn(session: Session) -> Lsn:
    """Where the next WAL record goes: behind everything that is committed, flushed or not (P22)."""
    with wrapped("reading the insert LSN"):
        return parse_lsn(_value(session, "select pg_current_wal_insert_lsn()::text"))


def push_log(source: Session, prefix: str) -> None:
    """Commit a transaction of one message, so that the log passes the LSN of now without waiting for a
    heartbeat. Its commit makes asynchronous ones before it durable (P22), and waits for no standby."""
    with wrapped("writing a message into the source's WAL"):
        source.execute("set synchronous_commit = local")
        source.execute("select pg_catalog.pg_logical_emit_message(true, %s::text, ''::text)", [prefix])


def current_xid(session: Session) -> int:
    """The 64 bits of the open transaction's number; it gets one here."""
    with wrapped("reading the transaction's number"):
        return int(_value(session, "select pg_current_xact_id()::text"))


def oldest_xid(session: Session) -> int:
    """The 64 bits of the oldest open transaction's number, prepared ones and other databases' counted: all
    smaller ones have ended. The session must be in autocommit."""
    with wrapped("reading the oldest open transaction's number"):
        return int(_value(session, "select pg_snapshot_xmin(pg_current_snapshot())::text"))


def _value(session: Session, query: str) -> Any:
    row = session.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]
