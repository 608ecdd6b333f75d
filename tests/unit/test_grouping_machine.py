"""Planning against a naive model: whatever is asked for, a replica at X holds what commits below X.

A source commits, a capture writes its frames (whole transactions, runs of parts, heartbeats, anchors, and
unfinished runs that a new epoch voids), and replicas read them through `Follower` and `Planner` under holds,
delays and end times, are killed and begin anew where they stand, with a hint or without. Transactions are as
close to each other as PostgreSQL puts them: one may commit exactly where the one before ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.apply.grouping import (
    CAUGHT_UP_TRANSACTIONS,
    ApplyPart,
    Blocked,
    Brakes,
    Group,
    Limits,
    Move,
    Planner,
    RollBack,
    Step,
)
from pipeline.follow import Followed, Follower, follow_from_start
from pipeline.reentry import follow_from
from schemas.change import Change, Message, Operation, Truncate
from schemas.changecodec import encode_change
from schemas.errors import HistoryBroken
from schemas.frame import Anchor, Commit, Heartbeat
from schemas.framecodec import (
    encode_anchor,
    encode_heartbeat,
    encode_part,
    encode_transaction,
    encode_transactions,
    open_frame,
)
from schemas.lsn import Lsn, Position
from tests.frames import STREAM, TABLE, Writer
from tests.memorylog import MemoryLog

ROW = Change(Operation.INSERT, TABLE.id, row=b"\2\2\0")
TRUNCATE = Change(Operation.TRUNCATE, bytes(8), payload=Truncate((TABLE.id,), False, False))
MESSAGE = Change(Operation.MESSAGE, bytes(8), payload=Message(True, "theirs", b"x"))
CHANGES = {"row": (ROW,), "rows": (ROW,) * 3, "none": (), "message": (MESSAGE,), "truncate": (ROW, TRUNCATE)}


@dataclass(frozen=True)
class Committed:
    """A transaction of the source."""

    xid: int
    commit_lsn: int
    end_lsn: int
    commit_time: int
    changes: tuple[Change, ...]
    parts: int = 0

    @property
    def is_barrier(self) -> bool:
        return TRUNCATE in self.changes

    @property
    def logged(self) -> tuple[Change, ...]:
        """Each part has all of the changes."""
        return self.changes * max(1, self.parts)

    @property
    def size_bytes(self) -> int:
        return sum(len(encode_change(change)) for change in self.logged)


@dataclass
class Source:
    """What was committed, and the WAL's end."""

    committed: list[Committed] = field(default_factory=list)
    lsn: int = 1000

    def commit(self, changes: tuple[Change, ...], *, gap: int, time: int, parts: int) -> Committed:
        start = self.lsn + gap
        self.lsn = start + 10
        made = Committed(len(self.committed) + 1, start, self.lsn, time, changes, parts)
        self.committed.append(made)
        return made

    def below(self, lsn: int) -> list[int]:
        """P1."""
        return [made.xid for made in self.committed if made.commit_lsn < lsn]

    def last_below(self, lsn: int) -> tuple[int, int]:
        """P2: what proves that position."""
        last = [made for made in self.committed if made.commit_lsn < lsn][-1:]
        return (last[0].xid, last[0].commit_time) if last else (0, 0)


class Replica:
    """As apply drives it. `applied`: what is committed in it; `open_xid`: whose parts are not yet."""

    def __init__(self, follower: Follower, position: Position, applied: list[int]) -> None:
        self.follower = follower
        self.planner = Planner(position, "")
        self.applied = applied
        self.open_xid = 0
        self.singles = 0

    def read(self) -> list[Followed]:
        """Everything that is there."""
        before, followed = -1, list[Followed]()
        while self.follower.next_place > before:
            before = self.follower.next_place
            for frame in self.follower.read(0):
                self.planner.backlog.feed(frame)
                followed.append(frame)
        return followed

    def carry_out(self, step: Step) -> None:
        assert not isinstance(step, Blocked)
        if isinstance(step, Group):
            assert not self.open_xid
            self.applied += [loaded.transaction.xid for loaded in step.transactions]
            self.singles = max(0, self.singles - len(step.transactions))
        elif isinstance(step, ApplyPart):
            assert self.open_xid in (0, step.part.xid)
            assert (step.part.part == 1) is (not self.open_xid)
            self.open_xid = step.part.xid
            if step.position is not None:
                self.applied.append(step.part.xid)
                self.open_xid = 0
        elif isinstance(step, RollBack):
            assert self.open_xid
            self.open_xid = 0
        self.planner.done(step)


