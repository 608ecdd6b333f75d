"""How capture begins (P4–P6, P10, P11): prove that source and log belong together, own the slot, open
an epoch, and prove again that nobody came between.

A log without any ANCHOR has promised nothing: publication and slot are made, the slot's snapshot gives
the first table versions, and the first ANCHOR stands at the slot's consistent point. A log with one
is continued from its tail.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from contextlib import closing

from connectors.ahead import Ahead
from connectors.failpoints import failpoint
from connectors.interfaces import LogWriter
from connectors.postgres.catalog import publication as publications
from connectors.postgres.catalog.publication import Publication
from connectors.postgres.catalog.replica_identity import set_full_identity
from connectors.postgres.catalog.tables import Table, list_tables
from connectors.postgres.copy.snapshot import name_blockers, slot_blockers
from connectors.postgres.failover.primary import require_failover_slots, require_primary, require_same_server
from connectors.postgres.limits.harmless import require_harmless
from connectors.postgres.limits.unfit import require_fit_columns
from connectors.postgres.replication import slot as slots
from connectors.postgres.replication.relation import published_tables
from connectors.postgres.replication.stream import SlotStream
from connectors.postgres.replication.walsender import CreatedSlot, SystemIdentity, Walsender
from connectors.postgres.session import Session, connect, wrapped
from pipeline import purposes
from pipeline.capture.ddl.looking import first_told
from pipeline.capture.ddl.replay import Behind, Known
from pipeline.capture.ddl.tracking import Tracking
from pipeline.capture.history.publication import published_now
from pipeline.capture.history.resent import Resent
from pipeline.capture.history.source import check_leftover, check_slot
from pipeline.capture.history.timelines import Lineage
from pipeline.capture.opened import OpenCapture
from pipeline.capture.options import CaptureOptions
from pipeline.capture.proofs import Proofs
from pipeline.capture.waits import CaptureStopped, Waits
from pipeline.capture.writing.chainwriter import ChainWriter, SourceIdentity, now_us
from pipeline.config import Partitions
from pipeline.follow import Follower, find_tail
from pipeline.selection import Selection, is_by_root, mixed_names, select_tables, unheld
from schemas.entries import Entries
from schemas.errors import HistoryBroken, LogFenced, OperatorNeeded, RetryLater
from schemas.frame import NO_DIGEST, CaptureStart
from schemas.framecodec import FrameHeader, encode_capture_start, seal_frame
from schemas.identifiers import qualified
from schemas.lsn import ZERO, Lsn, Position
from schemas.table import TableSchema
from schemas.validity import Chain, ignorable

logger = logging.getLogger("keepstream.capture")

_AGAIN_S = 1.0
_LOCK_WAIT_MS = 5000
"""For no look at the catalog does capture wait longer; it begins again, and says so."""


class Startup:
    """One attempt to begin. Everything it opened is closed again if it fails. `binary`: see `SlotStream`.

    lineage, entries: which source the log follows, and what its newest ANCHOR says, once that was read; also
    of an attempt that failed.
    """

    def __init__(
        self, options: CaptureOptions, stop: threading.Event, waits: Waits, *, binary: bool = False
    ) -> None:
        self._binary = binary
        self._options = options
        self._stop = stop
        self._waits = waits
        self.lineage: Lineage | None = None
        self.entries: Entries | None = None
        self._opened: list[Callable[[], None]] = []
        self._behind = Behind()
        self._walsenders = Ahead(self._new_walsender, Walsender.close)

    def open(self) -> OpenCapture | None:
        """None: `stop` was set while waiting. Raises HistoryBroken, OperatorNeeded, RefusedData, RetryLater,
        LogFenced; InternalError (`anchor-malformed`, `ddl-malformed`)."""
        try:
            return self._open()
        except BaseException:
            self._close_all()
            raise
        finally:
            self._walsenders.close()

    def _close_all(self) -> None:
        for close in reversed(self._opened):
            close()

    def _open(self) -> OpenCapture | None:
        options = self._options
        options.log.expect_reader()
        self._walsenders.begin()
        sql = connect(options.source, purpose=purposes.capture(options.name))
        self._opened.append(sql.close)
        require_primary(sql)
        if options.failover:
            require_failover_slots(sql.info.server_version)
        with wrapped("preparing capture's session"):
            sql.execute(f"set lock_timeout = {_LOCK_WAIT_MS}")
        if not options.log.exists():
            options.log.create()
        options.log.expect_epoch()
        tail = self._find_tail()
        if tail.chain.promised:
            return self._continue(sql, tail)
        return self._begin(sql, tail)

    def _find_tail(self) -> Follower:
        follower = find_tail(self._options.log, see=self._behind.see)
        follower.close()
        if follower.last_anchor is not None:
            self.lineage = Lineage.of(follower.last_anchor)
            self.entries = Entries.parse(follower.last_anchor.publication)
        return follower

    # a log that has promised nothing

    def _begin(self, sql: Session, tail: Follower) -> OpenCapture:
        options = self._options
        leftover = slots.read_slot(sql, options.slot)
        stream_id = tail.chain.stream or uuid.uuid4().bytes
        if leftover is not None:
            check_leftover(leftover, options.log.name, begun=tail.chain.stream is not None)
            self._free_leftover(sql, stream_id)
        walsender = self._walsender(sql, stream_id)
        system = walsender.identify_system()
        writer, chain = self._open_epoch(stream_id, tail, system)
        published = publications.read_publication(sql, options.publication)
        selection = self._select(sql, published)
        self._ensure_publication(sql, published, selection)
        if leftover is not None:
            slots.drop_slot(sql, options.slot)
        created = self._create_slot(sql, walsender)
        failpoint("capture.slot_created")
        live, identity = self._published_at(created)
        source = SourceIdentity(system.system_id, system.timeline, identity)
        stream = self._start_first_stream(walsender)
        writing = ChainWriter(writer, chain, source)
        at = Position(created.consistent_point)
        failpoint("capture.before_anchor")
        writing.anchor(live, at=at)
        logger.info("log begun", extra={"position": str(at), "tables": len(live)})
        resent = Resent(at, last_commit_lsn=None, sent_from=at.lsn)
        tracking = Tracking(sql, writing, options, self._waits)
        tracking.messages.open()
        return OpenCapture(sql, stream, writer, writing, resent, live, selection, tracking)

    def _free_leftover(self, sql: Session, stream_id: bytes) -> None:
        """P4: another capture may be in the middle of its set-up. Raises RetryLater (`slot-active`) if so."""
        options = self._options
        purpose = slots.owner_purpose(options.name, stream_id)
        slots.terminate_owner(sql, options.slot, purpose=purpose, take_over=options.take_over)

    def _ensure_publication(self, sql: Session, published: Publication | None, selection: Selection) -> None:
        options = self._options
        for name in selection.unheld:
            seen, hint = unheld(by_root=is_by_root(published, options.partitions))
            raise OperatorNeeded(f"{qualified(*name)}: {seen}", code="limit-unused", hint=hint)
        if published is not None:
            _require_fit(published, options.partitions)
            require_fit_columns(sql, options.publication)
            self._identify(sql, published, selection)
            return
        if selection.make_full and selection.limits:
            with sql.transaction(force_rollback=True):  # what is refused is so before a table is altered
                self._create_publication(sql, selection)
        for table in selection.make_full:
            self._set_full_identity(sql, table)
        with sql.transaction():
            self._create_publication(sql, selection)
        failpoint("capture.publication_created")
        logger.info(
            "publication created",
            extra={"publication": options.publication, "tables": len(selection.names)},
        )

    def _identify(self, sql: Session, published: Publication, selection: Selection) -> None:
        """Before the first row: PostgreSQL lets the application write to a table whose key replicas cannot
        use, such as one with a generated column."""
        listed = {table.oid for table in published.tables}
        for table in selection.make_full:
            if table.oid in listed and table.owned and table.full_problem is None:
                self._set_full_identity(sql, table)

    def _create_publication(self, sql: Session, selection: Selection) -> None:
        name, by_root = self._options.publication, self._options.partitions is Partitions.ROOT
        publications.create_publication(sql, name, selection.names, by_root=by_root, limits=selection.limits)
        full = {(table.schema, table.name) for table in selection.make_full}
        require_harmless(sql, name, selection.limits, make_full=full)

    def _set_full_identity(self, sql: Session, table: Table) -> None:
        while True:
            try:
                set_full_identity(sql, table)
            except RetryLater as error:
                if error.code != "lock-timeout" or self._stop.is_set():
                    raise
                self._waits.begin(
                    f"a pause in the use of {table.qualified_name}, to set its replica identity"
                )
                self._stop.wait(_AGAIN_S)
            else:
                return

    def _create_slot(self, sql: Session, walsender: Walsender) -> CreatedSlot:
        """Those that it waits for are named (P17)."""
        options = self._options

        def waiting(seconds: float) -> None:
            if self._stop.is_set():
                raise CaptureStopped("waiting for the slot")
            if seconds > 1:
                blockers = slot_blockers(sql, walsender.backend_pid)
                named = name_blockers(blockers) or "none that our role may see (pg_read_all_stats)"
                self._waits.begin(
                    f"slot {options.slot}: open transactions on the source must end first"
                    f" ({seconds:.0f} s): {named}",
                    key=frozenset((blocker.pid, blocker.gid) for blocker in blockers),
                )

        return walsender.create_slot(
            options.slot, temporary=False, export_snapshot=True, failover=options.failover, waiting=waiting
        )

    def _published_at(self, created: CreatedSlot) -> tuple[tuple[TableSchema, ...], Entries]:
        """Table versions and the publication's identity at the slot's consistent point, read in its
        snapshot: what somebody changed since then must differ from the ANCHOR (P11)."""
        with connect(self._options.source, purpose=purposes.capture(self._options.name)) as session:
            with wrapped("reading the source at the slot's first position"):
                session.execute("begin isolation level repeatable read read only")
                session.execute(f"set transaction snapshot '{created.snapshot}'")
            name = self._options.publication
            entries = published_now(session, name) | first_told(session, name)
            return published_tables(session, name), entries

    def _start_first_stream(self, walsender: Walsender) -> SlotStream:
        try:
            return self._start_stream(walsender)
        except HistoryBroken as error:
            if error.code != "slot-missing":
                raise
            raise LogFenced(
                f"slot {self._options.slot} has just been dropped by another capture that begins the log",
                code="slot-lost",
            ) from error

    # a log that holds history

    def _continue(self, sql: Session, seen: Follower) -> OpenCapture | None:
        options = self._options
        stream_id = seen.chain.stream
        assert stream_id is not None
        walsender = self._walsender(sql, stream_id)
        self._walsenders.begin()
        proofs = Proofs(options, sql, seen)
        promoted = proofs.is_promoted(proofs.system(walsender))
        check_slot(options.slot, slots.read_slot(sql, options.slot), tail=None, promoted=promoted)
        stream = self._own_slot(sql, walsender, stream_id)
        if stream is None:
            self._close_all()
            return None
        tail = self._find_own_tail(seen)
        assert tail.last_anchor is not None
        known = self._behind.known(tail, options.publication)
        with closing(self._take_walsender()) as second:  # ours streams
            source, _, _ = self._check_source(sql, second, tail, known)
            writer, chain = self._open_epoch(stream_id, tail, source)
            source, sent_from, is_clear = self._check_source(sql, second, tail, known)
        resent = Resent(chain.tail, last_commit_lsn=tail.last_commit_lsn, sent_from=sent_from)
        writing = ChainWriter(writer, chain, source)
        clear_at = chain.tail.lsn if is_clear else ZERO
        tracking = Tracking(sql, writing, options, self._waits, clear_at=clear_at)
        tracking.messages.open()
        live = known.live_tables
        failpoint("capture.before_anchor")
        writing.anchor(live)
        failpoint("capture.after_anchor")
        logger.info("log continued", extra={"position": str(chain.tail), "epoch": chain.epoch})
        selection = self._select(sql, publications.read_publication(sql, options.publication))
        return OpenCapture(sql, stream, writer, writing, resent, live, selection, tracking)

    def _find_own_tail(self, seen: Follower) -> Follower:
        """The tail, once the slot is ours. Until then its owner moved slot, log and publication, so none
        of them could be compared with what was read of another (P4). A log that ends where it ended when it
        was `seen` is not read again: `_open_epoch` does that (P5)."""
        if self._options.log.bounds().end == seen.next_place:
            return seen
        tail = self._find_tail()
        if tail.chain.stream != seen.chain.stream or not tail.chain.promised:
            raise LogFenced(f"{self._options.log.name} was made anew meanwhile", code="log-changed")
        return tail

    def _check_source(
        self, sql: Session, walsender: Walsender, tail: Follower, known: Known
    ) -> tuple[SourceIdentity, Lsn, bool]:
        """P10, P11: the source as the next ANCHOR says it, where the slot stands, and whether all was seen
        and nothing differs from what schema messages told. Else it is looked at again in the stream."""
        options, proofs = self._options, Proofs(self._options, sql, tail)
        system = proofs.system(walsender)
        promoted = proofs.is_promoted(system)
        slot = slots.read_slot(sql, options.slot)
        proofs.slot(slot, promoted=promoted)
        assert slot is not None
        seen = proofs.publication(known, promoted=promoted, slot=options.slot, reading=self._waits.for_wal)
        identity = SourceIdentity(system.system_id, system.timeline, seen.entries)
        return identity, slot.confirmed_flush_lsn or ZERO, seen.is_clear

    def _own_slot(self, sql: Session, walsender: Walsender, stream_id: bytes) -> SlotStream | None:
        """P4: wait as a standby until the slot is free; end its owner only if it is ours and silent."""
        options = self._options
        purpose = slots.owner_purpose(options.name, stream_id)
        watch = slots.OwnerWatch()
        while not self._stop.is_set():
            try:
                self._let_fail_over(sql, walsender)
                return self._start_stream(walsender)
            except RetryLater as error:
                if error.code != "slot-active":
                    raise
                self._walsenders.drop()  # a standby needs no second one
            try:
                if slots.terminate_owner(
                    sql, options.slot, purpose=purpose, take_over=options.take_over, watch=watch
                ):
                    logger.warning("slot taken over", extra={"slot": options.slot})
                    continue
            except RetryLater as error:
                self._waits.begin(f"{error.message}; standing by", key=(error.code, watch.pid))
            self._stop.wait(1.0)
        return None

    def _let_fail_over(self, sql: Session, walsender: Walsender) -> None:
        """A slot that was made before the configuration said so."""
        slot = slots.read_slot(sql, self._options.slot) if self._options.failover else None
        if slot is not None and not slot.failover:
            walsender.let_fail_over(slot.name)
            logger.info("slot can fail over from now on", extra={"slot": slot.name})

    # shared

    def _select(self, sql: Session, published: Publication | None) -> Selection:
        options = self._options
        tables = list_tables(sql, publication=options.publication)
        by_root = is_by_root(published, options.partitions)
        selection = select_tables(tables, options.tables, options.keyless, by_root=by_root)
        if selection.undecided:
            names = ", ".join(table.qualified_name for table in selection.undecided)
            logger.warning("tables left out", extra={"tables": names, "reason": "no usable replica identity"})
        return selection

    def _walsender(self, sql: Session, stream_id: bytes) -> Walsender:
        options = self._options
        walsender = self._take_walsender()
        self._opened.append(walsender.close)
        walsender.rename(slots.owner_purpose(options.name, stream_id))
        require_same_server(sql, walsender)
        return walsender

    def _take_walsender(self) -> Walsender:
        made = self._walsenders.take()
        return self._new_walsender() if made is None else made

    def _new_walsender(self) -> Walsender:
        return Walsender(self._options.source, purpose=purposes.capture(self._options.name))

    def _start_stream(self, walsender: Walsender) -> SlotStream:
        """From the slot's own position: what the log has already comes again and proves the history."""
        options = self._options
        stream = SlotStream(
            walsender, slot=options.slot, publication=options.publication, binary=self._binary
        )
        stream.start()
        self._opened.append(stream.close)
        return stream

    def _open_epoch(
        self, stream_id: bytes, tail: Follower, source: SystemIdentity | SourceIdentity
    ) -> tuple[LogWriter, Chain]:
        """P5: append CAPTURE_START, read the log up to it, and see that it was accepted and that the
        tail is still the one that was checked."""
        log = self._options.log
        epoch = tail.highest_epoch + 1
        nonce = uuid.uuid4().bytes
        start = CaptureStart(nonce, source.system_id, source.timeline, now_us())
        header = FrameHeader(stream_id, epoch, 0, NO_DIGEST, tail.chain.max_commit_time)
        record, _ = seal_frame(header, (), encode_capture_start(start))
        failpoint("capture.before_start_record")
        writer = log.begin_epoch(epoch, record, is_ignorable=ignorable(stream=stream_id, epoch=epoch))
        self._opened.append(writer.close)
        failpoint("capture.after_start_record")
        now = find_tail(log, near=tail.anchor.place if tail.anchor is not None else None)
        now.close()
        accepted = now.chain.epoch == epoch and now.chain.awaits_anchor and now.last_start == nonce
        if not accepted or _end(now.chain) != _end(tail.chain):
            raise LogFenced(
                f"epoch {epoch} was not the next one in {log.name}: another capture came first",
                code="epoch-lost",
            )
        return writer, now.chain


def _require_fit(publication: Publication, partitions: Partitions) -> None:
    """Raises OperatorNeeded (`publication-unfit`)."""
    for problem in (*mixed_names(publication, partitions), *publication.problems):
        raise OperatorNeeded(
            f"publication {publication.name} {problem}",
            code="publication-unfit",
            hint="Run `keepstream check`: it says how to mend it, or to make it anew.",
        )


def _end(chain: Chain) -> tuple[Position, int, bytes]:
    """Equal ends have equal frames before them: each names the digest of the one before."""
    return chain.tail, chain.number, chain.digest
