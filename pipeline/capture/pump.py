"""Capture's main loop: messages from the slot become frames in the log, and the slot is confirmed
only after them (P3, P9).

One iteration: take a batch, decode and pack it, append what is full, see what became durable, confirm
exactly that, and append the rest, unless it should gather (`writing.gathering`). Housekeeping (anchors,
heartbeats, sequences, the publication's identity, new tables) happens only between transactions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from connectors.failpoints import failpoint
from connectors.postgres.binary.rows import BinaryRows, Converter
from connectors.postgres.replication.pgoutput import Begin, Commit, Decoder, Origin, RelationChanged
from connectors.postgres.replication.runs import Runs
from connectors.postgres.replication.stream import Batch
from connectors.postgres.replication.walsender import VALUE_TOO_LARGE
from pipeline.capture.ddl.judging import renamed_oids, renamed_tables
from pipeline.capture.entries.announcements import JOINS
from pipeline.capture.housekeeping import Housekeeping
from pipeline.capture.opened import OpenCapture
from pipeline.capture.rates import Rates
from pipeline.capture.sequences import ASKING, Sequences
from pipeline.capture.versions.added import ADDED_PREFIX, AddedColumns
from pipeline.capture.versions.versions import TableVersions
from pipeline.capture.waits import CaptureStopped
from pipeline.capture.writing.gathering import Gathering
from pipeline.capture.writing.packer import FramePacker, PackedBody
from schemas.change import Change, Message, Operation, Truncate
from schemas.changecodec import encode_change
from schemas.ddl.message import is_ddl
from schemas.errors import InternalError, RefusedData
from schemas.join import DEFINING, Join, is_join
from schemas.lsn import Lsn, Position

logger = logging.getLogger("keepstream.capture")

IDLE_READ_S = 0.25
BUSY_READ_S = 0.002
"""How long a read may wait while frames are on their way: their acknowledgement is looked for after it."""
_ROW_KINDS = b"IUD"
_NO_TABLE = bytes(8)
_DRY_S = 0.01
"""In that time a server that has more sends some of it."""


class Pump:
    """Runs one open capture until it is told to stop or something raises."""

    def __init__(
        self,
        capture: OpenCapture,
        housekeeping: Housekeeping,
        added: AddedColumns,
        sequences: Sequences,
        rates: Rates,
        *,
        publication: str,
        values: Converter | None = None,
        is_over: Callable[[Lsn], bool] = lambda _: False,
    ) -> None:
        """`values`: the stream is in binary form. `is_over`: asked between transactions, with what was
        confirmed, whether to end."""
        self._is_over = is_over
        self._capture = capture
        self._chain = capture.chain
        self._housekeeping = housekeeping
        self._added = added
        self._sequences = sequences
        self._rates = rates
        self._is_binary = values is not None
        self._decoder = _decoder(values)
        self._runs = Runs()
        self._packer = FramePacker(capture.live_tables)
        self._versions = TableVersions(capture, self._packer, self._add, publication=publication)
        self._tracking = capture.tracking
        self._messages = capture.tracking.messages
        self._resent = capture.resent
        self._tail = capture.chain.position
        self._transaction: Begin | None = None
        self._skipping = False
        self._gathering = Gathering(capture.chain.pace_s)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`; then what is complete is flushed, made durable and confirmed. That, too, where the
        source cannot send a row in this form (RefusedData, `value-too-large`)."""
        try:
            while not stop.is_set() and not self._ends():
                self.step()
        except CaptureStopped:
            pass  # what it looked for is looked for again at the next start
        except RefusedData as error:
            if error.code == VALUE_TOO_LARGE:
                self._finish()
            raise
        self._finish()

    @property
    def failed_at(self) -> Lsn:
        """Where the open transaction commits, or the tail between two: what could not be sent is not
        below."""
        return self._tail.lsn if self._transaction is None else self._transaction.commit_lsn

    def _ends(self) -> bool:
        return self._transaction is None and self._is_over(self._capture.stream.confirmed_lsn)

    def _finish(self) -> None:
        self._append(self._packer.flush())
        self._rates.position = self._chain.position
        deadline = time.monotonic() + 5.0
        while not self._chain.all_durable and time.monotonic() < deadline:
            self._confirm(0.1)

    def step(self) -> None:
        """One batch. Public for tests."""
        self._rates.beat_at = time.monotonic()
        stream = self._capture.stream
        batch = stream.read(self._read_s())
        self._take_all(batch.messages)
        if batch.messages:
            self._gathering.see(sent_at=batch.server_time, committed_at=self._rates.last_commit_time)
        if self._transaction is None and batch.wal_end >= self._tail.lsn:
            self._resent.prove()
        self._confirm(0.0)
        if not stream.queued_bytes:
            self._flush_unless_busy()
        if self._transaction is None:
            self._tracking.passed(batch.wal_end)
            if self._chain.all_durable and not self._packer.holds_transactions:
                self._rates.complete(batch.wal_end)
            self._keep_house(batch)
            self._tell_sequences()
        else:
            self._housekeeping.within_transaction()
        self._rates.position = self._chain.position
        self._sequences.look(self._chain.position)

    def _read_s(self) -> float:
        if self._packer.holds_transactions:
            return 0.0  # they have gathered
        is_idle = self._chain.all_durable and not self._sequences.is_reading
        return IDLE_READ_S if is_idle else BUSY_READ_S

    def _flush_unless_busy(self) -> None:
        """What the packer holds goes into the log, now or at a later step."""
        now, gathering = time.monotonic(), self._gathering
        if not self._packer.holds_transactions:
            gathering.begin(now)
            return
        if (early_s := gathering.early_s(now)) > 0:
            time.sleep(early_s)
            return
        left_s = gathering.left_s(now)
        if left_s > 0 and (self._more_comes(left_s) if gathering.is_behind else self._is_busy(left_s)):
            return
        self._append(self._packer.flush())
        gathering.flushed(now)

    def _is_busy(self, time_s: float) -> bool:
        """Whether the log had not answered yet; then its answer was waited for."""
        if self._chain.is_idle(0.0):
            return False
        self._chain.is_idle(time_s)
        return True

    def _more_comes(self, time_s: float) -> bool:
        """Let the stream's thread read on, until it brings nothing more or enough for a frame. Whether it
        brought any."""
        queued, ends_at = 0, time.monotonic() + time_s
        room_bytes = self._packer.target_bytes - self._packer.held_bytes
        while queued < room_bytes and (left_s := ends_at - time.monotonic()) > 0:
            time.sleep(min(left_s, _DRY_S))
            if self._capture.stream.queued_bytes == queued:
                break
            queued = self._capture.stream.queued_bytes
        return queued > 0

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
            self._rates.last_commit_lsn, self._rates.last_commit_time = Lsn(run.commit_lsn), run.commit_time
        if run.is_full:
            self._append(packer.flush())
        self._between_transactions()
        return run.after

    def _keep_house(self, batch: Batch) -> None:
        if self._housekeeping.is_look_due(time.monotonic()):
            self._append(self._packer.flush())  # else no table could join or leave
        joined = self._housekeeping.between_transactions(batch, self._packer)
        for table in joined:
            self._versions.known.add(table)
        if joined:
            self._sequences.forget()
        self._anchor_if_due()

    def _between_transactions(self) -> None:
        """What cannot wait for a batch that ends there: under load, one may never do (P6, P23)."""
        self._anchor_if_due()
        self._tell_sequences()

    def _tell_sequences(self) -> None:
        if self._resent.proven and self._sequences.is_due(self._chain.position.lsn):
            self._append(self._packer.flush())
            for values in self._sequences.take(self._chain.position.lsn):
                self._chain.sequences(values)

    def _anchor_if_due(self) -> None:
        if self._chain.wants_anchor:
            self._append(self._packer.flush())
            self._chain.anchor(self._packer.live_tables)

    def _confirm(self, timeout_s: float) -> None:
        durable = self._chain.settle(timeout_s)
        if not self._resent.proven:
            return
        confirmable = self._tracking.confirmable(durable.lsn)
        if confirmable > self._capture.stream.confirmed_lsn:
            failpoint("capture.after_durable")
            self._capture.stream.confirm(confirmable)
            failpoint("capture.after_confirm")
        if durable.lsn > self._rates.durable_lsn:
            self._rates.confirm(durable)

    def _append(self, bodies: Iterable[PackedBody]) -> None:
        for packed in bodies:
            self._chain.append(packed)
            self._rates.count(packed.changes, packed.transactions, len(packed.body))

    def _add(self, change: Change) -> None:
        self._append(self._packer.add(encode_change(change)))

    def _take(self, message: bytes) -> None:
        if self._skipping and message[0] in _ROW_KINDS:
            return
        decoded = self._decoder.decode(message)
        del message
        if isinstance(decoded, Change):
            if isinstance(decoded.payload, Truncate):
                self._versions.truncated(decoded.payload.tables)
            logged = None if self._skipping else self._logged(decoded)
            del decoded  # of a wide row, one copy less while it is sent
            if logged is not None:
                encoded = encode_change(logged)
                del logged
                self._append(self._packer.add(encoded))
        elif isinstance(decoded, Begin):
            self._begin(decoded)
        elif isinstance(decoded, Commit):
            self._commit(decoded)
        elif isinstance(decoded, RelationChanged):
            self._runs.forget(decoded.oid)
            described = self._versions.described(decoded)
            self._decoder.leave_out(decoded.oid, described.left_out, name=described.name)
        elif isinstance(decoded, Origin) and not self._skipping:
            self._packer.set_origin(decoded.name)

    def _begin(self, begin: Begin) -> None:
        self._transaction = begin
        self._skipping = self._tail.holds(begin.commit_lsn)
        self._versions.begin(begin.xid, skipping=self._skipping)
        if not self._skipping:
            self._resent.prove()
            self._messages.begin()
            self._packer.begin(xid=begin.xid, commit_lsn=begin.commit_lsn, commit_time=begin.commit_time)

    def _commit(self, commit: Commit) -> None:
        begin = self._transaction
        if begin is None or not _ends(commit, begin):
            raise InternalError("a commit without its begin came from the slot", code="pgoutput-order")
        self._transaction = None
        self._versions.end()
        self._rates.last_commit_lsn, self._rates.last_commit_time = commit.commit_lsn, commit.commit_time
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
        self._tracking.passed(commit.end_lsn)
        self._between_transactions()

    def _logged(self, change: Change) -> Change | None:
        """What of it has a place in the log; then the log knows its tables."""
        payload = change.payload
        if payload is None:
            oid, table = self._versions.introduce(change.table)
            if not self._is_binary:
                self._runs.know(oid, table, self._decoder.skipped(oid))
        elif isinstance(payload, Truncate):
            for table_id in payload.tables:
                self._versions.introduce(table_id)
        if not isinstance(payload, Message):
            return change
        if payload.transactional and is_ddl(payload.prefix) and self._transaction is not None:
            return self._follow(payload, self._transaction.xid)
        return change if self._is_logged(payload) else None

    def _follow(self, message: Message, xid: int) -> Change | None:
        """A schema message: behind it tables have the names that it tells."""
        before = self._capture.chain.publication
        followed = self._messages.follow(message, xid)
        after = self._capture.chain.publication
        self._versions.known.rename(renamed_tables(before, after))
        for oid in renamed_oids(before, after):
            self._runs.forget(oid)
            table = self._decoder.call(oid, self._messages.told[oid].name)
            if table is not None:
                self._versions.is_called(oid, table)
        if followed is None:
            return None
        if followed.message.installed:
            self._versions.begin_tracked(before, followed.message)
        self._versions.follow(followed.message)
        if followed.logged is None:
            return None
        if followed.logged.changes:
            self._sequences.forget()
        payload = replace(message, content=followed.logged.to_json())
        return Change(Operation.MESSAGE, _NO_TABLE, payload=payload)

    def _is_logged(self, message: Message) -> bool:
        """Whether a message has a place in the log. One outside of transactions has none in a log of
        transactions; and one about joining tables only if it is ours, because replicas do what it says."""
        begin = self._transaction
        if not message.transactional or begin is None:
            return False
        if is_join(message.prefix):
            if str(begin.xid) in self._chain.publication.of(JOINS):
                if message.prefix in DEFINING:
                    self._messages.joined(Join.from_json(message.content))
                return True
            logger.error("forged message left out", extra={"prefix": message.prefix, "xid": begin.xid})
            return False
        if message.prefix in ASKING:
            self._sequences.ask()
        if message.prefix == ADDED_PREFIX:
            found = self._added.met(begin.xid)
            if found is not None:
                self._versions.columns_added(*found)
        return True


def _decoder(values: Converter | None) -> Decoder:
    if values is None:
        return Decoder()
    rows = BinaryRows(values)
    return Decoder(row_encoder=rows.row_encoder, key_encoder=rows.key_encoder, binary=True)


def _take_out(messages: list[bytes], at: int) -> bytes:
    """Nobody else holds it then: one of a wide row is freed once it is decoded."""
    message = messages[at]
    messages[at] = b""
    return message


def _ends(commit: Commit, begin: Begin) -> bool:
    """Whether Commit says what Begin announced, which parts already in the log went by (P3)."""
    return (commit.commit_lsn, commit.commit_time) == (begin.commit_lsn, begin.commit_time)
