"""P7 under captures that overlap in every way: a state machine against a naive statement of the rule.

Captures do what P5 and P6 say (read, append a CAPTURE_START, read up to it, go on behind what they found),
but each can be frozen at any moment and wake up later, lose what it had in flight, or send it twice; records
of another stream and damage stand between. Some are careless: they go on behind what they found before
their CAPTURE_START, without looking whether it was accepted, without an ANCHOR, in the middle of a run of
parts, and put heartbeats there. Readers must not be harmed by them. The model knows the log's records by who
wrote them and behind which record, not by their bytes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.follow import Follower, follow_from_start
from schemas.frame import CaptureStart, Frame, Part, Transactions
from schemas.framecodec import FrameHeader, encode_capture_start, open_frame, seal_frame
from schemas.lsn import START
from schemas.validity import Chain, Verdict, adopt, enter, judge
from tests.damage import damaged
from tests.frames import OTHER_STREAM, STREAM, Writer
from tests.memorylog import MemoryLog

VERBS = st.lists(st.sampled_from(["transaction", "heartbeat", "anchor", "mix_up"]), max_size=4)
BEGIN_LSN = 1000
FIRST_COMMIT_LSN = 1050
STRIDE = 150
PARTS = 3


def is_large(transaction: int) -> bool:
    """Every other transaction of the source takes several frames."""
    return transaction % 2 == 1


def next_transaction(lsn: int) -> int:
    """P1: the first transaction of the source that a position does not hold. Each is 100 long; heartbeats
    can stand up to where the next one commits, exactly there too."""
    return -((FIRST_COMMIT_LSN - lsn) // STRIDE)


def commit_lsn(transaction: int) -> int:
    return FIRST_COMMIT_LSN + STRIDE * transaction


@dataclass(eq=False)
class Written:
    """A record as its writer knows it: `behind` is the record that it continues."""

    record: bytes
    kind: str
    epoch: int = 0
    number: int = 0
    behind: Written | None = None
    part: int = 0
    transaction: int = -1
    ours: bool = True
    frame: Frame | None = field(init=False)

    def __post_init__(self) -> None:
        self.frame = open_frame(self.record)


class Capture:
    """One capture process. `flight`: sealed and not yet in the log. `began`: its CAPTURE_START was accepted
    and the log up to it was read."""

    def __init__(self, nonce: int, epoch: int, stream: bytes, known: Chain, last: Written | None) -> None:
        self.writer = Writer(stream)
        self.writer.epoch = epoch
        self.known = (known, last)
        self.began = False
        self.careless = False
        self.last: Written | None = None
        self.landed: list[Written] = []
        self.part = 0
        header = FrameHeader(stream, epoch, 0, bytes(32), 0)
        body = encode_capture_start(CaptureStart(nonce.to_bytes(16), "7", 1, 0))
        self.start = Written(seal_frame(header, (), body)[0], "start", epoch, ours=stream == STREAM)
        self.flight = [self.start]

    def begin_carelessly(self, *, anchored: bool, in_the_middle: bool) -> None:
        self.careless = True
        self.begin(*self.known)
        if not anchored:
            self.last = self.known[1]
            self.flight.pop()
            self.writer.number, self.writer.digest = self.known[0].number, self.known[0].digest
        open_part = self.known[0].open_part
        if in_the_middle and open_part is not None:
            self.part = open_part.next_part - 1

    def begin(self, chain: Chain, last: Written | None) -> None:
        self.began, self.last = True, last
        self.writer.number, self.writer.digest, self.writer.lsn = chain.number, chain.digest, chain.tail.lsn
        self.writer.lsn = self.writer.lsn or BEGIN_LSN
        self._seal(self.writer.anchor(), "anchor")

    def write(self, verbs: list[str]) -> None:
        for verb in verbs:
            getattr(self, verb)()

    def anchor(self) -> None:
        if self.careless or not self.part:
            self._seal(self.writer.anchor(), "anchor")

    def heartbeat(self) -> None:
        """Up to where the next transaction commits, at most."""
        lsn = self.writer.lsn
        if (self.careless or not self.part) and lsn + 10 <= commit_lsn(next_transaction(lsn)):
            self._seal(self.writer.heartbeat(), "heartbeat")

    def transaction(self) -> None:
        number = next_transaction(self.writer.lsn)
        self.writer.lsn = commit_lsn(number)
        if not is_large(number):
            self._seal(self.writer.transaction(xid=number), "whole", number)
            return
        self.part += 1
        last = self.part == PARTS
        self._seal(self.writer.part(self.part, last=last, xid=number), "part", number)
        self.part = 0 if last else self.part

    def mix_up(self) -> None:
        """Parts of two transactions as if they were of one: only a careless capture does that."""
        if self.careless:
            while not self.part:
                self.transaction()
            self.writer.lsn += 2 * STRIDE
            self.transaction()

    def _seal(self, record: bytes, kind: str, transaction: int = -1) -> None:
        writer = self.writer
        part = self.part if kind == "part" else 0
        self.last = Written(
            record, kind, writer.epoch, writer.number, self.last, part, transaction, self.start.ours
        )
        self.flight.append(self.last)


class Rule7:
    """P7 as it is written, over what the writers know. `accepted`: the chain; `verdicts`: of every record."""

    def __init__(self) -> None:
        self.epoch = 0
        self.seen_ours = False
        self.broken = True  # nothing counts before a CAPTURE_START
        self.wants_anchor = False
        self.accepted: list[Written] = []
        self.counted: list[Written] = []
        self.verdicts: list[Verdict] = []

    def take(self, written: Written) -> None:
        verdict = self._judge(written)
        self.verdicts.append(verdict)
        if verdict is Verdict.START:
            self.epoch, self.broken, self.wants_anchor = written.epoch, False, True
            self.counted.append(written)
        elif verdict is Verdict.ACCEPTED:
            self.wants_anchor = False
            self.accepted.append(written)
            self.counted.append(written)
        elif verdict is Verdict.BROKEN:
            self.broken = True

    def _judge(self, written: Written) -> Verdict:
        if written.kind == "damage":
            return Verdict.BROKEN
        if not written.ours:
            return Verdict.FOREIGN
        if written.kind == "start":
            return Verdict.START if written.epoch > self.epoch else Verdict.STALE
        if written.epoch < self.epoch:
            return Verdict.STALE
        if written.epoch > self.epoch or self.broken:
            return Verdict.BROKEN
        if written.number <= len(self.accepted):
            return Verdict.DUPLICATE
        tail = self.accepted[-1] if self.accepted else None
        follows = _same(written.behind, tail) and (written.kind == "anchor" or not self.wants_anchor)
        return Verdict.ACCEPTED if follows and self._fits_run(written) else Verdict.BROKEN

    def _fits_run(self, written: Written) -> bool:
        """Nothing comes between the parts of a transaction, unless a CAPTURE_START voided them."""
        before = self.counted[-1]
        inside = before.kind == "part" and before.part < PARTS
        if not inside:
            return written.part in (0, 1)
        return written.part == before.part + 1 and written.transaction == before.transaction

    def transactions(self) -> list[int]:
        """What a reader gets whole."""
        return [w.transaction for w in self.accepted if w.kind == "whole" or w.part == PARTS]


def _same(one: Written | None, other: Written | None) -> bool:
    """Two careless captures may write the very same."""
    return one is other or (one is not None and other is not None and one.record == other.record)


class Overlapping(RuleBasedStateMachine):
    """Any interleaving of captures; every reader must agree with the rule and with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.captures: list[Capture] = []
        self.log: list[Written] = []
        self.rule = Rule7()
        self.chain = Chain()
        self.chains: list[Chain] = []
        self.verdicts: list[Verdict] = []
        self.delivered: list[int] = []
        self.run: list[Part] = []

    @initialize(stream=st.sampled_from([None, STREAM]))
    def a_first_capture(self, stream: bytes | None) -> None:
        self.chain = Chain(stream=stream)
        self.first_stream = stream
        self._begin_capture(STREAM)
        self._land(self.captures[0])
        self._reads_its_start(self.captures[0])

    # what captures do

    @rule()
    def a_capture_starts(self) -> None:
        self._begin_capture(STREAM)

    @rule()
    def a_capture_of_another_stream_starts(self) -> None:
        self._begin_capture(OTHER_STREAM)

    def _begin_capture(self, stream: bytes) -> Capture:
        epochs = [w.epoch for w in self.log if w.kind != "damage" and w.ours == (stream == STREAM)]
        known, last = self.chain, self.rule.accepted[-1] if self.rule.accepted else None
        if stream == OTHER_STREAM:
            known, last = Chain(), None
        capture = Capture(len(self.captures), max(epochs, default=0) + 1, stream, known, last)
        self.captures.append(capture)
        return capture

    def _reads_its_start(self, capture: Capture) -> bool:
        """P5: whether it goes on; it begins again if another one came first."""
        at = next((i for i, w in enumerate(self.log) if w is capture.start), None)
        if at is None or capture.began:
            return False
        if not capture.start.ours:
            capture.begin(Chain(), None)
        elif self.verdicts[at] is Verdict.START:
            before = self.chains[at]
            accepted = [w for w, v in zip(self.log[:at], self.verdicts, strict=False) if v is ACCEPTED]
            capture.begin(before, accepted[-1] if accepted else None)
        else:
            self.captures.remove(capture)
        return True

    @rule(data=st.data())
    def one_reads_up_to_its_start(self, data: st.DataObject) -> None:
        waiting = [c for c in self.captures if not c.began and c.start in self.log]
        if waiting:
            self._reads_its_start(data.draw(st.sampled_from(waiting)))

    @rule(data=st.data(), anchored=st.booleans(), in_the_middle=st.booleans())
    def one_goes_on_carelessly(self, data: st.DataObject, anchored: bool, in_the_middle: bool) -> None:
        waiting = [c for c in self.captures if not c.began]
        if waiting:
            capture = data.draw(st.sampled_from(waiting))
            capture.begin_carelessly(anchored=anchored, in_the_middle=in_the_middle)

    @rule(data=st.data(), verbs=VERBS)
    def one_writes(self, data: st.DataObject, verbs: list[str]) -> None:
        """Replaced ones too: a frozen process does not know that it was."""
        begun = [c for c in self.captures if c.began]
        if begun:
            data.draw(st.sampled_from(begun)).write(verbs)

    @rule(before=VERBS, missed=VERBS, verbs=VERBS, anchored=st.booleans(), in_the_middle=st.booleans())
    def one_goes_on_carelessly_behind_what_another_has_written(
        self, before: list[str], missed: list[str], verbs: list[str], anchored: bool, in_the_middle: bool
    ) -> None:
        """It looks, the other one writes what it misses, and it reaches the numbers behind that."""
        other = self._begin_capture(STREAM)
        self._land_all(other)
        self._reads_its_start(other)
        other.write(before)
        self._land_all(other)
        careless = self._begin_capture(STREAM)
        other.write(missed)
        numbers = len(other.flight)
        self._land_all(other)
        careless.begin_carelessly(anchored=anchored, in_the_middle=in_the_middle)
        careless.write(["anchor"] * numbers + verbs)
        self._land_all(careless)

    @rule(data=st.data(), count=st.integers(1, 6))
    def what_one_had_in_flight_lands(self, data: st.DataObject, count: int) -> None:
        flying = [c for c in self.captures if c.flight]
        if flying:
            capture = data.draw(st.sampled_from(flying))
            for _ in range(min(count, len(capture.flight))):
                self._land(capture)

    @rule(data=st.data())
    def one_goes_on_quickly(self, data: st.DataObject) -> None:
        """Most of the time a capture has the log for itself."""
        capture = data.draw(st.sampled_from(self.captures)) if self.captures else None
        if capture is not None:
            self._land_all(capture)
            self._reads_its_start(capture)
            self._land_all(capture)

    @rule(data=st.data(), count=st.integers(1, 3))
    def what_one_had_in_flight_is_lost(self, data: st.DataObject, count: int) -> None:
        flying = [c for c in self.captures if c.flight]
        if flying:
            del data.draw(st.sampled_from(flying)).flight[:count]

    @rule(data=st.data())
    def a_record_is_sent_again(self, data: st.DataObject) -> None:
        again = [c for c in self.captures if c.landed]
        if again:
            landed = data.draw(st.sampled_from(again)).landed
            self._append(landed[data.draw(st.integers(max(0, len(landed) - 3), len(landed) - 1))])

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def a_record_is_damaged(self, data: st.DataObject) -> None:
        sound = next(written for written in reversed(self.log) if written.kind != "damage")
        self._append(Written(data.draw(damaged(sound.record)), "damage"))

    def _land_all(self, capture: Capture) -> None:
        while capture.flight:
            self._land(capture)

    def _land(self, capture: Capture) -> None:
        written = capture.flight.pop(0)
        capture.landed.append(written)
        self._append(written)

    # what readers see

    def _append(self, written: Written) -> None:
        self.log.append(written)
        self.rule.take(written)
        self.chain, verdict = judge(self.chain, written.frame)
        self.chains.append(self.chain)
        self.verdicts.append(verdict)
        self._deliver(written, verdict)

    def _deliver(self, written: Written, verdict: Verdict) -> None:
        """What a consumer does with the frames that count."""
        if verdict is Verdict.START:
            self.run = []
        if verdict is not Verdict.ACCEPTED:
            return
        assert written.frame is not None
        body = written.frame.body
        if isinstance(body, Transactions):
            assert self.run == []
            self.delivered += [transaction.xid for transaction in body.transactions]
        elif isinstance(body, Part):
            self.run.append(body)
            if body.commit is not None:
                assert [(part.xid, part.part) for part in self.run] == [
                    (body.xid, number) for number in range(1, PARTS + 1)
                ]
                self.delivered.append(body.xid)
                self.run = []

    @invariant()
    def the_verdicts_are_those_of_the_rule(self) -> None:
        assert self.verdicts == self.rule.verdicts
        assert self.chain.number == len(self.rule.accepted)

    @invariant()
    def every_transaction_comes_once_and_whole_and_in_order(self) -> None:
        assert self.delivered == self.rule.transactions() == list(range(len(self.delivered)))
        if self.chain.promised:
            assert next_transaction(self.chain.tail.lsn) == len(self.delivered)
        else:
            assert self.chain.tail == START

    def teardown(self) -> None:
        self._accepted_frames_are_one_chain()
        self._readers_that_begin_at_any_anchor_agree()
        self._followers_agree()

    def _accepted_frames_are_one_chain(self) -> None:
        accepted = [w.frame for w, v in zip(self.log, self.verdicts, strict=True) if v is ACCEPTED]
        frames = [frame for frame in accepted if frame is not None]
        assert [frame.number for frame in frames] == list(range(1, len(accepted) + 1))
        for before, after in itertools.pairwise(frames):
            assert after.previous_digest == before.digest

    def _readers_that_begin_at_any_anchor_agree(self) -> None:
        for at, verdict in enumerate(self.verdicts):
            frame = self.log[at].frame
            chain = adopt(frame) if verdict is ACCEPTED and frame is not None else None
            if chain is None:
                assert enter(Chain(stream=STREAM), frame, at_start=False) is None or verdict is not ACCEPTED
                continue
            assert chain == self.chains[at]
            for later in range(at + 1, len(self.log)):
                chain, seen = judge(chain, self.log[later].frame)
                assert (chain, seen) == (self.chains[later], self.verdicts[later])

    def _followers_agree(self) -> None:
        records = [written.record for written in self.log]
        follower = follow_from_start(MemoryLog(records), stream=self.first_stream)  # type: ignore[arg-type]
        followed = follower.read(0) if records else []
        counts = [i for i, v in enumerate(self.verdicts) if v in (ACCEPTED, Verdict.START)]
        # The first ANCHOR begins a chain wherever a reader finds it, be its START lost.
        assert [f.place for f in followed] == counts
        assert isinstance(follower, Follower)
        assert follower.chain == self.chain


ACCEPTED = Verdict.ACCEPTED
TestOverlapping = Overlapping.TestCase
