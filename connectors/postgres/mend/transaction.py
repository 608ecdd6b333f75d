"""The transaction that mends a table: what it locks, what bounds it, what proves where the replica stands.

The proof comes last: the progress row, still at S and still held there, is written by the very transaction
that wrote the rows. Positions never go back, so nobody has passed S before this commit; who waits to pass it
does so behind it. If the proof fails, nothing was done. Until then the row is free, so that holds are
prolonged, appliers replaced and `status` answered while a large table is copied.

No statement waits for our process: a server cancels a COPY of one chunk, and ends a session that is idle,
before long. So a process that is frozen keeps the replica's locks for a while only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import psycopg
from psycopg import sql

from connectors.failpoints import failpoint
from connectors.postgres.apply import statements
from connectors.postgres.apply.catalog import TargetTable, are_referred_to
from connectors.postgres.apply.joined_keys import make_keys_to
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.copystream import Tick, run_query
from connectors.postgres.copy.run import may_switch_triggers_off
from connectors.postgres.ddl import left_out
from connectors.postgres.replica import progress
from connectors.postgres.replica.hold import prove_standing
from connectors.postgres.replica.progress import HoldKind, Progress
from connectors.postgres.session import Session, notice_lost_client, wrapped
from schemas.errors import RetryLater
from schemas.identifiers import qualified
from schemas.lsn import format_lsn

IDLE_S: Final = 30
"""How long a session that holds locks may say nothing. Whoever works on keeps it awake."""
CHUNK_S: Final = 120
"""How long one chunk of rows may take to be written."""
LOCK_S: Final = 2
"""So long new readers of the replica's table queue behind us at most, before we let them pass."""
_PROOF_S: Final = 10


def prepare_session(session: Session) -> bool:
    """Set it for mending; whether triggers and foreign keys keep still in it, as they do for an applier."""
    notice_lost_client(session, within_s=1)
    replica_role = may_switch_triggers_off(session)
    with wrapped("preparing a session that mends"):
        session.execute(f"set idle_in_transaction_session_timeout = '{IDLE_S:d}s'".encode())
        session.execute("set synchronous_commit = on")
        if replica_role:
            session.execute("set session_replication_role = replica")
    return replica_role


def begin_locked(session: Session, target: TargetTable, *, truncate: bool, tick: Tick) -> bool:
    """Begin the transaction with the table locked against writers, and, if it may be emptied by TRUNCATE,
    against readers. Returns whether it may: not where a foreign key refers to it.

    Raises RetryLater (`lock-timeout`) after LOCK_S: nothing is open then; the same call may succeed later.
    """
    truncate = truncate and not are_referred_to(session, [target])
    mode = sql.SQL("access exclusive" if truncate else "share row exclusive")
    lock = sql.SQL("lock table {} in {} mode").format(statements.relation(target), mode)
    with wrapped(f"locking {target.qualified_name} on the replica"):
        session.execute("begin")
        try:
            session.execute(f"set local lock_timeout = '{LOCK_S:d}s'".encode())
            run_query(session, lock.as_string(), tick)
            session.execute("set local lock_timeout = 0")
        except psycopg.Error:
            with contextlib.suppress(psycopg.Error):
                session.execute("rollback")
            raise
    return truncate


def clear_leftovers(session: Session, table: TableName, tick: Tick) -> None:
    """What attempts that failed have left in the table's file: who tries again and again would fill the disk
    with it, faster than autovacuum comes. Rows of an aborted transaction are dead for everybody, whatever
    snapshots there are. Outside of a transaction; it waits for nobody's lock."""
    vacuum = sql.SQL("vacuum (skip_locked) {}").format(sql.Identifier(*table))
    with wrapped(f"clearing away what was left of copies of {qualified(*table)}"):
        run_query(session, vacuum.as_string(), tick)


def empty_table(session: Session, target: TargetTable, *, truncate: bool, tick: Tick) -> None:
    """After DELETE readers see the old rows until COMMIT; a snapshot older than TRUNCATE shows none."""
    emptying = (
        statements.truncate([target], restart_identity=False) if truncate else statements.delete_all(target)
    )
    with wrapped(f"emptying {target.qualified_name}"):
        run_query(session, emptying.decode(), tick)


@contextlib.contextmanager
def bounded_chunks(session: Session) -> Iterator[None]:
    """Inside of the transaction: each statement ends by itself, whatever becomes of our process."""
    with wrapped("preparing to write rows"):
        session.execute(f"set local statement_timeout = '{CHUNK_S:d}s'".encode())
        yield
        session.execute("set local statement_timeout = 0")


def end_awaiting(
    session: Session, pipeline: str, table: TableName, *, replica_role: bool, check: Callable[[], None]
) -> None:
    """The table has its rows: if it joined without them, apply takes its changes from here on, and foreign
    keys to it are made (decision 017). Part of the transaction: all of that counts with the rows, or none."""
    with wrapped("noting that a table has its rows"):
        if not left_out.has_rows(session, pipeline, table) or not replica_role:
            return
    with wrapped("making foreign keys"):
        session.execute(f"set local lock_timeout = '{LOCK_S:d}s'".encode())
        make_keys_to(session, pipeline, table, lambda *_: check())
        session.execute("set local lock_timeout = 0")


def commit_standing(
    session: Session,
    found: Progress,
    *,
    action: str,
    reason: str,
    details: str,
    expires_s: float,
    check: Callable[[], None],
) -> None:
    """Write it down in keepstream.audit and commit, if the replica still stands where `found` says.

    Raises RetryLater (`hold-lost`): nothing was changed.
    """
    progress.audit(session, found.name, action, reason=reason, position=found.position, details=details)
    check()
    with wrapped("proving where the replica stands"):
        session.execute(f"set local lock_timeout = '{_PROOF_S:d}s'".encode())
    failpoint("mend.written")
    if not prove_standing(session, found, HoldKind.VERIFY, expires_s=expires_s):
        raise RetryLater(
            f"the replica is not held at {format_lsn(found.position.lsn)} any more; nothing was changed",
            code="hold-lost",
            hint="Somebody released it (`keepstream resume`), or it expired: start the command again.",
        )
    failpoint("mend.proven")
    with wrapped("committing what was mended"):
        session.execute("commit")
    failpoint("mend.committed")


_USERS: Final = """
    select distinct l.pid, a.application_name, coalesce(a.state, '')
      from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a on a.pid = l.pid
     where l.granted and l.pid <> pg_backend_pid()
       and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
       and l.relation = {}::regclass
     order by 1
"""


def users_of(session: Session, target: TargetTable) -> str:
    """The sessions that have locks on the table, for messages; empty if there are none."""
    name = sql.Identifier(target.schema, target.name).as_string()
    with wrapped("looking for locks in the way"):
        rows = session.execute(sql.SQL(_USERS).format(sql.Literal(name))).fetchall()
    return ", ".join(
        f"pid {pid} ({application or 'no application_name'}, {state})" for pid, application, state in rows
    )
