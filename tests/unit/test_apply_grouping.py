"""Planning target transactions: values in, steps out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from pipeline.apply import backlog, grouping
from pipeline.apply.backlog import Item, Whole
from pipeline.apply.grouping import (
    ApplyPart,
    Blocked,
    Brakes,
    Group,
    Limits,
    Move,
    Planner,
    RollBack,
    SetSequences,
    Step,
)
from pipeline.follow import Followed
from schemas.change import Change, Message, Operation, Truncate
from schemas.changecodec import encode_change
from schemas.errors import HistoryBroken
from schemas.frame import (
    NO_DIGEST,
    Anchor,
    Body,
    CaptureStart,
    Commit,
    Fragment,
    Frame,
    Heartbeat,
    Part,
    Sequences,
    Transaction,
    Transactions,
)
from schemas.lsn import Lsn, Position
from schemas.sequence import SequenceValue

ROW = Change(Operation.INSERT, b"t" * 8, row=b"\0")
TRUNCATE = Change(Operation.TRUNCATE, bytes(8), payload=Truncate((b"t" * 8,), False, False))
FREE = Brakes()


def transaction(number: int, *changes: Change, time: int | None = None) -> Transaction:
    """Number n commits at 100 n and ends at 100 n + 10."""
    encoded = [encode_change(change) for change in changes or (ROW,)]
    at = number * 100
    when = number if time is None else time
    return Transaction(number, Lsn(at), Lsn(at + 10), when, None, len(encoded), b"".join(encoded))


def part(number: int, index: int, *, last: bool = False) -> Part:
    at = number * 100
    commit = Commit(Lsn(at + 10), None) if last else None
    encoded = encode_change(ROW)
    return Part(number, Lsn(at), number, index, 1, encoded, None, commit)


def frame(body: Body, *, place: int = 0) -> Followed:
    value = Frame(b"s" * 16, 1, 1, NO_DIGEST, 0, (), body, b"d" * 32)
    return Followed(value, place, place + 1, False)


def planner(*bodies: Body, at: Position | None = None) -> Planner:
    made = Planner(at or Position(Lsn(50)), "")
    feed(made, *bodies)
    return made


def feed(made: Planner, *bodies: Body) -> None:
    for body in bodies:
        made.backlog.feed(frame(body, place=body.at.lsn if isinstance(body, Anchor) else 0))


def several(numbers: Sequence[int]) -> Transactions:
    return Transactions(tuple(transaction(number) for number in numbers))


def heartbeat(lsn: int) -> Heartbeat:
    return Heartbeat(Position(Lsn(lsn)), 0)


def anchor(lsn: int) -> Anchor:
    return Anchor(Position(Lsn(lsn)), "1", 1, (), 0)


def start() -> CaptureStart:
    return CaptureStart(bytes(16), "1", 1, 0)


def group(step: Step) -> list[int]:
    assert isinstance(step, Group)
    return [loaded.transaction.xid for loaded in step.transactions]


def drain(made: Planner, brakes: Brakes = FREE, limits: Limits | None = None) -> list[list[int]]:
    """All groups until nothing is left to do."""
    groups = []
    while isinstance(step := made.next(brakes, limits or Limits()), (Group, Move)):
        if isinstance(step, Group):
            groups.append(group(step))
        made.done(step)
    return groups


def moved(lsn: int, value: int = 1) -> Sequences:
    return Sequences(Position(Lsn(lsn)), (SequenceValue("public", "s", True, value, True),), 0)


def values(step: Step) -> list[int]:
    assert isinstance(step, SetSequences)
    return [value.last_value for value in step.values]


def test_sequences_are_set_between_the_groups_before_and_behind_their_place() -> None:
    made = planner(several(range(1, 9)), moved(900, 5), heartbeat(950), moved(960, 7), several([10, 11]))
    step = made.next(FREE, Limits())
    assert group(step) == list(range(1, 9))
    assert isinstance(step, Group)
    made.done(step)
    step = made.next(FREE, Limits())
    assert values(step) == [5, 7], "those that stand together, in their order"
    assert values(made.next(FREE, Limits())) == [5, 7], "until they are set"
    assert isinstance(step, SetSequences)
    made.done(step)
    assert drain(made) == [[10], [11]]


def test_sequences_past_a_hold_wait_behind_it() -> None:
    made = planner(moved(60, 1), moved(80, 2))
    step = made.next(Brakes(hold=Lsn(70)), Limits())
    assert values(step) == [1]
    assert isinstance(step, SetSequences)
    made.done(step)
    move = made.next(Brakes(hold=Lsn(70)), Limits())
    assert move == Move(Position(Lsn(70)))
    made.done(move)
    assert made.next(Brakes(hold=Lsn(70)), Limits()) is Blocked.HELD
    assert values(made.next(FREE, Limits())) == [2]
    assert planner(moved(40)).next(Brakes(hold=Lsn(45)), Limits()) is Blocked.HELD, "the replica is past it"


def test_a_caught_up_replica_takes_one_transaction_at_a_time() -> None:
    assert drain(planner(several([1, 2, 3]))) == [[1], [2], [3]]


def test_a_replica_that_is_behind_takes_many_transactions_at_once() -> None:
    assert drain(planner(several(range(1, 9)))) == [[1, 2, 3, 4, 5, 6, 7, 8]]


def test_a_group_is_bounded_by_changes() -> None:
    groups = drain(planner(several(range(1, 13))), limits=Limits(changes=5))
    assert groups[0] == [1, 2, 3, 4, 5]
    assert [number for numbers in groups for number in numbers] == list(range(1, 13))


def test_a_group_is_bounded_by_bytes() -> None:
    size = len(transaction(1).changes)
    assert drain(planner(several(range(1, 9))), limits=Limits(size_bytes=3 * size))[0] == [1, 2, 3]


def test_one_transaction_over_every_limit_is_still_applied() -> None:
    assert drain(planner(Transactions((transaction(1, *[ROW] * 9),))), limits=Limits(changes=1)) == [[1]]


def test_a_barrier_stands_alone() -> None:
    made = planner(
        several([1, 2, 3]), Transactions((transaction(4, ROW, TRUNCATE),)), several([5, 6, 7, 8, 9])
    )
    assert drain(made) == [[1, 2, 3], [4], [5, 6, 7, 8, 9]]


def test_a_foreign_message_is_no_barrier_and_the_message_of_a_joining_table_is_one() -> None:
    def message(prefix: str) -> Transactions:
        payload = Message(True, prefix, b"")
        return Transactions((transaction(3, Change(Operation.MESSAGE, bytes(8), payload=payload)),))

    rest = (several([4, 5, 6]),)
    assert drain(planner(several([1, 2]), message("other"), *rest)) == [[1, 2, 3, 4, 5, 6]]
    assert drain(planner(several([1, 2]), message("keepstream.join"), *rest)) == [[1, 2], [3], [4], [5], [6]]


def test_heartbeats_and_anchors_do_not_cut_a_group() -> None:
    made = planner(several([1, 2, 3]), heartbeat(350), anchor(350), several([4, 5, 6]))
    assert drain(made) == [[1, 2, 3, 4, 5, 6]]
    assert made.hint != ""


def test_a_step_that_was_not_done_is_planned_again() -> None:
    made = planner(several([1, 2]))
    assert group(made.next(FREE, Limits())) == [1]
    assert group(made.next(FREE, Limits())) == [1]


def test_a_failed_group_is_planned_one_by_one_and_later_ones_together_again() -> None:
    made = planner(several(range(1, 13)))
    assert group(made.next(FREE, Limits(transactions=6))) == [1, 2, 3, 4, 5, 6]
    made.one_by_one(6)
    assert drain(made) == [[1], [2], [3], [4], [5], [6], [7, 8, 9, 10, 11, 12]]


def test_transactions_that_the_position_holds_are_skipped() -> None:
    made = planner(several([1, 2, 3]), at=Position(Lsn(210), 2, 2))
    assert drain(made) == [[3]]


def test_a_commit_that_starts_exactly_at_the_position_is_applied() -> None:  # P1
    made = planner(several([1, 2]), at=Position(Lsn(200), 1, 1))
    assert drain(made) == [[2]]


def test_a_position_of_another_history_stops() -> None:  # P2
    with pytest.raises(HistoryBroken) as caught:
        planner(several([1, 2, 3]), at=Position(Lsn(210), 77, 2))
    assert caught.value.code == "other-history"


def test_a_position_ahead_of_the_log_waits() -> None:  # P2
    made = planner(several([1, 2]), at=Position(Lsn(910), 9, 9))
    assert made.next(FREE, Limits()) is Blocked.LOG_END
    feed(made, several([9, 10]))
    assert drain(made) == [[10]]


def test_p2_a_position_whose_transaction_the_log_never_had_stops() -> None:
    first = anchor(50)
    assert first.at.xid == 0
    with pytest.raises(HistoryBroken) as caught:
        planner(first, heartbeat(150), at=Position(Lsn(110), 1, 1))
    assert caught.value.code == "other-history"


def test_a_hold_stops_before_the_first_transaction_that_commits_at_or_past_it() -> None:  # P16
    made = planner(several([1, 2, 3]))
    brakes = Brakes(hold=Lsn(250))
    assert drain(made, brakes) == [[1], [2]]
    assert made.position == Position(Lsn(250), 2, 2)
    assert made.next(brakes, Limits()) is Blocked.HELD


def test_a_hold_cuts_a_group() -> None:
    made = planner(several(range(1, 9)))
    assert drain(made, Brakes(hold=Lsn(310))) == [[1, 2, 3]]
    assert made.position.lsn == 310


def test_a_transaction_that_commits_exactly_at_the_hold_is_not_applied() -> None:  # P1
    made = planner(several([1, 2]))
    assert drain(made, Brakes(hold=Lsn(200))) == [[1]]
    assert made.position == Position(Lsn(200), 1, 1)


def test_a_hold_that_comes_when_more_is_known_already_is_reached_exactly_too() -> None:  # P16
    made = planner(several([1]), Heartbeat(Position(Lsn(500), 1, 1), 0))
    assert drain(made) == [[1]]
    assert made.next(Brakes(), Limits()) is Blocked.LOG_END
    move = made.stand(Lsn(300))
    assert move == Move(Position(Lsn(300), 1, 1))
    made.done(move)
    assert made.stand(Lsn(300)) is None
    assert made.stand(None) == Move(Position(Lsn(500), 1, 1))


@pytest.mark.parametrize("numbers", [[1, 2, 3], range(1, 10)])
def test_a_hold_inside_of_a_commit_record_is_reached_exactly(numbers: Sequence[int]) -> None:  # P1
    made = planner(several(numbers))
    brakes = Brakes(hold=Lsn(205))
    assert [number for numbers in drain(made, brakes) for number in numbers] == [1, 2]
    assert made.position == Position(Lsn(205), 2, 2)
    assert made.next(brakes, Limits()) is Blocked.HELD
    assert made.stand(None) == Move(Position(Lsn(210), 2, 2))
    resumed = planner(several(numbers), at=made.position)
    assert [number for numbers in drain(resumed) for number in numbers] == list(numbers)[2:]


def test_the_position_comes_to_the_hold_only_when_the_log_is_known_past_it() -> None:
    made = planner(several([1]))
    brakes = Brakes(hold=Lsn(500))
    drain(made, brakes)
    assert made.next(brakes, Limits()) is Blocked.LOG_END
    feed(made, heartbeat(400))
    assert made.next(brakes, Limits()) is Blocked.LOG_END
    assert made.standing == Position(Lsn(400))
    feed(made, heartbeat(600))
    step = made.next(brakes, Limits())
    assert step == Move(Position(Lsn(500), 1, 1))
    made.done(step)
    assert made.next(brakes, Limits()) is Blocked.HELD
    assert made.next(FREE, Limits()) is Blocked.LOG_END
    assert made.standing == Position(Lsn(600))


def test_an_end_time_stops_before_the_first_later_commit_in_log_order() -> None:  # P23
    bodies = (transaction(1, time=10), transaction(2, time=30), transaction(3, time=20))
    made = planner(Transactions(bodies))
    brakes = Brakes(until_time=20)
    assert drain(made, brakes) == [[1]]
    assert made.next(brakes, Limits()) is Blocked.END_TIME


def test_a_delay_waits_until_a_transaction_is_old_enough() -> None:
    made = planner(several([1, 2]))
    assert drain(made, Brakes(due_before=1)) == [[1]]
    assert made.next(Brakes(due_before=1), Limits()) is Blocked.DELAYED
    assert drain(made, Brakes(due_before=2)) == [[2]]


def test_parts_are_applied_as_they_come() -> None:
    made = planner()
    inside = []
    for next_part in (part(1, 1), part(1, 2, last=True)):
        feed(made, next_part)
        step = made.next(FREE, Limits())
        assert step == ApplyPart(next_part, next_part.position)
        made.done(step)
        inside.append(made.inside)
        assert made.next(FREE, Limits()) is Blocked.LOG_END
    assert inside == [True, False]
    assert made.position == Position(Lsn(110), 1, 1)


def test_parts_that_are_all_there_are_a_transaction_like_others() -> None:
    made = planner(several([1]), part(2, 1), part(2, 2, last=True), several([3, 4, 5]))
    step = made.next(FREE, Limits())
    assert group(step) == [1, 2, 3, 4, 5]
    assert isinstance(step, Group)
    joined = step.transactions[1]
    assert joined.transaction == transaction(2, ROW, ROW)
    assert list(joined.changes) == [ROW, ROW]
    assert made.backlog.size_bytes == step.size_bytes
    made.done(step)
    assert made.backlog.size_bytes == 0


@pytest.mark.parametrize("limit", ["JOINED_BYTES", "JOINED_CHANGES"])
def test_parts_of_a_large_transaction_stay_parts(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, limit, 1)
    made = planner(several([1]), part(2, 1), part(2, 2, last=True))
    assert drain(made) == [[1]]
    assert made.next(FREE, Limits()) == ApplyPart(part(2, 1), None)


def test_a_part_with_a_piece_of_a_change_stays_a_part() -> None:
    encoded = encode_change(ROW)
    first = replace(part(2, 1), fragment=Fragment(encoded[:5], last=False))
    last = replace(
        part(2, 2, last=True), change_count=0, changes=b"", fragment=Fragment(encoded[5:], last=True)
    )
    made = planner(several([1]), first, last)
    assert drain(made) == [[1]]
    assert made.next(FREE, Limits()) == ApplyPart(first, None)


def test_a_new_epoch_rolls_unfinished_parts_back() -> None:  # P7
    made = planner(part(1, 1), start(), anchor(50), part(1, 1), part(1, 2, last=True))
    steps = []
    while not isinstance(step := made.next(FREE, Limits()), Blocked):
        assert not isinstance(step, Move)
        steps.append(type(step))
        made.done(step)
    assert steps == [ApplyPart, RollBack, Group]
    assert made.position.lsn == 110


def test_a_new_epoch_between_transactions_means_nothing() -> None:
    made = planner(several([1]), start(), anchor(110), several([2]))
    assert drain(made) == [[1], [2]]


@pytest.mark.parametrize(
    ("brakes", "outcome"),
    [
        (Brakes(hold=Lsn(100)), Move(Position(Lsn(100)))),
        (Brakes(until_time=0), Blocked.END_TIME),
        (Brakes(due_before=0), Blocked.DELAYED),
    ],
)
def test_the_first_part_alone_decides_that_a_transaction_must_wait(brakes: Brakes, outcome: Step) -> None:
    made = planner(part(1, 1))
    assert made.next(brakes, Limits()) == outcome


@pytest.mark.parametrize("brakes", [Brakes(hold=Lsn(101)), Brakes(until_time=1), Brakes(due_before=1)])
def test_the_first_part_alone_decides_that_a_transaction_may_begin(brakes: Brakes) -> None:
    made = planner(part(1, 1))
    assert made.next(brakes, Limits()) == ApplyPart(part(1, 1), None)


def test_parts_that_were_begun_are_not_stopped_in_the_middle() -> None:
    made = planner(part(1, 1), part(1, 2, last=True))
    made.done(ApplyPart(part(1, 1), None))
    end = ApplyPart(part(1, 2, last=True), Position(Lsn(110), 1, 1))
    assert made.next(Brakes(until_time=0, due_before=0), Limits()) == end


def test_parts_end_exactly_at_a_hold_inside_of_their_commit_record() -> None:  # P1
    made = planner(part(1, 1), part(1, 2, last=True), several([2]))
    brakes = Brakes(hold=Lsn(105))
    for _ in range(2):
        step = made.next(brakes, Limits())
        assert isinstance(step, ApplyPart)
        made.done(step)
    assert made.position == Position(Lsn(105), 1, 1)
    assert made.next(brakes, Limits()) is Blocked.HELD


def test_a_hold_before_parts_that_were_begun_is_passed() -> None:  # P1
    """The replica holds that transaction then, and says so."""
    made = planner(part(1, 1), part(1, 2, last=True))
    made.done(ApplyPart(part(1, 1), None))
    for hold in (Lsn(90), Lsn(100)):
        assert made.next(Brakes(hold=hold), Limits()) == ApplyPart(
            part(1, 2, last=True), Position(Lsn(110), 1, 1)
        )


def test_the_lag_of_a_big_transaction_is_known_from_its_first_part() -> None:
    assert planner(part(3, 1)).backlog.oldest_commit_time() == 3


def test_an_anchor_helps_to_resume_only_once_the_position_has_passed_it() -> None:
    made = planner(several([1]), anchor(110), several([2]), anchor(500))
    step = made.next(FREE, Limits())
    assert isinstance(step, Group)
    made.done(step)
    assert made.hint == ""
    drain(made)
    assert made.hint.startswith("110:")
    made.next(FREE, Limits())
    assert made.hint.startswith("110:")
    made.done(Move(Position(Lsn(500), 2, 2)))
    assert made.hint.startswith("500:")


class Walked(deque[Item]):
    """Counts the items that anybody looked at."""

    seen = 0

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            self.seen += 1
            yield item


def test_a_long_backlog_is_not_walked_for_each_step() -> None:
    made = planner(several(range(1, 1001)))
    made.backlog.items = walked = Walked(made.backlog.items)
    made.one_by_one(10)
    assert group(made.next(FREE, Limits())) == [1]
    assert walked.seen == 0
    made.one_by_one(0)
    assert group(made.next(FREE, Limits(changes=20))) == list(range(1, 21))
    assert walked.seen < 30


def test_what_was_looked_at_while_a_group_was_under_way_is_not_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, limits = planner(several(range(1, 21))), Limits(changes=10)
    first = made.next(FREE, limits)
    assert isinstance(first, Group)
    looked: list[int] = []

    def is_plain(item: Whole) -> bool:
        looked.append(item.transaction.xid)
        return True

    monkeypatch.setattr(Whole, "plain", property(is_plain))
    made.following(first, Limits(changes=6))
    made.done(first)
    assert group(made.next(FREE, limits)) == list(range(11, 21))
    assert looked == list(range(11, 21))


@pytest.mark.parametrize(("at_hand", "taken"), [(6, 10), (7, 7)])
def test_a_group_that_was_made_ready_is_taken_as_it_is_where_it_is_not_a_small_one(
    monkeypatch: pytest.MonkeyPatch, at_hand: int, taken: int
) -> None:
    monkeypatch.setattr(grouping, "READY_CHANGES", 7)
    made, limits = planner(several(range(1, 11 + at_hand))), Limits(changes=10)
    first = made.next(FREE, limits)
    assert isinstance(first, Group)
    made.following(first, limits)
    made.done(first)
    feed(made, several(range(11 + at_hand, 31)))
    assert group(made.next(FREE, limits)) == list(range(11, 11 + taken))
