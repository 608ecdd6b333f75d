"""A log that holds history: the slot is owned, and its tail continued once source, slot and publication are
proven to be those of the log, before the epoch and behind it (P4, P5, P10, P11)."""

from __future__ import annotations

import logging
from contextlib import closing

from connectors.failpoints import failpoint
from connectors.postgres.catalog import publication as publications
from connectors.postgres.replication import slot as slots
from connectors.postgres.replication.stream import SlotStream
from connectors.postgres.replication.walsender import Walsender
from connectors.postgres.session import Session
from pipeline.capture.ddl.replay import Known
from pipeline.capture.ddl.tracking import Tracking
from pipeline.capture.history.resent import Resent
from pipeline.capture.history.source import check_slot
from pipeline.capture.opened import OpenCapture
from pipeline.capture.startup.attempt import Attempt
from pipeline.capture.startup.epoch import open_epoch
from pipeline.capture.startup.proofs import Proofs
from pipeline.capture.startup.publishing import selected
from pipeline.capture.writing.chainwriter import ChainWriter, SourceIdentity
from pipeline.follow import Follower
from schemas.errors import LogFenced, RetryLater
from schemas.lsn import ZERO, Lsn

logger = logging.getLogger("keepstream.capture")


class Continuing:
    """In one attempt, and its session."""

    def __init__(self, attempt: Attempt, sql: Session) -> None:
        self._attempt = attempt
        self._options = attempt.options
        self._sql = sql

    def open(self, seen: Follower) -> OpenCapture | None:
        """`seen`: the log, read to its end. Returns and raises what `Startup.open` does."""
        options, sql = self._options, self._sql
        stream_id = seen.chain.stream
        assert stream_id is not None
        walsender = self._attempt.walsender(sql, stream_id)
        self._attempt.walsenders.begin()
        proofs = Proofs(options, sql, seen)
        promoted = proofs.is_promoted(proofs.system(walsender))
        check_slot(options.slot, slots.read_slot(sql, options.slot), tail=None, promoted=promoted)
        stream = self._own_slot(walsender, stream_id)
        if stream is None:
            self._attempt.close_all()
            return None
        tail = self._find_own_tail(seen)
        assert tail.last_anchor is not None
        known = self._attempt.behind.known(tail, options.publication)
        with closing(self._attempt.take_walsender()) as second:  # ours streams
            source, _, _ = self._check_source(second, tail, known)
            writer, chain = open_epoch(self._attempt, stream_id, tail, source)
            source, sent_from, is_clear = self._check_source(second, tail, known)
        resent = Resent(chain.tail, last_commit_lsn=tail.last_commit_lsn, sent_from=sent_from)
        writing = ChainWriter(writer, chain, source)
        clear_at = chain.tail.lsn if is_clear else ZERO
        tracking = Tracking(sql, writing, options, self._attempt.waits, clear_at=clear_at)
        tracking.messages.open()
        live = known.live_tables
        failpoint("capture.before_anchor")
        writing.anchor(live)
        failpoint("capture.after_anchor")
        logger.info("log continued", extra={"position": str(chain.tail), "epoch": chain.epoch})
        selection = selected(sql, options, publications.read_publication(sql, options.publication))
        return OpenCapture(sql, stream, writer, writing, resent, live, selection, tracking)

    def _find_own_tail(self, seen: Follower) -> Follower:
        """The tail, once the slot is ours. Until then its owner moved slot, log and publication, so none
        of them could be compared with what was read of another (P4). A log that ends where it ended when it
        was `seen` is not read again: `open_epoch` does that (P5)."""
        if self._options.log.bounds().end == seen.next_place:
            return seen
        tail = self._attempt.find_tail()
        if tail.chain.stream != seen.chain.stream or not tail.chain.promised:
            raise LogFenced(f"{self._options.log.name} was made anew meanwhile", code="log-changed")
        return tail

    def _check_source(
        self, walsender: Walsender, tail: Follower, known: Known
    ) -> tuple[SourceIdentity, Lsn, bool]:
        """P10, P11: the source as the next ANCHOR says it, where the slot stands, and whether all was seen
        and nothing differs from what schema messages told. Else it is looked at again in the stream."""
        options, proofs = self._options, Proofs(self._options, self._sql, tail)
        system = proofs.system(walsender)
        promoted = proofs.is_promoted(system)
        slot = slots.read_slot(self._sql, options.slot)
        proofs.slot(slot, promoted=promoted)
        assert slot is not None
        seen = proofs.publication(
            known, promoted=promoted, slot=options.slot, reading=self._attempt.waits.for_wal
        )
        identity = SourceIdentity(system.system_id, system.timeline, seen.entries)
        return identity, slot.confirmed_flush_lsn or ZERO, seen.is_clear

    def _own_slot(self, walsender: Walsender, stream_id: bytes) -> SlotStream | None:
        """P4: wait as a standby until the slot is free; end its owner only if it is ours and silent."""
        options = self._options
        purpose = slots.owner_purpose(options.name, stream_id)
        watch = slots.OwnerWatch()
        while not self._attempt.stop.is_set():
            try:
                self._let_fail_over(walsender)
                return self._attempt.start_stream(walsender)
            except RetryLater as error:
                if error.code != "slot-active":
                    raise
                self._attempt.walsenders.drop()  # a standby needs no second one
            try:
                if slots.terminate_owner(
                    self._sql, options.slot, purpose=purpose, take_over=options.take_over, watch=watch
                ):
                    logger.warning("slot taken over", extra={"slot": options.slot})
                    continue
            except RetryLater as error:
                self._attempt.waits.begin(f"{error.message}; standing by", key=(error.code, watch.pid))
            self._attempt.stop.wait(1.0)
        return None

    def _let_fail_over(self, walsender: Walsender) -> None:
        """A slot that was made before the configuration said so."""
        slot = slots.read_slot(self._sql, self._options.slot) if self._options.failover else None
        if slot is not None and not slot.failover:
            walsender.let_fail_over(slot.name)
            logger.info("slot can fail over from now on", extra={"slot": slot.name})
