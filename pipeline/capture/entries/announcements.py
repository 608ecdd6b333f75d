"""What of the publication's changes the ANCHORs announce, and for how long (P11).

A join's transaction is announced in an ANCHOR before it commits. By that, a capture that continues knows its
additions to the publication for ours, and its messages for genuine: anybody on the source may write a
message of that prefix, and what a genuine one says is run on every replica. So an announcement stays
until its transaction has ended and all that was written by then is in the log.

A table that leaves is announced, too (`Leave`). The announcement counts only if its transaction was
committed, and then stays until the table joins again: until then its old rows may still come, and it alone
says what they were.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import psycopg

from connectors.postgres.server import insert_lsn
from connectors.postgres.session import Session, wrapped
from schemas.entries import Entries, Kind, text_kind
from schemas.identifiers import qualified
from schemas.lsn import Lsn

Outcomes = Mapping[int, str | None]
"""By xid, `committed`, `aborted` or `in progress`; None of one that PostgreSQL has forgotten."""
_RUNNING: Final = """
    select transactionid::text from pg_catalog.pg_locks
     where locktype = 'transactionid' and granted and transactionid::text = any(%s)
"""


JOINS: Final = text_kind("join", "tables that join")
"""The transactions (32 bits) of which Keepstream says before they commit that they will add rows to the
publication."""


@dataclass(frozen=True, slots=True)
class Leave:
    """An announcement that transaction `xid` (64 bits) takes a table out of the publication. `entry`: the
    table's `catalog:oid:xmin` there. `generated`: the columns that are no part of its rows in the log.
    `last_rows`: where the WAL ended when all transactions had that may bring rows of it; None: not yet."""

    entry: str
    xid: int
    oid: int
    schema: str
    table: str
    generated: tuple[str, ...]
    last_rows: Lsn | None = None

    @property
    def name(self) -> str:
        """What the table was called then, and is called in the log and on replicas."""
        return qualified(self.schema, self.table)

    def to_text(self) -> str:
        place = [self.schema, self.table, self.last_rows or 0]
        return json.dumps([self.entry, self.xid, self.oid, *place, *self.generated])

    @classmethod
    def from_text(cls, text: str) -> Leave:
        """Raises ValueError or TypeError."""
        entry, xid, oid, schema, table, last_rows, *generated = json.loads(text)
        return cls(entry, xid, oid, schema, table, tuple(generated), Lsn(int(last_rows)) or None)


LEAVES: Final[Kind[tuple[int, int], Leave]] = Kind(
    "left", "a table that left", lambda leave: (leave.oid, leave.xid), Leave.from_text, Leave.to_text
)
"""Of tables that left, or were to leave, by OID and transaction."""


def leaves_still(
    leaves: Iterable[Leave], outcomes: Outcomes, current: Collection[str], listed: Collection[int]
) -> tuple[Leave, ...]:
    """Those that are still needed: of tables that have not left yet, or not joined again.
    `current`: the publication's entries, `listed`: the OIDs of its tables."""
    return tuple(
        leave
        for leave in leaves
        if outcomes.get(leave.xid) != "aborted" and (leave.entry in current or leave.oid not in listed)
    )


def read_outcomes(session: Session, leaves: Iterable[Leave]) -> Outcomes:
    """Of their transactions. Read it after the publication: what that shows is committed here, too. The
    session must be in autocommit."""
    return {leave.xid: _outcome(session, leave.xid) for leave in leaves}


def after_promotion(leaves: Iterable[Leave], outcomes: Outcomes, current: Collection[str]) -> Outcomes:
    """Of a promoted standby no transaction of before is open. The number of one that it never heard of is
    given again, and says nothing of ours: what was to be taken out and is still there, was not."""
    return {leave.xid: "aborted" if leave.entry in current else outcomes[leave.xid] for leave in leaves}


def _outcome(session: Session, xid: int) -> str | None:
    with wrapped("looking for transactions that take tables out"):
        try:
            row = session.execute("select pg_xact_status(%s::text::xid8)", [xid]).fetchone()
        except psycopg.errors.InvalidParameterValue:
            return "aborted"  # a crash took it: its number was not given yet
    return row[0] if row else None


class Announcements:
    """Remembers of each announced transaction where the source's WAL ended when it was first seen ended."""

    def __init__(self) -> None:
        self._ended: dict[str, Lsn] = {}

    def without_ended(self, session: Session, anchored: Entries, *, held: Lsn) -> Entries:
        """The entries that are still needed. Call it after the publication was compared. `held`: what the
        log holds."""
        announced = anchored.of(JOINS).keys()
        if not announced:
            return anchored
        needed = sorted(xid for xid in announced if held < self._ended.get(xid, held + 1))
        with wrapped("looking for transactions that add tables"):
            rows = session.execute(_RUNNING, [needed]).fetchall()
        running = {xid for (xid,) in rows}
        end = insert_lsn(session)
        self._ended = {xid: self._ended.get(xid, end) for xid in needed if xid not in running}
        return anchored.drop(JOINS, *announced - set(needed))
