"""P7: the validity function, rule by rule, and under arbitrary interleavings of writers."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from schemas.framecodec import open_frame
from schemas.validity import Chain, Verdict, adopt, enter, ignorable, judge
from tests.frames import OTHER_STREAM, STREAM, Writer, opened


def judged(records: list[bytes], chain: Chain | None = None) -> tuple[Chain, list[Verdict]]:
    chain = chain or Chain()
    verdicts = []
    for record in records:
        chain, verdict = judge(chain, open_frame(record))
        verdicts.append(verdict)
    return chain, verdicts


START, ACCEPTED, STALE = Verdict.START, Verdict.ACCEPTED, Verdict.STALE
DUPLICATE, BROKEN, FOREIGN = Verdict.DUPLICATE, Verdict.BROKEN, Verdict.FOREIGN


def test_an_honest_log_is_accepted_whole() -> None:
    writer = Writer()
    records = [
        writer.start(),
        writer.anchor(),
        writer.transaction(),
        writer.heartbeat(),
        writer.transaction(),
    ]
    chain, verdicts = judged(records)
    assert verdicts == [START] + [ACCEPTED] * 4
    assert (chain.number, chain.tail.lsn, chain.broken) == (4, writer.lsn, False)


def test_p7_a_replaced_writers_frames_are_stale() -> None:
    first = Writer()
    records = [first.start(), first.anchor(), first.transaction()]
    second = first.fork()
    records += [second.start(), first.transaction(), second.anchor(), first.transaction()]
    _, verdicts = judged(records)
    assert verdicts[3:] == [START, STALE, ACCEPTED, STALE]


def test_p7_a_second_start_of_the_same_epoch_is_ignored() -> None:
    first = Writer()
    second = first.fork()
    records = [first.start(), second.start(), first.anchor()]
    assert judged(records)[1] == [START, STALE, ACCEPTED]


def test_p7_another_stream_is_foreign() -> None:
    ours, other = Writer(), Writer(OTHER_STREAM)
    records = [ours.start(), other.start(), other.anchor(), ours.anchor()]
    assert judged(records)[1] == [START, FOREIGN, FOREIGN, ACCEPTED]


def test_p7_a_repeated_frame_is_a_duplicate() -> None:
    writer = Writer()
    records = [writer.start(), writer.anchor(), writer.transaction()]
    assert judged([*records, records[-1], records[1]])[1][3:] == [DUPLICATE, DUPLICATE]


def test_p7_a_hole_breaks_the_epoch_until_a_new_start() -> None:
    writer = Writer()
    records = [writer.start(), writer.anchor(), writer.transaction(), writer.transaction()]
    successor = Writer()
    successor.__dict__.update(writer.__dict__)
    del records[2]
    chain, verdicts = judged(records)
    assert verdicts == [START, ACCEPTED, BROKEN]
    assert chain.broken
    again = Writer()
    again.epoch, again.number, again.digest, again.lsn = 1, chain.number, chain.digest, chain.tail.lsn
    chain, verdicts = judged([again.start(), again.anchor()], chain)
    assert verdicts == [START, ACCEPTED]


def test_p7_the_next_number_behind_another_frame_breaks_the_epoch() -> None:
    """A capture that went on behind what it found *before* its CAPTURE_START would repeat a transaction."""
    first = Writer()
    records = [first.start(), first.anchor()]
    careless = first.fork()
    records += [first.transaction(), careless.start(), careless.anchor(), careless.transaction()]
    assert judged(records)[1] == [START, ACCEPTED, ACCEPTED, START, DUPLICATE, BROKEN]


def test_p7_an_anchor_with_the_next_number_behind_another_frame_breaks_the_epoch() -> None:
    """Only the digest tells: numbers, epoch and kind of frame are what must come next."""
    first = Writer()
    records = [first.start(), first.anchor()]
    careless = first.fork()
    records += [first.transaction(), careless.start(), careless.anchor(), careless.anchor()]
    records.append(careless.transaction())
    assert judged(records)[1][3:] == [START, DUPLICATE, BROKEN, BROKEN]


def test_p7_a_damaged_record_breaks_the_epoch() -> None:
    writer = Writer()
    records = [writer.start(), writer.anchor(), b"damaged", writer.transaction()]
    assert judged(records)[1] == [START, ACCEPTED, BROKEN, BROKEN]


def test_p6_the_first_frame_of_an_epoch_must_be_an_anchor() -> None:
    writer = Writer()
    assert judged([writer.start(), writer.transaction()])[1] == [START, BROKEN]


def test_p7_a_start_voids_an_unfinished_run_of_parts_and_the_tail_stays_before_it() -> None:
    writer = Writer()
    chain, _ = judged([writer.start(), writer.anchor(), writer.part(1), writer.part(2)])
    before = chain.tail
    assert chain.open_part is not None
    chain, verdicts = judged(
        [writer.start(), writer.anchor(), writer.part(1), writer.part(2, last=True)], chain
    )
    assert verdicts == [START, ACCEPTED, ACCEPTED, ACCEPTED]
    assert chain.tail.lsn > before.lsn


def test_parts_must_follow_each_other() -> None:
    writer = Writer()
    assert judged([writer.start(), writer.anchor(), writer.part(1), writer.part(3)])[1][-1] is BROKEN
    writer = Writer()
    assert judged([writer.start(), writer.anchor(), writer.part(1), writer.transaction()])[1][-1] is BROKEN
    writer = Writer()
    assert judged([writer.start(), writer.anchor(), writer.part(2)])[1][-1] is BROKEN


def test_parts_that_disagree_about_their_transaction_do_not_belong_together() -> None:
    for xid, commit_time, verdict in ((5, 7, ACCEPTED), (6, 7, BROKEN), (5, 8, BROKEN)):
        writer = Writer()
        records = [writer.start(), writer.anchor(), writer.part(1, xid=5, commit_time=7)]
        records.append(writer.part(2, xid=xid, commit_time=commit_time))
        assert judged(records)[1][-1] is verdict


def test_p12_a_reader_may_begin_at_an_anchor_and_nowhere_else() -> None:
    writer = Writer()
    start, anchor, transaction = writer.start(), writer.anchor(), writer.transaction()
    assert adopt(opened(start)) is None
    assert adopt(opened(transaction)) is None
    chain = adopt(opened(anchor))
    assert chain is not None
    assert judged([transaction], chain)[1] == [ACCEPTED]


def test_p12_a_chain_begins_at_its_own_stream_s_anchor_or_at_the_log_s_very_start() -> None:
    writer, other = Writer(), Writer(OTHER_STREAM)
    start, anchor = opened(writer.start()), opened(writer.anchor())
    other.start()
    foreign = opened(other.anchor())
    for begin in (Chain(), Chain(stream=STREAM)):
        assert enter(begin, start, at_start=False) is None
        assert enter(begin, None, at_start=False) is None
        assert enter(begin, start, at_start=True) == judge(begin, start)
        assert enter(begin, None, at_start=True) == judge(begin, None)
        for at_start in (True, False):
            assert enter(begin, anchor, at_start=at_start) == (adopt(anchor), ACCEPTED)
    assert enter(Chain(stream=STREAM), foreign, at_start=False) is None
    entered = enter(Chain(stream=STREAM), foreign, at_start=True)
    assert entered is not None
    assert entered[1] is FOREIGN


def test_p8_what_a_writer_may_ignore_between_its_own_records() -> None:
    writer, other = Writer(), Writer(OTHER_STREAM)
    stale = [writer.start(), writer.anchor()]
    newer = writer.fork()
    is_ignorable = ignorable(stream=STREAM, epoch=2)
    same, higher = newer.start(epoch=2), newer.start(epoch=3)
    assert all(map(is_ignorable, [*stale, same, other.start(), other.anchor()]))
    assert not any(map(is_ignorable, [higher, newer.anchor(), b"damaged"]))


@given(st.lists(st.sampled_from(["write", "crash", "replace", "late", "repeat", "damage"]), max_size=40))
def test_whatever_writers_do_accepted_frames_are_one_chain(events: list[str]) -> None:
    """Readers accept a chain of numbers without hole or repetition, and two readers agree: one that
    began at the start, and one that began at any anchor that was accepted."""
    owner, replaced = Writer(), []
    log = [owner.start(), owner.anchor()]
    for event in events:
        if event == "write":
            log.append(owner.transaction())
        elif event == "crash":
            owner.transaction()  # sealed, never arrived: the next one leaves a hole
        elif event == "replace":
            replaced.append(owner)
            chain, _ = judged(log)
            owner = Writer()
            owner.epoch, owner.number, owner.digest = chain.epoch, chain.number, chain.digest
            owner.lsn = chain.tail.lsn
            log += [owner.start(), owner.anchor()]
        elif event == "late" and replaced:
            log.append(replaced[-1].transaction())
        elif event == "repeat":
            log.append(log[-1])
        elif event == "damage":
            log.append(b"damaged")
    chain, verdicts = judged(log)
    accepted = [opened(log[i]) for i, verdict in enumerate(verdicts) if verdict is ACCEPTED]
    assert [frame.number for frame in accepted] == list(range(1, len(accepted) + 1))
    for before, after in itertools.pairwise(accepted):
        assert after.previous_digest == before.digest
    for index, verdict in enumerate(verdicts):
        frame = open_frame(log[index])
        adopted = adopt(frame) if verdict is ACCEPTED and frame is not None else None
        if adopted is not None:
            later, seen = judged(log[index + 1 :], adopted)
            assert seen == verdicts[index + 1 :]
            assert (later.number, later.digest, later.tail) == (chain.number, chain.digest, chain.tail)
