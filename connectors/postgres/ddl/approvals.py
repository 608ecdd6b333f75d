"""`keepstream.schema_waits` on the replica: the source transaction before which it waits for an operator, and
what was decided. There is one row at most for a pipeline: what comes later is not looked at before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from connectors.postgres.replica import progress
from connectors.postgres.session import Session, wrapped
from schemas.lsn import Lsn, Position, format_lsn, parse_lsn

_INSTALL: Final = (
    """create table if not exists keepstream.schema_waits (
        name text primary key,
        commit_lsn pg_lsn not null,
        xid bigint not null,
        found_at timestamptz not null default clock_timestamp(),
        steps jsonb not null,
        decision text check (decision in ('apply', 'ignore'))
    )""",
    "comment on table keepstream.schema_waits is 'Schema changes that wait for `keepstream schema approve`.'",
)


class Decision(StrEnum):
    """What becomes of the changes of a transaction that a policy pauses at."""

    APPLY = "apply"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class WaitingStep:
    """One step as people see it; `pauses`: it is one of those that wait, and not merely of the same
    transaction."""

    kind: str
    object: str
    sql: str
    pauses: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """The transaction that waits, or waited, by its commit LSN and xid."""

    lsn: Lsn
    xid: int
    steps: tuple[WaitingStep, ...]
    decision: Decision | None = None


def read(conn: Session, name: str) -> Waiting | None:
    """What waits on this replica, or was decided and is not applied yet; None for nothing."""
    with wrapped("reading keepstream.schema_waits"):
        there = conn.execute("select to_regclass('keepstream.schema_waits') is not null").fetchone()
        if there != (True,):
            return None
        row = conn.execute(
            "select w.commit_lsn::text, w.xid, w.steps, w.decision"
            " from keepstream.schema_waits w join keepstream.progress p using (name)"
            " where w.name = %s and w.commit_lsn >= p.position",
            [name],
        ).fetchone()
    return None if row is None else _waiting(row)


def _waiting(row: tuple[Any, ...]) -> Waiting:
    lsn, xid, steps, decision = row
    return Waiting(
        parse_lsn(lsn),
        xid,
        tuple(WaitingStep(**step) for step in steps),
        Decision(decision) if decision is not None else None,
    )


def wait(conn: Session, name: str, *, lsn: Lsn, xid: int, steps: Sequence[WaitingStep]) -> None:
    """Write down what waits, in a transaction of its own."""
    with wrapped("writing keepstream.schema_waits"), conn.transaction():
        for statement in _INSTALL:
            conn.execute(statement)
        conn.execute(
            "insert into keepstream.schema_waits as w (name, commit_lsn, xid, steps)"
            " values (%s, %s::pg_lsn, %s, %s::jsonb)"
            " on conflict (name) do update set commit_lsn = excluded.commit_lsn, xid = excluded.xid,"
            " steps = excluded.steps, found_at = excluded.found_at, decision = null",
            [name, format_lsn(lsn), xid, json.dumps([asdict(step) for step in steps])],
        )


def decide(conn: Session, name: str, waiting: Waiting, decision: Decision, *, reason: str) -> bool:
    """Let the replica go on, audited; False if something else waits by now."""
    with wrapped("deciding on schema changes"), conn.transaction():
        conn.execute("set local synchronous_commit = on")
        decided = conn.execute(
            "update keepstream.schema_waits set decision = %s where name = %s and commit_lsn = %s::pg_lsn",
            [decision.value, name, format_lsn(waiting.lsn)],
        )
        if decided.rowcount != 1:
            return False
        progress.audit(
            conn,
            name,
            f"schema-{decision.value}",
            reason=reason,
            position=Position(waiting.lsn, waiting.xid),
            details=json.dumps({"steps": [asdict(step) for step in waiting.steps]}),
        )
    return True


def forget(conn: Session, name: str) -> None:
    """Its transaction is being applied, in the session's open transaction."""
    conn.execute("delete from keepstream.schema_waits where name = %s", [name])
