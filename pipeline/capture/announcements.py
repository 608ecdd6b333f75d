"""What of the publication's changes the ANCHORs announce, and for how long (P11).

A join's transaction is announced in an ANCHOR before it commits. By that, a capture that continues knows its
additions to the publication for ours, and its messages for genuine: anybody on the source may write a
message of that prefix, and what a genuine one says is run on every replica. So an announcement stays
until its transaction has ended and all that was written by then is in the log.

A table that leaves is announced, too, and the announcement stays until it joins again: by then nobody can
miss its old rows any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from connectors.postgres.server import insert_lsn
from connectors.postgres.session import Session, wrapped
from schemas.lsn import Lsn

_PREFIX: Final = "join:"
_LEFT: Final = "left:"
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


def left_token(entry: str, oid: int, name: str) -> str:
    """The entry in an ANCHOR's `publication` by which Keepstream says that it takes a table out of the
    publication. `entry`: the table's `catalog:oid:xmin`."""
    return f"{_LEFT}{entry}:{oid}:{name}"


def left_tables(anchored: Iterable[str]) -> dict[int, str]:
    """Qualified names by OID of the tables that were taken out, or are about to be."""
    return {oid: name for _, oid, name in map(_read_left, _left_tokens(anchored))}


def left_entries(anchored: Iterable[str]) -> frozenset[str]:
    """The publication's entries that went with them."""
    return frozenset(entry for entry, _, _ in map(_read_left, _left_tokens(anchored)))


def left_still(anchored: Iterable[str], current: Collection[str], listed: Collection[int]) -> tuple[str, ...]:
    """The announcements that are still needed: of tables that have not left yet, or not joined again.
    `current`: the publication's entries, `listed`: the OIDs of its tables."""
    return tuple(
        token
        for token in _left_tokens(anchored)
        if (left := _read_left(token))[0] in current or left[1] not in listed
    )


def is_announcement(entry: str) -> bool:
    """Whether an ANCHOR's entry is one of these."""
    return entry.startswith((_PREFIX, _LEFT))


def _left_tokens(anchored: Iterable[str]) -> list[str]:
    return [entry for entry in anchored if entry.startswith(_LEFT)]


def _read_left(token: str) -> tuple[str, int, str]:
    catalog, row, xmin, oid, name = token.removeprefix(_LEFT).split(":", 4)
    return f"{catalog}:{row}:{xmin}", int(oid), name


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
