"""The progress row: the only truth about where a replica stands (P13, P14, P16).

`keepstream.progress` in the replica holds one row per pipeline. Every target transaction moves it by
compare-and-set in its first statement, so data and position are committed together or not at all.

    copying    the marker of a first copy; written before any object of the target (P20)
    streaming  the replica is the committed prefix of the source that `position` names

`place` is a hint where reading the log may begin; it is verified, never trusted. `hold_at` is the
position that nothing may pass until the hold is released or expires (P16). Functions run on a
session in autocommit or inside the caller's transaction and raise what `sql_error` makes of a
failure.
"""

from __future__ import annotations

import datetime
import uuid
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from connectors.postgres.session import Session, wrapped
from schemas.errors import HistoryBroken, OperatorNeeded
from schemas.lsn import Lsn, Position, format_lsn, parse_lsn

FORMAT_VERSION: Final = 1
IN_USE: Final = "replica-in-use"
COPY_REPLACED: Final = "copy-replaced"
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)


class ReplicaState(Enum):
    """progress.state."""

    COPYING = "copying"
    STREAMING = "streaming"


class HoldKind(Enum):
    """Who holds the replica: an operator (`pause`), `--until`, or a verification (P21)."""

    PAUSE = "pause"
    UNTIL = "until"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class Hold:
    """The replica may reach `at` and not pass it; `expires` is None for a hold without end."""

    at: Lsn
    kind: HoldKind
    expires: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """One row as it was read. `hold` is None once it has expired by the replica's own clock.

    `alive`: the recorded backend exists (its applier may still be frozen or gone). `at_copy`: the position
    is still that of the first copy's snapshot. `updated_at`: when who copies or applies last wrote it.
    `awaits`: where the transaction commits whose schema changes an operator must approve first.
    """

    name: str
    stream: bytes
    position: Position
    token: uuid.UUID
    state: ReplicaState
    hold: Hold | None
    place: str
    backend_pid: int | None
    backend_start: datetime.datetime | None
    alive: bool
    updated_at: datetime.datetime
    at_copy: bool = False
    awaits: Lsn | None = None

    @property
    def logged(self) -> Lsn | None:
        """Up to where this proves the log to have gone; None: nothing came from the log yet, and a copy's
        snapshot may be newer than the log's end."""
        return None if self.at_copy else self.position.lsn


# The row is updated by every target transaction: a page of its own free space and no index on what
# changes keep those updates in place (HOT), so that the table never grows.
_INSTALL: Final = (
    """create table if not exists keepstream.progress (
        name text primary key,
        stream uuid not null,
        position pg_lsn not null,
        xid bigint not null default 0,
        commit_time timestamptz,
        token uuid not null,
        backend_pid integer,
        backend_start timestamptz,
        hold_at pg_lsn,
        hold_kind text check (hold_kind in ('pause', 'until', 'verify')),
        hold_expires timestamptz,
        state text not null check (state in ('copying', 'streaming')),
        place text not null default '',
        format_version integer not null default 1,
        updated_at timestamptz not null default now(),
        check ((hold_at is null) = (hold_kind is null))
    ) with (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0)""",
    "comment on table keepstream.progress is "
    "'Where this database stands in a Keepstream change log. Do not edit: keepstream trusts it.'",
    """create table if not exists keepstream.audit (
        id bigint generated always as identity primary key,
        at timestamptz not null default clock_timestamp(),
        name text not null,
        who text not null default session_user,
        action text not null,
        position pg_lsn,
        xid bigint,
        reason text,
        details jsonb
    )""",
    "comment on table keepstream.audit is 'What Keepstream did to this database beyond following the log.'",
)

_MAY_INSTALL: Final = """
    select coalesce(
        (select has_schema_privilege(oid, 'create') and has_schema_privilege(oid, 'usage')
           from pg_catalog.pg_namespace where nspname = 'keepstream'),
        has_database_privilege(current_database(), 'create'))
"""

