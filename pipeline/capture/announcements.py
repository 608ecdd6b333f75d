"""Which joins of tables the ANCHORs announce, and for how long (P11).

A join's transaction is announced in an ANCHOR before it commits. By that, a capture that continues knows its
additions to the publication for ours, and its messages for genuine: anybody on the source may write a
message of that prefix, and what a genuine one says is run on every replica. So an announcement stays
until its transaction has ended and all that was written by then is in the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from connectors.postgres.server import insert_lsn
from connectors.postgres.session import Session, wrapped
from schemas.lsn import Lsn

_PREFIX: Final = "join:"
_RUNNING: Final = """
    select transactionid::text from pg_catalog.pg_locks
     where locktype = 'transactionid' and granted and transactionid::text = any(%s)
"""


def join_token(xid: int) -> str:
    """The entry in an ANCHOR's `publication` by which Keepstream says before it commits that its
    transaction `xid` will add rows to the publication."""
    return f"{_PREFIX}{xid}"


def announced_joins(anchored: Iterable[str]) -> tuple[str, ...]:
    """The announcements among an ANCHOR's entries."""
    return tuple(entry for entry in anchored if entry.startswith(_PREFIX))


def announced_xids(anchored: Iterable[str]) -> frozenset[str]:
    """The transactions that they name."""
    return frozenset(entry.removeprefix(_PREFIX) for entry in announced_joins(anchored))


class Announcements:
    """Remembers of each announced transaction where the source's WAL ended when it was first seen ended."""

    def __init__(self) -> None:
        self._ended: dict[str, Lsn] = {}

    def without_ended(self, session: Session, anchored: Iterable[str], *, held: Lsn) -> tuple[str, ...]:
        """The entries that are still needed. Call it after the publication was compared. `held`: what the
        log holds."""
        entries = tuple(anchored)
        announced = announced_joins(entries)
        if not announced:
            return entries
        needed = [token for token in announced if held < self._ended.get(token, held + 1)]
        with wrapped("looking for transactions that add tables"):
            rows = session.execute(_RUNNING, [sorted(announced_xids(needed))]).fetchall()
        running = {join_token(int(xid)) for (xid,) in rows}
        end = insert_lsn(session)
        self._ended = {token: self._ended.get(token, end) for token in needed if token not in running}
        return tuple(entry for entry in entries if entry in needed or not entry.startswith(_PREFIX))
