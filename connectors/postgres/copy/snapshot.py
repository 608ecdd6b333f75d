"""A snapshot of the source at a known position S (P17, P18), and what keeping it costs the source.

`export_snapshot` creates a temporary logical slot whose snapshot shows exactly the transactions with
`commit_lsn < S`. An ordinary session imports it and exports it again, and the slot is dropped: it would keep
all WAL from S on for as long as somebody reads. That session, the keeper, is held open and idle; sessions
that import the snapshot read the same rows, whatever is committed meanwhile.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import pq, sql

from connectors.postgres.failover.primary import require_same_server
from connectors.postgres.replication.walsender import SystemIdentity, Walsender
from connectors.postgres.session import Session, connect, wrapped
from schemas.errors import RetryLater
from schemas.lsn import Lsn, format_lsn


@dataclass(frozen=True, slots=True)
class Blocker:
    """An open transaction that something of ours waits for. `pid` is None for a prepared one, whose
    name is in `gid`. `age_s` is None, and `state`, of its session, empty, where our role may not see it
    (pg_read_all_stats)."""

    pid: int | None
    application: str
    user: str
    age_s: float | None
    gid: str = ""
    state: str = ""

    def __str__(self) -> str:
        age = "" if self.age_s is None else f", open for {self.age_s:.0f} s"
        if self.pid is None:
            return f"prepared transaction {self.gid!r} of {self.user}{age}"
        state = self.state and f", {self.state}"
        return f"pid {self.pid} ({self.application or 'no application_name'}, {self.user}{state}{age})"


_NAMED: Final = 5


def name_blockers(blockers: Sequence[Blocker]) -> str:
    """The first few, in one line; of those that a slot waits for they are the oldest."""
    more = [f"{len(blockers) - _NAMED} more"] if len(blockers) > _NAMED else []
    return "; ".join([*map(str, blockers[:_NAMED]), *more])


class SnapshotLost(RetryLater):
    """The keeper is gone, so that nobody can import the snapshot any more."""


class TableChanged(RetryLater):
    """Table `table` is not as the snapshot shows it: dropped, renamed, rewritten, truncated (P19)."""

    table: tuple[str, str] = ("", "")


class ExportedSnapshot:
    """An open snapshot. `lsn` is S; `name` is what importers give to SET TRANSACTION SNAPSHOT; `system`, the
    server that it is of; `pid`, the keeper's."""

    def __init__(self, keeper: Session, lsn: Lsn, name: str, system: SystemIdentity) -> None:
        self._keeper = keeper
        self.lsn = lsn
        self.name = name
        self.system = system
        self.pid = keeper.info.backend_pid
        self.taken_at = time.monotonic()

    def require_alive(self) -> None:
        """Raises SnapshotLost (`snapshot-lost`) once the keeper has ended."""
        pgconn = self._keeper.pgconn
        with contextlib.suppress(psycopg.OperationalError):
            # an idle session says nothing, so anything to read is its end
            if pgconn.status == pq.ConnStatus.OK and not select.select([pgconn.socket], [], [], 0)[0]:
                return
            pgconn.consume_input()
            if pgconn.status == pq.ConnStatus.OK:
                return
        raise snapshot_lost(str(self))

    def close(self) -> None:
        """End the keeper; the snapshot ends with it."""
        self._keeper.close()

    def __str__(self) -> str:
        return f"the source's snapshot at {format_lsn(self.lsn)}"

    def __enter__(self) -> ExportedSnapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def snapshot_lost(snapshot: str) -> SnapshotLost:
    return SnapshotLost(f"the session that holds {snapshot} has ended", code="snapshot-lost")


def export_snapshot(
    conninfo: str,
    *,
    purpose: str,
    observer: Session,
    limit_s: float,
    on_wait: Callable[[list[Blocker]], None],
) -> ExportedSnapshot:
    """Take a snapshot; it lives until it is closed, at the latest at the end of its context.

    PostgreSQL waits for every transaction that writes or is prepared (P17). Meanwhile `on_wait` is
    called about once a second with those in the way, found through `observer`; it may raise to give
    up. Raises RetryLater (`snapshot-blocked`) after `limit_s`.
    """

    def waiting(seconds: float) -> None:
        blockers = slot_blockers(observer, walsender.backend_pid)
        on_wait(blockers)
        if seconds > limit_s:
            raise _blocked(blockers, seconds)

    slot = f"keepstream_copy_{secrets.token_hex(6)}"
    with contextlib.ExitStack() as undo:
        keeper = connect(conninfo, purpose=purpose)
        undo.callback(keeper.close)
        with contextlib.closing(Walsender(conninfo, purpose=purpose)) as walsender:
            require_same_server(keeper, walsender)
            system = walsender.identify_system()
            created = walsender.create_slot(slot, temporary=True, export_snapshot=True, waiting=waiting)
            assert created.snapshot is not None
            name = keep(keeper, created.snapshot)
        undo.pop_all()
    return ExportedSnapshot(keeper, created.consistent_point, name, system)