_READ: Final = """
    select p.stream, p.position::text, p.xid, p.commit_time, p.token, p.state, p.place,
           p.backend_pid, p.backend_start, a.pid is not null, p.updated_at, p.format_version,
           case when p.hold_expires <= clock_timestamp() then null else p.hold_at::text end,
           p.hold_kind, p.hold_expires,
           exists (select from keepstream.audit c
                    where c.name = p.name and c.action = 'copy' and c.position = p.position),
           {awaits}
      from keepstream.progress p
      left join pg_catalog.pg_stat_activity a on a.pid = p.backend_pid and a.backend_start = p.backend_start
     where p.name = %s
"""


_AWAITS: Final = """(select w.commit_lsn::text from keepstream.schema_waits w
                         where w.name = p.name and w.decision is null and w.commit_lsn >= p.position)"""


def install(conn: Session) -> None:
    """Make schema and tables where they are missing; nothing happens if they are there."""
    with wrapped("installing keepstream.progress"):
        if _installed(conn):
            return
        with conn.transaction():
            # two pipelines may arrive at once; `create … if not exists` is not safe against that
            conn.execute("select pg_advisory_xact_lock(hashtext('keepstream.install'))")
            if not _has_schema(
                conn
            ):  # PostgreSQL asks for CREATE on the database first, whether it is or not
                conn.execute("create schema keepstream")
            for statement in _INSTALL:
                conn.execute(statement)


def may_install(conn: Session) -> bool:
    """Whether our role can make schema and tables."""
    with wrapped("looking for the schema keepstream"):
        ((may,),) = conn.execute(_MAY_INSTALL).fetchall()
    return bool(may)


def _has_schema(conn: Session) -> bool:
    return conn.execute("select to_regnamespace('keepstream') is not null").fetchall() == [(True,)]


def read(conn: Session, name: str) -> Progress | None:
    """The row of pipeline `name`, or None if row or table is missing.

    Raises OperatorNeeded (`progress-version`) for a row that a newer Keepstream wrote.
    """
    with wrapped("reading keepstream.progress"):
        if not _installed(conn):
            return None
        waits = conn.execute("select to_regclass('keepstream.schema_waits') is not null").fetchone()
        query = _READ.format(awaits=_AWAITS if waits == (True,) else "null")
        row = conn.execute(query.encode(), [name]).fetchone()
    return None if row is None else _progress(name, row)


def require(conn: Session, name: str) -> Progress:
    """`read`, or HistoryBroken (`progress-missing`)."""
    progress = read(conn, name)
    if progress is None:
        raise missing(name)
    return progress


def missing(name: str) -> HistoryBroken:
    """The error for a replica without its row."""
    return HistoryBroken(
        f"the replica has no row {name!r} in keepstream.progress, so nobody knows what it holds",
        code="progress-missing",
        hint="If no copy was made yet, start `keepstream run`. If the row was deleted, copy the replica anew:"
        " empty the database and start `keepstream run`.",
    )


def _installed(conn: Session) -> bool:
    row = conn.execute(
        "select to_regclass('keepstream.progress'), to_regclass('keepstream.audit')"
    ).fetchone()
    return row is not None and None not in row


def _progress(name: str, row: tuple[Any, ...]) -> Progress:
    (stream, position, xid, commit_time, token, state, place, pid, started, alive, updated_at) = row[:11]
    version, hold_at, hold_kind, hold_expires, at_copy, awaits = row[11:]
    if version > FORMAT_VERSION:
        raise OperatorNeeded(
            f"keepstream.progress of {name!r} has format {version}, this Keepstream knows {FORMAT_VERSION}",
            code="progress-version",
            hint="Upgrade this Keepstream to the version that wrote the row.",
        )
    return Progress(
        name=name,
        stream=stream.bytes,
        position=Position(parse_lsn(position), xid, to_microseconds(commit_time)),
        token=token,
        state=ReplicaState(state),
        hold=None if hold_at is None else Hold(parse_lsn(hold_at), HoldKind(hold_kind), hold_expires),
        place=place,
        backend_pid=pid,
        backend_start=started,
        alive=alive,
        updated_at=updated_at,
        at_copy=at_copy,
        awaits=None if awaits is None else parse_lsn(awaits),
    )


def to_microseconds(time: datetime.datetime | None) -> int:
    """µs since 1970 UTC; 0 for None."""
    return 0 if time is None else (time - _EPOCH) // _MICROSECOND


