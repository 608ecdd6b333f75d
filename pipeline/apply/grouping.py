"""Which source transactions go into the next target transaction. Sans-I/O and without a clock.

    caught up    one source transaction, for latency
    behind       as many as `Limits` allow, for throughput
    a barrier    (TRUNCATE, DDL, a joining table) stands alone: its locks last no longer than it takes
    parts        a transaction too big for a frame is streamed into one target transaction, unless it is there
                 to its end and no bigger than `backlog` joins: then it is like any other
    sequences    are set in a transaction of their own, which moves nothing; no group crosses their place

`Planner.next` says what to do; nothing is forgotten before `done`, so a step that failed is planned again.
A step never crosses a hold, a delay, an end time or what an operator must approve: whatever is asked for, the
replica stands at a source commit boundary (P1, P16).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice, takewhile

from pipeline.apply.backlog import Aborted, Backlog, PartOf, Standing, Whole
from schemas.barrier import barrier_of
from schemas.change import Change
from schemas.frame import Part, Transaction
from schemas.lsn import Lsn, Position
from schemas.sequence import SequenceValue

CAUGHT_UP_TRANSACTIONS = 4
READY_CHANGES = 1_000
"""A group of so many that was made ready is taken as it is: with more, all of it would be made ready anew
while the replica waits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a group. Its time is bounded by `changes`, which the stage sets by what it measured."""

    changes: int = 2_000
    size_bytes: int = 8 * 1024 * 1024
    transactions: int = 20_000


@dataclass(frozen=True, slots=True)
class Brakes:
    """What stops a replica short of the log's end. Times are µs since 1970 UTC.

    hold: only what has its commit below it (P1, P16). due_before: only what was committed at or before it
    (a configured delay). until_time: stop before the first commit past it. unapproved: stop before the
    transaction that commits there.
    """

    hold: Lsn | None = None
    due_before: int | None = None
    until_time: int | None = None
    unapproved: Lsn | None = None


@dataclass(slots=True)
class _Forming:
    """Whole transactions that may be one group. `barrier`: the only one is one."""

    wholes: list[Whole]
    changes: int
    size_bytes: int
    barrier: bool

    @classmethod
    def beginning_with(cls, first: Whole) -> _Forming:
        barrier = not first.plain and is_barrier(first.changes)
        return cls([first], first.transaction.change_count, len(first.transaction.changes), barrier)

    def extend(self, items: Iterable[Whole], limits: Limits, *, stops: Callable[[Transaction], bool]) -> None:
        """With what follows, as far as the limits go, before the next barrier and the first that `stops`."""
        for item in () if self.barrier else items:
            transaction = item.transaction
            changes = self.changes + transaction.change_count
            size_bytes = self.size_bytes + len(transaction.changes)
            if changes > limits.changes or size_bytes > limits.size_bytes:
                return
            if len(self.wholes) >= limits.transactions or stops(transaction):
                return
            if not item.plain and is_barrier(item.changes):
                return
            self.wholes.append(item)
            self.changes, self.size_bytes = changes, size_bytes

    @property
    def is_enough(self) -> bool:
        """Whether it is taken as it is once it was made ready."""
        return self.changes >= READY_CHANGES

    def is_within(self, limits: Limits) -> bool:
        few = len(self.wholes) <= limits.transactions
        return few and self.changes <= limits.changes and self.size_bytes <= limits.size_bytes


@dataclass(frozen=True, slots=True)
class Group:
    """Apply these in one target transaction, which ends at `position`. `barrier`: it is one."""

    transactions: tuple[Whole, ...]
    position: Position
    barrier: bool
    changes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ApplyPart:
    """Apply one part: the first begins the target transaction, the last one, with a `position`, ends it
    there."""

    part: Part
    position: Position | None


@dataclass(frozen=True, slots=True)
class RollBack:
    """Abandon the transaction whose parts were being applied."""


@dataclass(frozen=True, slots=True)
class Move:
    """Move the position; nothing was committed up to there."""

    position: Position


@dataclass(frozen=True, slots=True)
class SetSequences:
    """Set the sequences that are behind these values, the later ones after the earlier."""

    items: tuple[Standing, ...]

    @property
    def values(self) -> tuple[SequenceValue, ...]:
        return tuple(value for item in self.items for value in item.sequences)


class Blocked(Enum):
    """Why there is nothing to do."""

    LOG_END = "log end"
    HELD = "held"
    DELAYED = "delayed"
    END_TIME = "end time"
    UNAPPROVED = "unapproved"


Step = Group | ApplyPart | RollBack | Move | SetSequences | Blocked


class Planner:
    """Plans the steps of one replica that stands at `position`.

    standing: the newest LSN up to which nothing more was committed, if it is past the position; moving
    there costs a write and can wait. hint: of the newest anchor that the position has passed. unfinished: the
    last part that was applied of a transaction whose end was not.
    """

    def __init__(self, position: Position, hint: str) -> None:
        self.position = position
        self.hint = hint
        self.backlog = Backlog(position)
        self.standing: Position | None = None
        self._anchor: Standing | None = None
        self._following: _Forming | None = None
        self.unfinished: Part | None = None
        self._singles = 0

    @property
    def inside(self) -> bool:
        """Whether some parts of a transaction were applied, and not all."""
        return self.unfinished is not None

    def wants_more(self, limits: Limits, *, beside_bytes: int = 0) -> bool:
        """Whether it is behind, and a group could take more than is there: what is at hand should be read
        before it is planned. `beside_bytes`: so much of what is there belongs to the group before."""
        return self.backlog.size_bytes - beside_bytes < limits.size_bytes and self._is_behind()

    def following(self, group: Group, limits: Limits) -> list[Whole]:
        """What may be the group after this one, which is under way: `next` goes on from there. Raises
        RefusedData (`frame-format`)."""
        self._following = None
        items = islice(self._wholes(), len(group.transactions), None)
        first = next(items, None)
        if first is None:
            return []
        self._following = found = _Forming.beginning_with(first)
        found.extend(items, limits, stops=lambda _: False)
        return found.wholes

    @property
    def has_ready(self) -> bool:
        """Whether what may be the next group will be taken as it is: there is enough of it."""
        return self._following is not None and self._following.is_enough

    def next(self, brakes: Brakes, limits: Limits) -> Step:
        """The next step."""
        while self.backlog.items:
            item = self.backlog.items[0]
            if isinstance(item, Aborted):
                if self.inside:
                    return RollBack()
                self.backlog.pop()
            elif isinstance(item, Standing):
                if brakes.hold is not None and item.at.lsn > brakes.hold:
                    return self._stop_at(brakes.hold)
                if item.sequences:
                    return self._next_sequences(brakes)
                self._stand(item)
            elif isinstance(item, PartOf):
                return self._next_part(item, brakes)
            else:
                return self._next_group(item, brakes, limits)
        return Blocked.LOG_END

    def done(self, step: Group | ApplyPart | RollBack | Move | SetSequences) -> None:
        """The step's effect is committed (of a part: is in the open transaction)."""
        if isinstance(step, Group):
            count = len(step.transactions)
            self._singles = max(0, self._singles - count)
            self._anchor = self.backlog.drop(count, step.size_bytes) or self._anchor
            self._arrive(step.position, step.transactions[-1].transaction.position)
        elif isinstance(step, ApplyPart):
            self.backlog.pop()
            self.unfinished = step.part
            if step.position is not None:
                self.unfinished = None
                self._arrive(step.position, step.part.position)
        elif isinstance(step, RollBack):
            self.unfinished = None
        elif isinstance(step, SetSequences):
            for item in step.items:
                self._stand(item)
        else:
            self._arrive(step.position)

    def stand(self, hold: Lsn | None) -> Move | None:
        """The move to where nothing is missing, or to the hold before it; None: it stands there."""
        if self.standing is None or self.inside:
            return None
        if hold is None or self.standing.lsn <= hold:
            return Move(self.standing)
        step = self._stop_at(hold)
        return step if isinstance(step, Move) else None

    def one_by_one(self, transactions: int) -> None:
        """A group failed: plan its transactions alone, so that the replica comes as far as it can."""
        self._singles = transactions

    def _arrive(self, position: Position, end: Position | None = None) -> None:
        """`end`: of the transaction whose commit record has the position, which a hold may have cut short."""
        self.position = position
        self.standing = _further(self.standing, end)
        if self.standing is not None and self.standing.lsn <= position.lsn:
            self.standing = None
        self._use_anchor()

    def _stand(self, item: Standing) -> None:
        self.backlog.pop()
        if item.at.lsn > self.position.lsn:
            self.standing = item.at
        if item.hint is not None:
            self._anchor = item
            self._use_anchor()

    def _use_anchor(self) -> None:
        """An anchor helps a reader to resume only once the position has passed it."""
        if self._anchor is not None and self._anchor.at.lsn <= self.position.lsn:
            self.hint, self._anchor = self._anchor.hint or self.hint, None

    def _stop_at(self, hold: Lsn) -> Step:
        """The log is known past the hold: stand exactly there."""
        if hold <= self.position.lsn:
            return Blocked.HELD
        return Move(Position(hold, self.position.xid, self.position.commit_time))

    def _next_sequences(self, brakes: Brakes) -> Step:
        """All that stand together, as after a restart, when transactions between them are held already."""
        hold = brakes.hold
        if hold is not None and self.position.lsn > hold:
            return Blocked.HELD
        together = takewhile(lambda item: isinstance(item, Standing), self.backlog.items)
        standing = (item for item in together if isinstance(item, Standing))
        return SetSequences(tuple(takewhile(lambda item: hold is None or item.at.lsn <= hold, standing)))

    def _next_part(self, item: PartOf, brakes: Brakes) -> Step:
        part = item.part
        stopped = None if self.inside else self._stops(brakes, part)
        if stopped is not None:
            return stopped
        return ApplyPart(part, None if part.position is None else _after(part, part.position, brakes))

    def _stops(self, brakes: Brakes, transaction: Transaction | Part) -> Step | None:
        """What to do instead of beginning with this transaction; None: begin."""
        if brakes.hold is not None and transaction.commit_lsn >= brakes.hold:
            return self._stop_at(brakes.hold)
        if brakes.until_time is not None and transaction.commit_time > brakes.until_time:
            return Blocked.END_TIME
        if brakes.due_before is not None and transaction.commit_time > brakes.due_before:
            return Blocked.DELAYED
        if brakes.unapproved == transaction.commit_lsn:
            return Blocked.UNAPPROVED
        return None

    def _next_group(self, first: Whole, brakes: Brakes, limits: Limits) -> Step:
        stopped = self._stops(brakes, first.transaction)
        if stopped is not None:
            return stopped
        group = self._group_from(first, brakes, limits)
        last = group.wholes[-1].transaction
        end = _after(last, last.position, brakes)
        return Group(tuple(group.wholes), end, group.barrier, group.changes, group.size_bytes)

    def _group_from(self, first: Whole, brakes: Brakes, limits: Limits) -> _Forming:
        """Alone when caught up. Looks no further than it must: the backlog can be long."""
        following, self._following = self._following, None
        braked = brakes != Brakes()
        if self._singles or not self._is_behind():
            return _Forming.beginning_with(first)
        if following is None or braked or following.wholes[0] is not first or not following.is_within(limits):
            following = _Forming.beginning_with(first)
        elif following.is_enough:
            return following
        following.extend(
            islice(self._wholes(), len(following.wholes), None),
            limits,
            stops=lambda transaction: braked and self._stops(brakes, transaction) is not None,
        )
        return following

    def _is_behind(self) -> bool:
        return len(list(islice(self._wholes(), CAUGHT_UP_TRANSACTIONS + 1))) > CAUGHT_UP_TRANSACTIONS

    def _wholes(self) -> Iterator[Whole]:
        """The whole transactions up to the first item that is none and cannot be stepped over."""
        for item in self.backlog.items:
            if isinstance(item, Whole):
                yield item
            elif not isinstance(item, Standing) or item.sequences:
                return


def _after(transaction: Transaction | Part, end: Position, brakes: Brakes) -> Position:
    """Where the replica stands after a transaction: at its end, or at a hold inside of its commit record.
    Both hold the same transactions (P1). A hold that came when its parts were being applied is passed."""
    if brakes.hold is None or not transaction.commit_lsn < brakes.hold < end.lsn:
        return end
    return Position(brakes.hold, end.xid, end.commit_time)


def _further(one: Position | None, other: Position | None) -> Position | None:
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda position: position.lsn)


def is_barrier(changes: Sequence[Change]) -> bool:
    """Whether a transaction has changes that are more than rows. Foreign messages are nothing at all."""
    return any(barrier_of(change) is not None for change in changes)
