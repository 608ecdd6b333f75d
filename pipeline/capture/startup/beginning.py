"""A log that has promised nothing: publication and slot are made, the slot's snapshot gives the first table
versions, and the first ANCHOR stands at the slot's consistent point (P6, P11)."""

from __future__ import annotations

import logging
import uuid

from connectors.failpoints import failpoint
from connectors.postgres.catalog import publication as publications
from connectors.postgres.copy.snapshot import name_blockers, slot_blockers
from connectors.postgres.replication import slot as slots
from connectors.postgres.replication.relation import published_tables
from connectors.postgres.replication.stream import SlotStream
from connectors.postgres.replication.walsender import CreatedSlot, Walsender
from connectors.postgres.session import Session, connect, wrapped
from pipeline import purposes
from pipeline.capture.ddl.looking import first_told
from pipeline.capture.ddl.tracking import Tracking
from pipeline.capture.history.publication import published_now
from pipeline.capture.history.resent import Resent
from pipeline.capture.history.source import check_leftover
from pipeline.capture.opened import OpenCapture
from pipeline.capture.startup.attempt import Attempt
from pipeline.capture.startup.epoch import open_epoch
from pipeline.capture.startup.publishing import Publishing, selected
from pipeline.capture.waits import CaptureStopped
from pipeline.capture.writing.chainwriter import ChainWriter, SourceIdentity
from pipeline.follow import Follower
from schemas.entries import Entries
from schemas.errors import HistoryBroken, LogFenced
from schemas.lsn import Position
from schemas.table import TableSchema

logger = logging.getLogger("keepstream.capture")


class Beginning:
    """In one attempt, and its session."""

    def __init__(self, attempt: Attempt, sql: Session) -> None:
        self._attempt = attempt
        self._options = attempt.options
        self._sql = sql

    def open(self, tail: Follower) -> OpenCapture:
        """`tail`: the log, read to its end. Raises what `Startup.open` does."""
        options, sql = self._options, self._sql
        leftover = slots.read_slot(sql, options.slot)
        stream_id = tail.chain.stream or uuid.uuid4().bytes
        if leftover is not None:
            check_leftover(leftover, options.log.name, begun=tail.chain.stream is not None)
            self._free_leftover(stream_id)
        walsender = self._attempt.walsender(sql, stream_id)
        system = walsender.identify_system()
        writer, chain = open_epoch(self._attempt, stream_id, tail, system)
        published = publications.read_publication(sql, options.publication)
        selection = selected(sql, options, published)
        Publishing(self._attempt, sql).ensure(published, selection)
        if leftover is not None:
            slots.drop_slot(sql, options.slot)
        created = self._create_slot(walsender)
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
        tracking = Tracking(sql, writing, options, self._attempt.waits)
        tracking.messages.open()
        return OpenCapture(sql, stream, writer, writing, resent, live, selection, tracking)

    def _free_leftover(self, stream_id: bytes) -> None:
        """P4: another capture may be in the middle of its set-up. Raises RetryLater (`slot-active`) if so."""
        options = self._options
        purpose = slots.owner_purpose(options.name, stream_id)
        slots.terminate_owner(self._sql, options.slot, purpose=purpose, take_over=options.take_over)

    def _create_slot(self, walsender: Walsender) -> CreatedSlot:
        """Those that it waits for are named (P17)."""
        options = self._options

        def waiting(seconds: float) -> None:
            if self._attempt.stop.is_set():
                raise CaptureStopped("waiting for the slot")
            if seconds > 1:
                blockers = slot_blockers(self._sql, walsender.backend_pid)
                named = name_blockers(blockers) or "none that our role may see (pg_read_all_stats)"
                self._attempt.waits.begin(
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
            return self._attempt.start_stream(walsender)
        except HistoryBroken as error:
            if error.code != "slot-missing":
                raise
            raise LogFenced(
                f"slot {self._options.slot} has just been dropped by another capture that begins the log",
                code="slot-lost",
            ) from error
