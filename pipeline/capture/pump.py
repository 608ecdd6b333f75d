"""Capture's main loop: messages from the slot become frames in the log, and the slot is confirmed
only after them (P3, P9).

One iteration: take a batch, decode and pack it, append what is full, flush when nothing more is
waiting, see what became durable, confirm exactly that. Housekeeping (anchors, heartbeats, the
publication's identity, new tables) happens only between transactions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from connectors.failpoints import failpoint
from connectors.postgres.catalog import read_columns
from connectors.postgres.pgoutput import Begin, Commit, Decoder, Origin, RelationChanged
from connectors.postgres.publication import publication_identity
from connectors.postgres.runs import Runs
from connectors.postgres.shape import read_shapes, read_used_types
from connectors.postgres.stream import Batch
from connectors.postgres.visibility import wait_until_transaction_visible
from pipeline.capture.added import ADDED_PREFIX, AddedColumns
from pipeline.capture.announcements import announced_xids
from pipeline.capture.history import named_tables, renamed
from pipeline.capture.housekeeping import Housekeeping
from pipeline.capture.packer import FramePacker, PackedBody
from pipeline.capture.rates import Rates
from pipeline.capture.schemachange import added_columns, describe_added
from pipeline.capture.shapes import (
    anchored_shapes,
    check_order,
    check_shape,
    first_shape,
    next_shape,
    with_shape,
    with_types,
)
from pipeline.capture.startup import OpenCapture
from schemas.change import Change, Message, Operation, Truncate
from schemas.changecodec import encode_change
from schemas.errors import InternalError
from schemas.join import is_join
from schemas.lsn import Lsn, Position
from schemas.table import TableSchema

logger = logging.getLogger("keepstream.capture")

IDLE_READ_S = 0.25
BUSY_READ_S = 0.002
"""How long a read may wait while frames are on their way: their acknowledgement is looked for after it."""

VISIBLE_LIMIT_S = 10.0
"""How long a transaction that changed a table may stay invisible before capture begins again."""


class Pump:
    """Runs one open capture until it is told to stop or something raises."""

    def __init__(
        self,
        capture: OpenCapture,
        housekeeping: Housekeeping,
        added: AddedColumns,
        rates: Rates,
        *,
        publication: str,
    ) -> None:
        self._capture = capture
        self._chain = capture.chain
        self._housekeeping = housekeeping
        self._added = added
        self._rates = rates
        self._decoder = Decoder()
        self._runs = Runs()
        self._packer = FramePacker(capture.live_tables)
        self._resent = capture.resent
        self._tail = capture.chain.position
        self._versions: dict[bytes, TableSchema] = {}
        self._oids: dict[bytes, int] = {}
        self._names = named_tables(capture.chain.publication)
        self._publication = publication
        self._introduced = {table.id for table in capture.live_tables}
        self._by_name = {(table.schema, table.name): table for table in capture.live_tables}
        self._transaction: Begin | None = None
        self._skipping = False
        self._seen_xid = 0
        self._identity: tuple[str, ...] = ()

    def run(self, stop: threading.Event) -> None:
        """Until `stop`; then what is complete is flushed, made durable and confirmed."""
        while not stop.is_set():
            self.step()
        self._append(self._packer.flush())
        deadline = time.monotonic() + 5.0
        while not self._chain.all_durable and time.monotonic() < deadline:
            self._confirm(0.1)

    def step(self) -> None:
        """One batch. Public for tests."""
        self._rates.beat_at = time.monotonic()
        stream = self._capture.stream
        batch = stream.read(IDLE_READ_S if self._chain.all_durable else BUSY_READ_S)
        self._take_all(batch.messages)
        if self._transaction is None and batch.wal_end >= self._tail.lsn:
            self._resent.prove()
        if not stream.queued_bytes:
            self._append(self._packer.flush())
        self._confirm(0.0)
        if self._transaction is None:
            if self._chain.all_durable and not self._packer.holds_transactions:
                self._rates.complete(batch.wal_end)
            self._keep_house(batch)
        self._rates.position = self._chain.position

    def _take_all(self, messages: list[bytes]) -> None:
        at = 0
        while at < len(messages):
            after = self._take_run(messages, at)
            if after == at:
                self._take(_take_out(messages, at))
                after += 1
            at = after

    def _take_run(self, messages: list[bytes], at: int) -> int:
        """Messages that need no look, many at once; the index after them."""
        if self._skipping or not self._resent.proven:
            return at
        packer = self._packer
        if self._transaction is not None:
            changes = self._runs.changes(messages, at, room_bytes=packer.room_bytes)
            if changes is None:
                return at
            after, encoded, count = changes
            packer.add_many(encoded, count)
            return after
        run = self._runs.transactions(
            messages, at, held_bytes=packer.held_bytes, target_bytes=packer.target_bytes
        )
        if run is None:
            return at
        if run.transactions:
            position = Position(Lsn(run.end_lsn), run.xid, run.commit_time)
            self._append(packer.take(run.encoded, run.transactions, run.changes, position))
            self._rates.last_commit_lsn = Lsn(run.commit_lsn)
        if run.is_full:
            self._append(packer.flush())
        self._anchor_if_due()
        return run.after

    def _keep_house(self, batch: Batch) -> None:
        for table in self._housekeeping.between_transactions(batch, self._packer):
            self._know(table)
        self._anchor_if_due()

    def _anchor_if_due(self) -> None:
        """Between transactions: under load, a batch may never end between two of them (P6)."""
        if self._chain.wants_anchor:
            self._append(self._packer.flush())
            self._chain.anchor(self._packer.live_tables)

    def _confirm(self, timeout_s: float) -> None:
        durable = self._chain.settle(timeout_s)
        if self._resent.proven and durable.lsn > self._capture.stream.confirmed_lsn:
            failpoint("capture.after_durable")
            self._capture.stream.confirm(durable.lsn)
            failpoint("capture.after_confirm")
            self._rates.confirm(durable)

    def _append(self, bodies: Iterable[PackedBody]) -> None:
        for packed in bodies:
            self._chain.append(packed)
            self._rates.count(packed.changes, packed.transactions, len(packed.body))

    def _take(self, message: bytes) -> None:
        decoded = self._decoder.decode(message)
        del message
        if isinstance(decoded, Change):
            if not self._skipping and self._belongs(decoded):
                encoded = encode_change(decoded)
                del decoded  # of a wide row, one copy less while it is sent
                self._append(self._packer.add(encoded))
        elif isinstance(decoded, Begin):
            self._begin(decoded)
        elif isinstance(decoded, Commit):
            self._commit(decoded)
        elif isinstance(decoded, RelationChanged):
            self._relation(decoded)
        elif isinstance(decoded, Origin) and not self._skipping:
            self._packer.set_origin(decoded.name)

    def _relation(self, changed: RelationChanged) -> None:
        """pgoutput's Relation: the same table as before, in perhaps another version."""
        table = changed.table
        if changed.oid not in self._names:
            self._require_published(changed.oid)
        known = self._names[changed.oid]
        if known != table.qualified_name:
            raise renamed(known, table.qualified_name)
        self._check_publication()
        self._versions[table.id] = table
        self._oids[table.id] = changed.oid
        self._runs.forget(changed.oid)
        self._check_shape(changed.oid, table)

    def _check_publication(self) -> None:
        """P11: after ALTER PUBLICATION pgoutput describes at least the table that it names anew before that
        one's next row: so its rows are never logged over a gap in them. The next look sees the rest."""
        self._see_transaction()
        identity = publication_identity(self._capture.sql, self._publication)
        if identity != self._identity:
            self._housekeeping.check_publication()
            self._identity = identity

    def _require_published(self, oid: int) -> None:
        """A table that the log does not know: it joined just now, or somebody else published it (P11)."""
        chain = self._chain
        if oid not in named_tables(chain.publication):
            self._housekeeping.check_publication()
        self._names = named_tables(chain.publication)
        if oid not in self._names:
            raise InternalError(f"rows of an unpublished table came: {oid}", code="relation-unknown")

    def _check_shape(self, oid: int, table: TableSchema, *, is_announced: bool = False) -> None:
        """pgoutput describes a table anew after any DDL on it: judge that before its next row.
        `is_announced`: the log tells now what all these columns hold in rows from before them."""
        self._see_transaction()
        chain = self._chain
        anchored = anchored_shapes(chain.publication).get(oid)
        for shape in read_shapes(self._capture.sql, self._publication, oid=oid):
            if anchored is not None:
                check_shape(table.qualified_name, anchored, shape)
            check_order(table.qualified_name, [column.name for column in table.columns], shape)
            whole = is_announced and len(table.columns) == len(shape.plain_columns)
            entry = first_shape(shape) if whole else next_shape(shape, anchored)
            chain.publication_is(with_shape(chain.publication, entry))
        if is_announced:
            types = read_used_types(self._capture.sql, self._publication)
            chain.publication_is(with_types(chain.publication, types))

    def _see_transaction(self) -> None:
        """The catalog is asked about the open transaction: it must show what that one did."""
        begin = self._transaction
        if begin is not None and begin.xid != self._seen_xid:
            wait_until_transaction_visible(self._capture.sql, begin.xid, limit_s=VISIBLE_LIMIT_S)
            self._seen_xid = begin.xid

    def _begin(self, begin: Begin) -> None:
        self._transaction = begin
        self._skipping = self._tail.holds(begin.commit_lsn)
        if not self._skipping:
            self._resent.prove()
            self._packer.begin(xid=begin.xid, commit_lsn=begin.commit_lsn, commit_time=begin.commit_time)

    def _commit(self, commit: Commit) -> None:
        begin = self._transaction
        if begin is None or not _ends(commit, begin):
            raise InternalError("a commit without its begin came from the slot", code="pgoutput-order")
        self._transaction = None
        self._rates.last_commit_lsn = commit.commit_lsn
        if self._skipping:
            self._skipping = False
            self._resent.see(
                commit_lsn=commit.commit_lsn,
                end_lsn=commit.end_lsn,
                xid=begin.xid,
                commit_time=commit.commit_time,
            )
            return
        self._append(self._packer.commit(end_lsn=commit.end_lsn))
        self._anchor_if_due()

    def _belongs(self, change: Change) -> bool:
        """Whether it has a place in the log; then the log knows its tables."""
        payload = change.payload
        if payload is None:
            if change.table not in self._introduced:
                self._introduce(change.table)
            self._runs.know(self._oids[change.table], self._versions[change.table])
        elif isinstance(payload, Truncate):
            for table in payload.tables:
                if table not in self._introduced:
                    self._introduce(table)
        return not isinstance(payload, Message) or self._is_logged(payload)

    def _is_logged(self, message: Message) -> bool:
        """Whether a message has a place in the log. One outside of transactions has none in a log of
        transactions; and one about joining tables only if it is ours, because replicas do what it says."""
        begin = self._transaction
        if not message.transactional or begin is None:
            return False
        if is_join(message.prefix):
            if str(begin.xid) in announced_xids(self._chain.publication):
                return True
            logger.error("forged message left out", extra={"prefix": message.prefix, "xid": begin.xid})
            return False
        if message.prefix == ADDED_PREFIX:
            self._meet_added(begin.xid)
        return True

    def _meet_added(self, xid: int) -> None:
        """Here a table has columns that its next row would tell."""
        found = self._added.met(xid)
        if found is None:
            return
        oid, table = found
        if table.id not in self._introduced:
            self._versions[table.id], self._oids[table.id] = table, oid
            self._check_shape(oid, table)
            self._introduce(table.id)

    def _introduce(self, table_id: bytes) -> None:
        """The first row of a table version that the log does not hold yet."""
        table = self._versions[table_id]
        previous = self._by_name.get((table.schema, table.name))
        if previous is not None:
            self._announce_columns(previous, table)
        self._know(table)

    def _know(self, table: TableSchema) -> None:
        """From here on the log holds this version, and later ones are compared with it."""
        self._packer.need(table)
        self._by_name[table.schema, table.name] = table
        self._introduced.add(table.id)

    def _announce_columns(self, previous: TableSchema, table: TableSchema) -> None:
        added = added_columns(previous, table)
        if not added:
            return
        self._see_transaction()
        columns = read_columns(self._capture.sql, self._oids[table.id])
        self._check_shape(self._oids[table.id], table)  # no rewrite came before `columns` were read
        catalog = {column.name: column for column in columns}
        payload = describe_added(previous, table, added, catalog)
        self._packer.need(table)
        change = Change(Operation.DDL, table.id, payload=payload)
        self._append(self._packer.add(encode_change(change)))
        self._check_shape(self._oids[table.id], table, is_announced=True)
        names = ", ".join(column.name for column in added)
        logger.info("columns added", extra={"table": table.qualified_name, "columns": names})


def _take_out(messages: list[bytes], at: int) -> bytes:
    """Nobody else holds it then: one of a wide row is freed once it is decoded."""
    message = messages[at]
    messages[at] = b""
    return message


def _ends(commit: Commit, begin: Begin) -> bool:
    """Whether Commit says what Begin announced, which parts already in the log went by (P3)."""
    return (commit.commit_lsn, commit.commit_time) == (begin.commit_lsn, begin.commit_time)
