"""What a first copy writes down in the replica about itself, in schema `keepstream`.

`copy_run` holds how the copy began: its mode, and which schemas and extensions were there before, so
that a copy that was killed can be cleared away without touching what it did not make. `copy_part`
holds the parts whose rows are there, written in the part's own transaction under the token of the copy
whose snapshot they are of. Both vanish with the copy's completion. `deferred_ddl` stays: what the source
has and the replica was made without.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.activity import SEE_WAITS, SILENCE_LIMIT_S
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.replica import deferred, progress
from connectors.postgres.replica.claim import silence_s
from connectors.postgres.replica.progress import ReplicaState
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded, RetryLater
from schemas.lsn import Position

_END_TIMEOUT_S: Final = 30.0

_INSTALL: Final = (
    """create table if not exists keepstream.copy_run (
        name text primary key,
        initial text not null,
        schemas text[] not null,
        extensions text[] not null
    )""",
    """create table if not exists keepstream.copy_part (
        name text not null,
        schema_name text not null,
        table_name text not null,
        part integer not null,
        token uuid not null,
        copied_rows bigint,
        primary key (name, token, schema_name, table_name, part)
    )""",
    *deferred.INSTALL,
)

_OF_ONE_LIFE: Final = ("copy_part", "copy_run", "schema_left_out", "schema_waits")

# Which parts of an earlier, killed copy may still run on the server: everything of its application_name.
_END_SESSIONS: Final = """
    select count(pg_catalog.pg_terminate_backend(pid)) from pg_catalog.pg_stat_activity
     where application_name = %s and usename = current_user and pid <> pg_backend_pid()
       and (datname = current_database() or datname is null)
"""


@dataclass(frozen=True, slots=True)
class CopyRun:
    """The right to copy into the replica: the marker's token (P20). `has_leftovers`: what a killed copy
    made may be there, and is to be cleared away first."""

    name: str
    token: uuid.UUID
    has_leftovers: bool
    schemas: tuple[str, ...]
    extensions: tuple[str, ...]


def require_free(conn: Session, name: str, *, initial: str) -> None:
    """Refuse early what `begin_run` would refuse later. Raises RetryLater (`copy-running`), OperatorNeeded
    (`replica-in-use`, `copy-mode-changed`)."""
    with _alone(conn, "looking for another copy"):
        _find_unfinished(conn, name, initial)


def _find_unfinished(conn: Session, name: str, initial: str) -> bool:
    """Whether a copy of this pipeline was begun here whose process is gone or silent. True only as long as
    the caller's transaction is `_alone`."""
    found = progress.read(conn, name)
    if found is None:
        return False
    if found.state is ReplicaState.STREAMING:
        raise progress.in_use(name)
    silent_s = silence_s(conn, found)
    if silent_s is not None and silent_s < SILENCE_LIMIT_S:
        raise RetryLater(
            f"another copy into this replica is running (pid {found.backend_pid} on its server)",
            code="copy-running",
            hint="Nothing to do: `keepstream run` stands by until that copy is complete.",
        )
    row = conn.execute("select initial from keepstream.copy_run where name = %s", [name]).fetchone()
    if row is None or row[0] != initial:
        began = "in an unknown way" if row is None else f"with initial: {row[0]}"
        raise OperatorNeeded(
            f"an unfinished copy was begun {began}, and the configuration now says initial: {initial}",
            code="copy-mode-changed",
            hint="Set it back to finish that copy, or empty the database, its schema keepstream included.",
        )
    return True


@contextlib.contextmanager
def _alone(conn: Session, what: str) -> Iterator[None]:
    """A transaction beside which no other copy begins or completes: that makes and drops our tables. The
    server ends it if its process is frozen, so that the others can go on."""
    with wrapped(what), conn.transaction():
        conn.execute(f"set local idle_in_transaction_session_timeout = '{SILENCE_LIMIT_S}s'")
        conn.execute("select pg_advisory_xact_lock(hashtext('keepstream.copy'))")
        yield


def begin_run(
    conn: Session,
    name: str,
    *,
    stream: bytes,
    initial: str,
    place: str,
    application: str,
    require_empty: Callable[[], object],
) -> CopyRun:
    """Write the copying marker, before any object (P20).

    Here, and beside no other copy, it is decided what is there. Nothing: then `require_empty` must not
    raise. Or what a killed copy made: its token is voided, after its sessions (`application`) were ended.
    Raises RetryLater (`copy-running`) while that copy lives, OperatorNeeded (`replica-in-use`,
    `copy-mode-changed`).
    """
    with _alone(conn, "beginning the copy"):
        has_leftovers = _find_unfinished(conn, name, initial)
        if has_leftovers:
            end_sessions(conn, application)
        else:
            require_empty()
        progress.install(conn)
        for statement in _INSTALL:
            conn.execute(statement)
        if not has_leftovers:
            _record_surroundings(conn, name, initial)
        token = progress.write_copying_marker(conn, name, stream=stream, place=place)
        row = conn.execute(
            "select schemas, extensions from keepstream.copy_run where name = %s", [name]
        ).fetchone()
        assert row is not None
    return CopyRun(name, token, has_leftovers, tuple(row[0]), tuple(row[1]))


def _record_surroundings(conn: Session, name: str, initial: str) -> None:
    _forget_earlier_life(conn, name)
    conn.execute(
        """insert into keepstream.copy_run
           select %s, %s, array(select nspname::text from pg_catalog.pg_namespace),
                  array(select extname::text from pg_catalog.pg_extension)""",
        [name, initial],
    )


