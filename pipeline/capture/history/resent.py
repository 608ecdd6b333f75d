"""P10: what the slot sends again proves that the source is the one that wrote the log.

A slot begins at its own `confirmed_flush_lsn`, at or before the log's tail. The transactions between
are skipped, because the log has them; but first they must be the ones that the log has. A source that
was rolled back and went on has the same system id, and its WAL may have grown past the tail: it sends
other transactions there, or none. Nothing is confirmed before that was compared, or the evidence of
it would be gone at the next start.
"""

from __future__ import annotations

from schemas.errors import IF_MEANT, HistoryBroken
from schemas.lsn import Lsn, Position, format_lsn


class Resent:
    """Compares the last transaction that came again below the log's tail with the log's last one.

    last_commit_lsn: of that last one, as far as the log was read; None if it stands before that.
    sent_from: where the slot began. `proven` once everything below the tail has come.
    """

    def __init__(self, tail: Position, *, last_commit_lsn: Lsn | None, sent_from: Lsn) -> None:
        self._tail = tail
        self._last: tuple[int, int] | None = None
        self._must_come = last_commit_lsn is not None and sent_from <= last_commit_lsn
        self.proven = False

    def see(self, *, commit_lsn: Lsn, end_lsn: Lsn, xid: int, commit_time: int) -> None:
        """A transaction below the tail came again, in commit order."""
        if end_lsn > self._tail.lsn:
            raise self._other(f"transaction {xid}, from {format_lsn(commit_lsn)} to {format_lsn(end_lsn)}")
        self._last = (xid, commit_time)

    def prove(self) -> None:
        """Nothing below the tail can come any more. Raises HistoryBroken (`source-other-history`)."""
        if self.proven:
            return
        expected = (self._tail.xid, self._tail.commit_time)
        if self._last is not None and self._last != expected:
            raise self._other(f"transaction {self._last[0]}")
        if self._last is None and self._must_come:
            raise self._other("nothing")
        self.proven = True

    def _other(self, sent: str) -> HistoryBroken:
        ours = f"transaction {self._tail.xid}" if self._tail.xid else "nothing"
        return HistoryBroken(
            f"the source sent {sent} where the log, which ends at {self._tail}, holds {ours}",
            code="source-other-history",
            hint="The source was rolled back to an earlier state and went on from there; log and replicas may"
            f" hold transactions that it lost. Nothing was confirmed. {IF_MEANT}",
        )