def to_timestamp(commit_time: int) -> str | None:
    """timestamptz text of µs since 1970 UTC; None for 0."""
    return None if commit_time == 0 else (_EPOCH + commit_time * _MICROSECOND).isoformat(sep=" ")


# First copy (P20).

_MARK_COPYING: Final = """
    insert into keepstream.progress as p (name, stream, position, token, state, place,
                                          backend_pid, backend_start)
    select %(name)s, %(stream)s, '0/0', %(token)s, 'copying', %(place)s, a.pid, a.backend_start
      from pg_catalog.pg_stat_activity a where a.pid = pg_backend_pid()
    on conflict (name) do update
       set stream = excluded.stream, position = excluded.position, xid = 0, commit_time = null,
           token = excluded.token, place = excluded.place, backend_pid = excluded.backend_pid,
           backend_start = excluded.backend_start, updated_at = clock_timestamp()
     where p.state = 'copying'
"""

_COMPLETE_COPY: Final = """
    update keepstream.progress
       set position = %(position)s::pg_lsn, xid = %(xid)s, commit_time = %(commit_time)s, place = %(place)s,
           state = 'streaming', backend_pid = null, backend_start = null, updated_at = clock_timestamp()
     where name = %(name)s and token = %(token)s and state = 'copying'
"""


def write_copying_marker(conn: Session, name: str, *, stream: bytes, place: str = "") -> uuid.UUID:
    """Say durably that a copy has begun and is not done; returns the token that `complete_copy` needs.

    Replaces the marker of an unfinished copy, whose token is then void. Raises OperatorNeeded
    (`replica-in-use`) if the replica is streaming.
    """
    token = uuid.uuid4()
    values = {"name": name, "stream": uuid.UUID(bytes=stream), "token": token, "place": place}
    with wrapped("writing the copying marker"), conn.transaction():
        conn.execute("set local synchronous_commit = on")
        written = conn.execute(_MARK_COPYING, values).rowcount
    if written != 1:
        raise in_use(name)
    return token


def in_use(name: str) -> OperatorNeeded:
    """The error for a copy into a replica that streams."""
    return OperatorNeeded(
        f"the replica already follows the log as {name!r}; a copy would be made over existing data",
        code=IN_USE,
        hint="To copy it anew, empty the database first (drop the schema keepstream, too).",
    )


def complete_copy(conn: Session, name: str, *, token: uuid.UUID, position: Position, place: str = "") -> None:
    """Turn the marker into a streaming row at `position`, durably, with everything written before.

    Raises OperatorNeeded (`copy-replaced`) if another copy has taken the marker over.
    """
    values = _position_values(position) | {"name": name, "token": token, "place": place}
    with wrapped("completing the copy"), conn.transaction():
        conn.execute("set local synchronous_commit = on")
        updated = conn.execute(_COMPLETE_COPY, values).rowcount
    if updated != 1:
        raise copy_replaced(name)


def copy_replaced(name: str) -> OperatorNeeded:
    """The error that ends a copy whose marker another one has taken over."""
    return OperatorNeeded(
        f"the copy of {name!r} was taken over by another one",
        code=COPY_REPLACED,
        hint="Nothing to do: `keepstream run` stands by until the newer copy is complete.",
    )


def _position_values(position: Position) -> dict[str, Any]:
    return {
        "position": format_lsn(position.lsn),
        "xid": position.xid,
        "commit_time": to_timestamp(position.commit_time),
    }


_AUDIT: Final = """
    insert into keepstream.audit (name, action, position, xid, reason, details)
    values (%s, %s, %s::pg_lsn, %s, %s, %s::jsonb)
"""


def audit(
    conn: Session,
    name: str,
    action: str,
    *,
    reason: str,
    position: Position | None = None,
    details: str = "{}",
) -> None:
    """Write down what was done; part of the caller's transaction. `details` is a JSON object."""
    lsn, xid = (None, None) if position is None else (format_lsn(position.lsn), position.xid)
    with wrapped("writing keepstream.audit"):
        conn.execute(_AUDIT, [name, action, lsn, xid, reason, details])


def remove(conn: Session, name: str) -> None:
    """Delete the row (`teardown`); schema and audit trail stay."""
    with wrapped("removing the progress row"):
        if _installed(conn):
            conn.execute("delete from keepstream.progress where name = %s", [name])
