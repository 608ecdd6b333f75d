"""What a primary knows of its physical standbys, and what each of them says itself.

The copies of slots that a standby keeps in step (PostgreSQL 17 on) stand there alone; the primary sees only
that a standby has some, by the catalog_xmin that it asks for through its physical slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from connectors.postgres.failover.hosts import Host
from connectors.postgres.failover.primary import started_at
from connectors.postgres.replication.slot import SlotState, read_slot
from connectors.postgres.session import Session, connect, parse_conninfo, wrapped

_ANSWERS_S: Final = 5


@dataclass(frozen=True, slots=True)
class StandbySlot:
    """A physical slot on the primary. `feedback`: its standby has hot_standby_feedback on; `copies`: it has
    copies of logical slots."""

    name: str
    active: bool
    feedback: bool
    copies: bool


@dataclass(frozen=True, slots=True)
class Standbys:
    """As the primary knows them. `awaited`: synchronized_standby_slots, without whose standbys a slot that
    can fail over hands nothing on."""

    slots: tuple[StandbySlot, ...]
    awaited: tuple[str, ...]

    @property
    def away(self) -> tuple[str, ...]:
        """Those that are awaited and not there: the stream stands still."""
        here = {slot.name for slot in self.slots if slot.active}
        return tuple(name for name in self.awaited if name not in here)


NO_STANDBYS: Final = Standbys((), ())

_SLOTS: Final = """
    select slot_name, active, xmin is not null, catalog_xmin is not null
      from pg_catalog.pg_replication_slots where slot_type = 'physical' and not temporary order by slot_name
"""


def read_standbys(session: Session) -> Standbys:
    """On the primary. Any role may."""
    with wrapped("looking at the source's standbys"):
        slots = tuple(StandbySlot(*row) for row in session.execute(_SLOTS))
        row = session.execute("select current_setting('synchronized_standby_slots', true)").fetchone()
    return Standbys(slots, _names(row[0] if row else None))


def read_timeline(session: Session) -> int | None:
    """Of a primary; None where a service has no WAL of PostgreSQL's own kind."""
    query = "select ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int"
    with wrapped("reading the source's timeline"):
        try:
            row = session.execute(query).fetchone()
        except psycopg.errors.FeatureNotSupported:
            return None
    assert row is not None
    return int(row[0])


@dataclass(frozen=True, slots=True)
class HostSeen:
    """What one server says. `started`: of this run of it, never the same on two. primary_dbname: what its
    primary_conninfo names; None where our role may not see that (pg_read_all_settings). `copy`: its copy of
    our slot."""

    in_recovery: bool
    started: str
    wal_level: str
    feedback: bool
    synchronises: bool
    primary_slot: str
    primary_dbname: str | None
    awaited: tuple[str, ...]
    copy: SlotState | None


_SETTINGS: Final = """
    select name, setting from pg_catalog.pg_settings
     where name in ('wal_level', 'hot_standby_feedback', 'sync_replication_slots', 'primary_slot_name',
                    'primary_conninfo', 'synchronized_standby_slots')
"""


def look_at_host(host: Host, *, slot: str, purpose: str) -> HostSeen:
    """Raises what `session.connect` raises."""
    soon = make_conninfo(host.conninfo, connect_timeout=_ANSWERS_S)
    with connect(soon, purpose=purpose) as session:
        with wrapped(f"looking at {host.name}"):
            row = session.execute("select pg_is_in_recovery()").fetchone()
            settings: dict[str, str] = dict(session.execute(_SETTINGS).fetchall())
        conninfo = settings.get("primary_conninfo")
        return HostSeen(
            in_recovery=bool(row and row[0]),
            started=started_at(session),
            wal_level=settings["wal_level"],
            feedback=settings["hot_standby_feedback"] == "on",
            synchronises=settings.get("sync_replication_slots") == "on",
            primary_slot=settings["primary_slot_name"],
            primary_dbname=None if conninfo is None else parse_conninfo(conninfo).get("dbname", ""),
            awaited=_names(settings.get("synchronized_standby_slots")),
            copy=read_slot(session, slot),
        )


def _names(listed: str | None) -> tuple[str, ...]:
    """Slots' names need no quotes."""
    return tuple(name for each in (listed or "").split(",") if (name := each.strip().strip('"')))
