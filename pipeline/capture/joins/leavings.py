"""When nothing of a table that left the publication is on its way any more.

    open      transactions that ran when it left may bring rows of it, whatever becomes of it and its name
    ended     they have; where the WAL ended then is the leaving's `last_rows`, which an ANCHOR keeps (P11)
    logged    the log holds all up to there
    applied   and so does every replica: what a table of this name gets from here on is another's

Only then may the table join again, or another one of its name, and only then may somebody touch it on a
replica: one that is behind stops at the first older row that does not fit any more. A replica that cannot be
asked counts as behind. Replicas are asked in the background, because the stream must not wait for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace

from connectors.postgres.catalog.tables import Table
from connectors.postgres.copy.snapshot import name_blockers, older_transactions
from connectors.postgres.replica.progress import Progress, ReplicaState
from connectors.postgres.server import current_xid, insert_lsn, oldest_xid
from pipeline.background import in_background
from pipeline.capture.entries.announcements import LEAVES, Leave
from pipeline.capture.entries.names import left_tables
from pipeline.capture.joins.replicas import Replicas
from pipeline.capture.opened import OpenCapture
from pipeline.capture.options import CaptureOptions, FollowingReplica
from pipeline.capture.writing.packer import FramePacker
from pipeline.config import Initial
from pipeline.obstacles import replica_obstacle
from pipeline.quantities import human_seconds
from schemas.errors import KeepstreamError
from schemas.lsn import Lsn, format_lsn

Rows = Mapping[str, Progress | KeepstreamError | None]
"""By replica, as `Replicas.rows` reads them."""


class Leavings:
    """Of one capture's tables. `look` moves them on; `awaited` says what one still waits for."""

    def __init__(self, capture: OpenCapture, options: CaptureOptions) -> None:
        self._capture = capture
        self._options = options
        self._replicas = Replicas(options)
        # by the leaving's xid: the number that those of its transactions are below, and who is behind
        self._bounds: dict[int, int] = {}
        self._behind: dict[int, str] = {}
        self._asking: tuple[frozenset[int], Future[Rows]] | None = None

    @property
    def has_news(self) -> bool:
        """Whether the replicas have answered about a table for the first time."""
        return (
            self._asking is not None and self._asking[1].done() and not self._asking[0] <= self._behind.keys()
        )

    def look(self, packer: FramePacker) -> None:
        """Call it between transactions."""
        if packer.holds_transactions:
            return
        leaves = left_tables(self._capture.chain.publication)
        ended = [leave for leave in leaves.values() if leave.last_rows is None and self._has_ended(leave)]
        if ended:
            self._know_last_rows(ended, packer)
        self._ask()

    def awaited(self, leave: Leave) -> str | None:
        """In sentences; None: nothing."""
        if leave.last_rows is None:
            return f"Transactions that were open when it left still are: {self._open(leave)}."
        if not self._is_logged(leave):
            return "Its last rows are not in the log yet."
        return self._behind.get(leave.xid, "Replicas are being asked where they stand.") or None

    def awaited_by(self, table: Table) -> str | None:
        """The same for a table that is to join: it left, or has the name of one that did."""
        for leave in left_tables(self._capture.chain.publication).values():
            if table.oid == leave.oid or table.qualified_name == leave.name:
                awaited = self.awaited(leave)
                if awaited is not None:
                    return awaited
        return None

    def _has_ended(self, leave: Leave) -> bool:
        """Whether all transactions have whose rows pgoutput may send: it reads the publication by the catalog
        of the row's time, and a row from before the leaving has a number from before it was seen."""
        session = self._capture.sql
        if leave.xid not in self._bounds:
            self._bounds[leave.xid] = current_xid(session)
        return oldest_xid(session) > self._bounds[leave.xid]

    def _know_last_rows(self, leaves: list[Leave], packer: FramePacker) -> None:
        """An ANCHOR keeps it: else each new capture would let delayed replicas begin to wait anew."""
        chain, end = self._capture.chain, insert_lsn(self._capture.sql)
        known = (replace(leave, last_rows=end) for leave in leaves)
        chain.publication_is(chain.publication.put(LEAVES, *known))
        chain.anchor(packer.live_tables)

    def _is_logged(self, leave: Leave) -> bool:
        return leave.last_rows is not None and self._capture.chain.position.lsn >= leave.last_rows

    def _ask(self) -> None:
        """An answer counts only for those whose rows were in the log when it was asked for: a replica that
        had no row then could be copied from a snapshot of before."""
        if self._asking is not None and self._asking[1].done():
            asked, answer = self._asking
            self._asking = None
            for leave in self._unapplied():
                if leave.xid in asked:
                    self._behind[leave.xid] = self._behind_of(leave, answer.result())
        unapplied = frozenset(leave.xid for leave in self._unapplied())
        if self._asking is None and unapplied:
            self._asking = unapplied, in_background(self._replicas.rows, name="replicas of tables that left")

    def _unapplied(self) -> list[Leave]:
        """Those that are logged, but that a replica may not be past yet."""
        leaves = left_tables(self._capture.chain.publication).values()
        return [each for each in leaves if self._is_logged(each) and self._behind.get(each.xid) != ""]

    def _behind_of(self, leave: Leave, rows: Rows) -> str:
        assert leave.last_rows is not None
        named = [
            behind(name, replica, rows[name], leave.last_rows)
            for name, replica in self._options.replicas.items()
        ]
        return " ".join(filter(None, named))

    def _open(self, leave: Leave) -> str:
        """Without what changes from look to look."""
        found = older_transactions(self._capture.sql, self._bounds.get(leave.xid, leave.xid))
        return (
            name_blockers([replace(each, age_s=None, state="") for each in found]) or "none that we can see"
        )


def behind(
    name: str, replica: FollowingReplica, row: Progress | KeepstreamError | None, last_rows: Lsn
) -> str | None:
    """What keeps it from being past these rows, in sentences; None if it is. One that is yet to be copied
    gets none of them, unless it begins with the log (`initial: none`)."""
    if isinstance(row, KeepstreamError):
        return f"Replica {name} did not say where it stands ({row.code})."
    if row is None and replica.initial is not Initial.NONE:
        return None
    if row is not None and row.state is ReplicaState.STREAMING and row.position.lsn >= last_rows:
        return None
    obstacle = replica_obstacle(name, row)
    if obstacle is not None:
        return f"Replica {name} {obstacle.seen}. {obstacle.hint}"
    delayed = f", and keeps a delay of {human_seconds(replica.delay_s)}" if replica.delay_s else ""
    return f"Replica {name} is not past {format_lsn(last_rows)} yet{delayed}."