def keep(keeper: Session, snapshot: str) -> str:
    """Hold a snapshot that another session exported; the name by which it can be imported from now on,
    whether that one goes on or not. Raises SnapshotLost (`snapshot-lost`)."""
    begin_in(keeper, snapshot)
    with wrapped("exporting the snapshot of the source"):
        return export_of(keeper)


def export_of(session: Session) -> str:
    """The name by which others can import the snapshot of its open transaction. Raises psycopg.Error."""
    ((name,),) = session.execute("select pg_catalog.pg_export_snapshot()").fetchall()
    return str(name)


def _blocked(blockers: list[Blocker], seconds: float) -> RetryLater:
    pids = [str(blocker.pid) for blocker in blockers if blocker.pid is not None]
    ends = [f"select pg_terminate_backend({pid});" for pid in pids]
    ends += [f"rollback prepared {sql.Literal(b.gid).as_string()};" for b in blockers if b.pid is None]
    named = name_blockers(blockers) or "none that we can see"
    return RetryLater(
        f"no snapshot after {seconds:.0f} s, because transactions stay open: {named}",
        code="snapshot-blocked",
        hint=f"Let them end, or end them on the source: {' '.join(ends)}".strip(),
    )


# The slot waits for one transaction after the other; all that are not younger than the one it waits
# for now are, or may come to be, in its way.
_SLOT_BLOCKERS: Final = """
    with waited as (
        select max(age(transactionid)) as age from pg_catalog.pg_locks
         where pid = %(pid)s and locktype = 'transactionid' and not granted
    )
    select a.pid, a.application_name, coalesce(a.usename, ''), a.xact_start, '', coalesce(a.state, '')
      from pg_catalog.pg_stat_activity a, waited w
     where a.backend_xid is not null and age(a.backend_xid) >= w.age and a.pid <> %(pid)s
     union all
    select null, '', p.owner, p.prepared, p.gid, ''
      from pg_catalog.pg_prepared_xacts p, waited w where age(p.transaction) >= w.age
     order by 4 nulls last
"""

_OLDER: Final = """
    select a.pid, a.application_name, coalesce(a.usename, ''), a.xact_start, '', coalesce(a.state, '')
      from pg_catalog.pg_stat_activity a
     where age(a.backend_xid) > age(%(xid)s::text::xid8::xid)
     union all
    select null, '', p.owner, p.prepared, p.gid, ''
      from pg_catalog.pg_prepared_xacts p where age(p.transaction) > age(%(xid)s::text::xid8::xid)
     order by 4 nulls last
"""

_LOCK_BLOCKERS: Final = """
    select distinct a.pid, a.application_name, coalesce(a.usename, ''), a.xact_start, '',
           coalesce(a.state, '')
      from pg_catalog.pg_stat_activity mine
     cross join lateral unnest(pg_catalog.pg_blocking_pids(mine.pid)) as blocking
      join pg_catalog.pg_stat_activity a on a.pid = blocking
     where mine.application_name = %(application)s and mine.datname = current_database()
       and a.application_name <> %(application)s
"""


def slot_blockers(observer: Session, pid: int) -> list[Blocker]:
    """The open transactions that the creation of a slot by backend `pid` waits for."""
    with wrapped("looking for open transactions"):
        return [_blocker(*row) for row in observer.execute(_SLOT_BLOCKERS, {"pid": pid})]


def older_transactions(observer: Session, xid: int) -> list[Blocker]:
    """The open transactions whose numbers are smaller than `xid` (64 bits)."""
    with wrapped("looking for open transactions"):
        return [_blocker(*row) for row in observer.execute(_OLDER, {"xid": xid})]


def lock_blockers(observer: Session, application: str) -> list[Blocker]:
    """The sessions that hold a lock which a session of `application` waits for."""
    with wrapped("looking for locks in the way"):
        return [_blocker(*row) for row in observer.execute(_LOCK_BLOCKERS, {"application": application})]


def _blocker(
    pid: int | None, application: str, user: str, since: datetime.datetime | None, gid: str, state: str
) -> Blocker:
    age_s = None if since is None else (datetime.datetime.now(datetime.UTC) - since).total_seconds()
    return Blocker(pid, application, user, age_s, gid, state)


def xmin_age(observer: Session, snapshot: ExportedSnapshot) -> int | None:
    """Since how many transactions the source keeps dead rows for the snapshot; None once it is gone."""
    with wrapped("looking at what the snapshot holds back"):
        row = observer.execute(
            "select age(backend_xmin) from pg_catalog.pg_stat_activity where pid = %s", [snapshot.pid]
        ).fetchone()
    return None if row is None else row[0]


def begin_in_snapshot(session: Session, snapshot: ExportedSnapshot) -> None:
    """Begin a read-only transaction that sees the snapshot. Raises SnapshotLost (`snapshot-lost`)."""
    begin_in(session, snapshot.name, of=str(snapshot))


def begin_in(session: Session, snapshot: str, *, of: str = "the snapshot") -> None:
    """The same by the snapshot's name. `of`: what messages call it."""
    with wrapped(f"beginning to read in {of}"):
        session.execute("begin isolation level repeatable read, read only")
        try:
            session.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        except (psycopg.ProgrammingError, psycopg.DataError) as exc:
            raise snapshot_lost(of) from exc  # 42704, 22023: no such snapshot
