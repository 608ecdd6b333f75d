"""P7: which records of the log are valid, as one pure function that capture and every reader use.

`Chain` is the state, a value; `judge` takes the next frame and returns the new chain and a verdict.
Nothing is remembered elsewhere, so any two readers of the same records agree.

    CAPTURE_START of our stream with a higher epoch  → START: a new epoch, its ANCHOR must come next
    foreign stream, or a CAPTURE_START not higher    → FOREIGN / STALE: ignored
    lower epoch                                      → STALE: a writer that was replaced
    number ≤ current                                 → DUPLICATE: ignored
    next number, right previous digest               → ACCEPTED
    anything else, a damaged record included         → BROKEN: everything is ignored until a START
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from schemas.frame import NO_DIGEST, Anchor, CaptureStart, Frame, Part
from schemas.framecodec import open_frame
from schemas.lsn import START, Lsn, Position


class Verdict(Enum):
    """What a reader does with a record: only START and ACCEPTED count."""

    START = "start"
    ACCEPTED = "accepted"
    FOREIGN = "foreign"
    STALE = "stale"
    DUPLICATE = "duplicate"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class OpenPart:
    """The transaction whose parts are coming in: what the next part must name."""

    xid: int
    commit_lsn: Lsn
    commit_time: int
    next_part: int


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a reader of the log stands.

    stream: None before the first START or adopted ANCHOR. number, digest: of the last valid frame,
    the chain's tail. tail: position after the last *complete* transaction. broken: the epoch is
    over, a START must come. awaits_anchor: a START was accepted and its ANCHOR was not yet.
    """

    stream: bytes | None = None
    epoch: int = 0
    number: int = 0
    digest: bytes = NO_DIGEST
    tail: Position = START
    max_commit_time: int = 0
    broken: bool = False
    awaits_anchor: bool = False
    open_part: OpenPart | None = None

    @property
    def promised(self) -> bool:
        """Whether any ANCHOR was accepted; a log without one has promised nothing (P6)."""
        return self.number > 0


def adopt(frame: Frame) -> Chain | None:
    """The chain of a reader that begins at this frame: an ANCHOR, else None (P12)."""
    if not isinstance(frame.body, Anchor):
        return None
    return Chain(
        stream=frame.stream,
        epoch=frame.epoch,
        number=frame.number,
        digest=frame.digest,
        tail=frame.body.at,
        max_commit_time=frame.max_commit_time,
    )


def enter(chain: Chain, frame: Frame | None, *, at_start: bool) -> tuple[Chain, Verdict] | None:
    """`judge` for a chain that has not begun: at an ANCHOR of its stream, else at the log's very start.

    None: nothing can be said of this record and the chain has not begun, because the reader came into
    the middle of the log, where only an ANCHOR tells what is valid (P12).
    """
    foreign = frame is not None and chain.stream not in (None, frame.stream)
    begun = adopt(frame) if frame is not None and not foreign else None
    if begun is not None:
        return begun, Verdict.ACCEPTED
    return judge(chain, frame) if at_start else None


def judge(chain: Chain, frame: Frame | None) -> tuple[Chain, Verdict]:
    """The chain after the next record, and what to do with it. `frame` None: a damaged record."""
    if frame is None:
        return _break(chain)
    if chain.stream is not None and frame.stream != chain.stream:
        return chain, Verdict.FOREIGN
    if isinstance(frame.body, CaptureStart):
        return _judge_start(chain, frame)
    if frame.epoch < chain.epoch:
        return chain, Verdict.STALE
    if chain.broken or chain.stream is None or frame.epoch > chain.epoch:
        return _break(chain)
    if frame.number <= chain.number:
        return chain, Verdict.DUPLICATE
    if frame.number != chain.number + 1 or frame.previous_digest != chain.digest:
        return _break(chain)
    return _accept(chain, frame)


def _judge_start(chain: Chain, frame: Frame) -> tuple[Chain, Verdict]:
    if frame.epoch <= chain.epoch:
        return chain, Verdict.STALE
    started = replace(
        chain, stream=frame.stream, epoch=frame.epoch, broken=False, awaits_anchor=True, open_part=None
    )
    return started, Verdict.START


def _accept(chain: Chain, frame: Frame) -> tuple[Chain, Verdict]:
    body = frame.body
    if chain.awaits_anchor and not isinstance(body, Anchor):
        return _break(chain)
    open_part: OpenPart | None = None
    if isinstance(body, Part):
        if not _continues(chain.open_part, body):
            return _break(chain)
        if body.commit is None:
            open_part = _naming(body, body.part + 1)
    elif chain.open_part is not None:
        return _break(chain)
    return (
        replace(
            chain,
            number=frame.number,
            digest=frame.digest,
            tail=frame.position if open_part is None and frame.position is not None else chain.tail,
            max_commit_time=max(chain.max_commit_time, frame.max_commit_time),
            awaits_anchor=False,
            open_part=open_part,
        ),
        Verdict.ACCEPTED,
    )


def _continues(open_part: OpenPart | None, body: Part) -> bool:
    if open_part is None:
        return body.part == 1
    return open_part == _naming(body, body.part)


def _naming(body: Part, part: int) -> OpenPart:
    return OpenPart(body.xid, body.commit_lsn, body.commit_time, part)


def _break(chain: Chain) -> tuple[Chain, Verdict]:
    return (chain if chain.broken else replace(chain, broken=True)), Verdict.BROKEN


def ignorable(*, stream: bytes, epoch: int) -> Callable[[bytes], bool]:
    """For a writer of this epoch: whether every reader ignores a record that somebody else wrote (P8)."""

    def is_ignorable(record: bytes) -> bool:
        frame = open_frame(record)
        if frame is None:
            return False
        if frame.stream != stream:
            return True
        if isinstance(frame.body, CaptureStart):
            return frame.epoch <= epoch
        return frame.epoch < epoch

    return is_ignorable
