"""P5: the next epoch, of which the log has accepted that it is ours."""

from __future__ import annotations

import uuid

from connectors.failpoints import failpoint
from connectors.interfaces import LogWriter
from connectors.postgres.replication.walsender import SystemIdentity
from pipeline.capture.startup.attempt import Attempt
from pipeline.capture.writing.chainwriter import SourceIdentity, now_us
from pipeline.follow import Follower, find_tail
from schemas.errors import LogFenced
from schemas.frame import NO_DIGEST, CaptureStart
from schemas.framecodec import FrameHeader, encode_capture_start, seal_frame
from schemas.lsn import Position
from schemas.validity import Chain, ignorable


def open_epoch(
    attempt: Attempt, stream_id: bytes, tail: Follower, source: SystemIdentity | SourceIdentity
) -> tuple[LogWriter, Chain]:
    """P5: append CAPTURE_START, read the log up to it, and see that it was accepted and that the
    tail is still the one that was checked."""
    log = attempt.options.log
    epoch = tail.highest_epoch + 1
    nonce = uuid.uuid4().bytes
    start = CaptureStart(nonce, source.system_id, source.timeline, now_us())
    header = FrameHeader(stream_id, epoch, 0, NO_DIGEST, tail.chain.max_commit_time)
    record, _ = seal_frame(header, (), encode_capture_start(start))
    failpoint("capture.before_start_record")
    writer = log.begin_epoch(epoch, record, is_ignorable=ignorable(stream=stream_id, epoch=epoch))
    attempt.keep(writer.close)
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


def _end(chain: Chain) -> tuple[Position, int, bytes]:
    """Equal ends have equal frames before them: each names the digest of the one before."""
    return chain.tail, chain.number, chain.digest