LIMITS = st.sampled_from(
    [Limits(), Limits(changes=3), Limits(transactions=3), Limits(size_bytes=60), Limits(1, 1, 1)]
)


class Replicas(RuleBasedStateMachine):
    """One source, one log, one replica that is killed now and then, and others that begin anywhere."""

    @initialize()
    def a_log_with_its_first_anchor(self) -> None:
        self.source = Source()
        self.writer = Writer()
        self.records = [self.writer.start()]
        self.open_parts: Committed | None = None
        self.next_part = 0
        self.written = 0
        self.known = self.source.lsn  # where the log stands
        self._anchor()
        log = MemoryLog(self.records)
        start = Position(Lsn(self.source.lsn))
        self.replica = Replica(follow_from_start(log, stream=STREAM), start, [])  # type: ignore[arg-type]
        self.positions = {0: start}

    # the source and its capture

    @rule(
        kinds=st.lists(
            st.tuples(
                st.sampled_from(list(CHANGES)),
                st.sampled_from([0, 0, 1, 30]),
                st.integers(0, 9),
                st.sampled_from([0, 0, 0, 0, 2, 3]),
            ),
            min_size=1,
            max_size=9,
        )
    )
    def transactions_commit(self, kinds: list[tuple[str, int, int, int]]) -> None:
        for changes, gap, time, parts in kinds:
            self.source.commit(CHANGES[changes], gap=gap, time=time, parts=parts)

    @rule(count=st.integers(1, 12), in_one_frame=st.booleans())
    def capture_writes(self, count: int, in_one_frame: bool) -> None:
        whole: list[Committed] = []
        for made in self.source.committed[self.written : self.written + count]:
            if made.parts:
                self._write_whole(whole, in_one_frame)
                whole = []
                while not self._write_part(made):
                    pass
            else:
                whole.append(made)
            self.written += 1
        self._write_whole(whole, in_one_frame)

    @rule()
    def capture_writes_one_part(self) -> None:
        following = self.source.committed[self.written : self.written + 1]
        if following and following[0].parts:
            self.written += self._write_part(following[0])

    @rule(gap=st.sampled_from([0, 1, 7, 30]))
    def a_heartbeat(self, gap: int) -> None:
        """Nothing was committed up to there; the next may commit exactly there."""
        if self.open_parts is not None:
            return
        if self.written == len(self.source.committed):
            self.source.lsn = max(self.source.lsn, self.known + gap)
            limit = self.source.lsn
        else:
            limit = self.source.committed[self.written].commit_lsn
        at = min(limit, self.known + gap)
        self._append(encode_heartbeat(Heartbeat(self._position(at), 0)))
        self.known = at

    @rule()
    def an_anchor(self) -> None:
        if self.open_parts is None:
            self._anchor()

    @rule()
    def a_new_epoch(self) -> None:
        """It voids what it finds unfinished, and writes that again."""
        self.records.append(self.writer.start())
        self.open_parts, self.next_part = None, 0
        self._anchor()

    def _position(self, lsn: int) -> Position:
        return Position(Lsn(lsn), *self.source.last_below(lsn))

    def _anchor(self) -> None:
        anchor = encode_anchor(Anchor(self._position(self.known), "7", 1, (), 0))
        self.records.append(self.writer.seal(anchor, (TABLE,)))

    def _append(self, body: bytes) -> None:
        self.records.append(self.writer.seal(body))

    def _write_whole(self, whole: list[Committed], in_one_frame: bool) -> None:
        encoded = [
            encode_transaction(
                xid=made.xid,
                commit_lsn=made.commit_lsn,
                end_lsn=made.end_lsn,
                commit_time=made.commit_time,
                origin=None,
                changes=list(map(encode_change, made.changes)),
            )
            for made in whole
        ]
        for bodies in [encoded] if in_one_frame else [[one] for one in encoded]:
            if bodies:
                self._append(encode_transactions(bodies))
        if whole:
            self.known = whole[-1].end_lsn

    def _write_part(self, made: Committed) -> bool:
        self.open_parts, self.next_part = made, self.next_part + 1
        last = self.next_part == made.parts
        body = encode_part(
            xid=made.xid,
            commit_lsn=made.commit_lsn,
            commit_time=made.commit_time,
            part=self.next_part,
            changes=list(map(encode_change, made.changes)),
            fragment=None,
            commit=Commit(Lsn(made.end_lsn), None) if last else None,
        )
        self._append(body)
        if last:
            self.open_parts, self.next_part, self.known = None, 0, made.end_lsn
        return last

    # the replica

    @rule(
        data=st.data(),
        times=st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)),
        limits=LIMITS,
        looks=st.none() | LIMITS,
        steps=st.integers(1, 12),
        reads=st.booleans(),
    )
    def the_replica_goes_on(
        self,
        data: st.DataObject,
        times: tuple[int | None, int | None],
        limits: Limits,
        looks: Limits | None,
        steps: int,
        reads: bool,
    ) -> None:
        """`looks`: what comes behind a group is looked at while that is under way, with these limits."""
        hold = data.draw(st.none() | self._lsns(), label="hold")
        brakes = Brakes(hold, *times)
        if reads:
            self.replica.read()
        for _ in range(steps):
            if not self._step(self.replica, brakes, limits, looks):
                break

    def _lsns(self) -> st.SearchStrategy[Lsn]:
        """The boundaries that the replica comes to next, where the log ends, and beside them."""
        following = self.source.committed[len(self.replica.applied) : len(self.replica.applied) + 6]
        edges = {at for made in following for at in (made.commit_lsn, made.end_lsn)}
        near = sorted({edge + step for edge in edges | {self.known} for step in (-1, 0, 1, 5)})
        return st.sampled_from(near).map(Lsn)

    def _step(self, replica: Replica, brakes: Brakes, limits: Limits, looks: Limits | None = None) -> bool:
        planner = replica.planner
        before, inside = planner.position, replica.open_xid
        step = planner.next(brakes, limits)
        assert planner.next(brakes, limits) == step  # nothing is forgotten before it was done
        if isinstance(step, Blocked):
            self._is_blocked_for_a_reason(replica, step, brakes)
            return False
        if isinstance(step, Group):
            self._is_a_right_group(replica, step, limits)
            if looks is not None:
                planner.following(step, looks)
        self._is_within(step, brakes, begins=not inside)
        replica.carry_out(step)
        assert planner.position.lsn >= before.lsn
        if isinstance(step, (Group, Move)) or (isinstance(step, ApplyPart) and step.position):
            assert planner.position == step.position
            assert brakes.hold is None or inside or planner.position.lsn <= brakes.hold
            self.positions[len(replica.applied)] = planner.position
        return True

    def _is_a_right_group(self, replica: Replica, group: Group, limits: Limits) -> None:
        size = len(group.transactions)
        made = [self.source.committed[loaded.transaction.xid - 1] for loaded in group.transactions]
        assert [tuple(loaded.changes) for loaded in group.transactions] == [one.logged for one in made]
        assert group.barrier == made[0].is_barrier
        assert size == 1 or not any(one.is_barrier for one in made)
        assert size == 1 or sum(len(one.logged) for one in made) <= limits.changes
        assert size == 1 or sum(one.size_bytes for one in made) <= limits.size_bytes
        assert size <= limits.transactions
        assert size == 1 or not replica.singles

    def _is_within(self, step: Step, brakes: Brakes, *, begins: bool) -> None:
        """No transaction begins that one of the brakes forbids."""
        if isinstance(step, Group):
            begun = [(t.transaction.commit_lsn, t.transaction.commit_time) for t in step.transactions]
        elif isinstance(step, ApplyPart) and begins:
            begun = [(step.part.commit_lsn, step.part.commit_time)]
        else:
            return
        for commit_lsn, commit_time in begun:
            assert brakes.hold is None or commit_lsn < brakes.hold
            assert brakes.due_before is None or commit_time <= brakes.due_before
            assert brakes.until_time is None or commit_time <= brakes.until_time

    def _is_blocked_for_a_reason(self, replica: Replica, why: Blocked, brakes: Brakes) -> None:
        position = replica.planner.position
        following = self.source.committed[len(replica.applied) : len(replica.applied) + 1]
        if why is Blocked.HELD:
            assert brakes.hold is not None
            assert position.lsn >= brakes.hold
        elif why is Blocked.DELAYED:
            assert brakes.due_before is not None
            assert following[0].commit_time > brakes.due_before
        elif why is Blocked.END_TIME:
            assert brakes.until_time is not None
            assert following[0].commit_time > brakes.until_time
        else:
            assert not replica.planner.backlog.items

    @rule(count=st.integers(1, 5))
    def a_group_fails(self, count: int) -> None:
        self.replica.planner.one_by_one(count)
        self.replica.singles = count

    @rule(data=st.data(), hinted=st.booleans())
    def the_replica_is_killed_and_begins_where_it_stands(self, data: st.DataObject, hinted: bool) -> None:
        killed = self.replica.planner
        log = MemoryLog(self.records)
        if data.draw(st.booleans()):
            self._trim(log, killed.position)
        hint = killed.hint if hinted else None
        follower = follow_from(log, stream=STREAM, position=killed.position, hint=hint)  # type: ignore[arg-type]
        assert len(log.scanned_from) <= 1 + hinted  # a reader is dear: the one that verified goes on
        self.replica = Replica(follower, killed.position, self.replica.applied)

    def _trim(self, log: MemoryLog, position: Position) -> None:
        """P12: to the newest anchor that the position has passed."""
        for place, record in enumerate(self.records):
            frame = open_frame(record)
            if frame is not None and isinstance(frame.body, Anchor) and frame.body.at.lsn <= position.lsn:
                log.first = place

    # what must hold

    @invariant()
    def the_replica_holds_what_commits_below_its_position(self) -> None:
        position = self.replica.planner.position
        assert self.replica.applied == self.source.below(position.lsn)
        if self.replica.applied:
            assert (position.xid, position.commit_time) == self.source.last_below(position.lsn)

    @invariant()
    def what_stands_still_is_told_rightly(self) -> None:
        standing = self.replica.planner.standing
        if standing is not None:
            assert standing.lsn > self.replica.planner.position.lsn
            assert self.source.below(standing.lsn) == self.source.below(self.replica.planner.position.lsn)

    def teardown(self) -> None:
        if hasattr(self, "replica"):
            self._all_comes_through(self.replica)
            self._readers_from_any_position_get_the_same_rest()
            self._another_history_is_seen()

    def _all_comes_through(self, replica: Replica) -> None:
        replica.read()
        while self._step(replica, Brakes(), Limits()):
            pass
        complete = self.source.committed[: self.written]
        assert replica.applied == [made.xid for made in complete]
        standing = replica.planner.standing or replica.planner.position
        assert standing.lsn == max(self.known, replica.planner.position.lsn)

    def _readers_from_any_position_get_the_same_rest(self) -> None:
        for count, position in list(self.positions.items()):
            log = MemoryLog(self.records)
            follower = follow_from(log, stream=STREAM, position=position, hint=None)  # type: ignore[arg-type]
            other = Replica(follower, position, self.replica.applied[:count])
            other.read()
            while self._step(other, Brakes(), Limits()):
                pass
            assert other.applied == self.replica.applied

    def _another_history_is_seen(self) -> None:
        """P2: a position that names another transaction is refused once the log is known past it."""
        for count, position in list(self.positions.items()):
            if count and position.lsn <= self.known:
                for wrong in (
                    replace(position, xid=position.xid + 1000),
                    replace(position, commit_time=77),
                ):
                    log = MemoryLog(self.records)
                    follower = follow_from(log, stream=STREAM, position=wrong, hint=None)  # type: ignore[arg-type]
                    other = Replica(follower, wrong, [])
                    if count < self.written or self.positions_are_proven(position):
                        with pytest.raises(HistoryBroken):
                            other.read()

    def positions_are_proven(self, position: Position) -> bool:
        """Whether anything in the log stands at or past the position, so that it must have been compared."""
        for record in self.records:
            frame = open_frame(record)
            if (
                frame is not None
                and isinstance(frame.body, (Anchor, Heartbeat))
                and frame.body.at.lsn >= position.lsn
            ):
                return True
        return False


assert CAUGHT_UP_TRANSACTIONS == 4
TestReplicas = Replicas.TestCase