def _forget_earlier_life(conn: Session, name: str) -> None:
    """What a row that was removed, as `teardown` does, left behind: tables that the replica went without are
    there now, and their rows are wanted."""
    for table in _OF_ONE_LIFE:
        there = conn.execute("select to_regclass('keepstream.' || %s) is not null", [table]).fetchone()
        if there == (True,):
            forgetting = sql.SQL("delete from {} where name = %s").format(sql.Identifier("keepstream", table))
            conn.execute(forgetting, [name])


def end_sessions(conn: Session, application: str) -> None:
    """End all other sessions of this copy in this database, and wait until they are gone (P14)."""
    deadline = time.monotonic() + _END_TIMEOUT_S
    with wrapped("ending the sessions of a killed copy"):
        while _end_each(conn, application):
            if time.monotonic() > deadline:
                raise RetryLater(
                    f"sessions of an earlier copy ({application}) do not end",
                    code="take-over-slow",
                    hint=f"On source and replica: {SEE_WAITS}",
                )
            time.sleep(0.05)


def _end_each(conn: Session, application: str) -> bool:
    """Whether there were any."""
    conn.execute("select pg_catalog.pg_stat_clear_snapshot()")  # a transaction sees one list of sessions only
    return conn.execute(_END_SESSIONS, [application]).fetchall() != [(0,)]


def require_ours(conn: Session, run: CopyRun) -> None:
    """Also tells others that this copy lives. Raises OperatorNeeded (`copy-replaced`)."""
    found = progress.read(conn, run.name)
    if found is None or found.token != run.token:
        raise progress.copy_replaced(run.name)


_TAKE_PART: Final = """
    insert into keepstream.copy_part (name, token, schema_name, table_name, part)
    select p.name, p.token, %(schema)s, %(table)s, %(part)s from keepstream.progress p
     where p.name = %(name)s and p.token = %(token)s and p.state = 'copying'
       for share
    on conflict do nothing
"""


def take_part(conn: Session, run: CopyRun, table: TableName, part: int) -> bool:
    """Begin one part in the caller's transaction; False if its rows are there already, because a
    commit whose answer was lost had worked. Raises OperatorNeeded (`copy-replaced`)."""
    values = {"name": run.name, "token": run.token, "schema": table[0], "table": table[1], "part": part}
    if conn.execute(_TAKE_PART, values).rowcount == 1:
        return True
    require_ours(conn, run)
    return False


def finish_part(conn: Session, run: CopyRun, table: TableName, part: int, rows: int) -> None:
    conn.execute(
        """update keepstream.copy_part set copied_rows = %s
            where name = %s and token = %s and schema_name = %s and table_name = %s and part = %s""",
        [rows, run.name, run.token, *table, part],
    )


def flush(conn: Session, run: CopyRun) -> None:
    """Make durable what was committed before without waiting for it: the log of a commit that is waited
    for is flushed with all before it."""
    with wrapped("flushing the replica's commits"), conn.transaction():
        conn.execute("set local synchronous_commit = on")
        conn.execute("update keepstream.copy_run set name = name where name = %s", [run.name])


def finished_parts(conn: Session, run: CopyRun) -> set[tuple[str, str, int]]:
    """Schema, table and number of the parts whose rows this copy has brought."""
    with wrapped("reading keepstream.copy_part"):
        rows = conn.execute(
            "select schema_name, table_name, part from keepstream.copy_part where name = %s and token = %s",
            [run.name, run.token],
        )
        return {(schema, table, part) for schema, table, part in rows}


def has_part(conn: Session, run: CopyRun, table: TableName) -> bool:
    """Whether this copy, or a killed one before it, brought anything of it."""
    with wrapped("reading keepstream.copy_part"):
        found = conn.execute(
            "select from keepstream.copy_part"
            " where name = %s and schema_name = %s and table_name = %s limit 1",
            [run.name, *table],
        )
        return found.rowcount == 1


def forget_parts(conn: Session, run: CopyRun) -> None:
    """After their rows were cleared away."""
    with wrapped("clearing keepstream.copy_part"), conn.transaction():
        conn.execute("delete from keepstream.copy_part where name = %s", [run.name])
        deferred.forget(conn, run.name)


def complete_run(
    conn: Session,
    run: CopyRun,
    position: Position,
    *,
    place: str,
    is_snapshot: bool = False,
    on_complete: Callable[[], None] = lambda: None,
) -> None:
    """The copy's last transaction: the replica now stands at `position`, and the bookkeeping is gone.
    `is_snapshot`: the position is that of the snapshot, not of an anchor in the log. `on_complete`: what is
    to be written with it."""
    with _alone(conn, "completing the copy"):
        progress.complete_copy(conn, run.name, token=run.token, position=position, place=place)
        on_complete()
        if is_snapshot:
            progress.audit(conn, run.name, "copy", reason="first copy", position=position)
        conn.execute("delete from keepstream.copy_part where name = %s", [run.name])
        conn.execute("delete from keepstream.copy_run where name = %s", [run.name])
        ((others,),) = conn.execute("select count(*) from keepstream.copy_run").fetchall()
        if others == 0:
            conn.execute("drop table keepstream.copy_part, keepstream.copy_run")


def may_switch_triggers_off(conn: Session) -> bool:
    """Whether our role may set session_replication_role, without which foreign keys and triggers of
    the replica would act on rows that the source's have acted on already."""
    with wrapped("trying to set session_replication_role"):
        try:
            with conn.transaction(force_rollback=True):
                conn.execute("set local session_replication_role = replica")
        except psycopg.errors.InsufficientPrivilege:
            return False
    return True
