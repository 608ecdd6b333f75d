"""Where a sequence of the source stood, as the log carries it. Pure.

Sequences are not MVCC: a value that was read after a transaction had committed is at or past all that the
transaction took. So a replica never goes back to an older value, but for a sequence that was itself set back
on the source (`back_from`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.identifiers import qualified


@dataclass(frozen=True, slots=True)
class SequenceValue:
    """last_value: given out already if `is_called`, else the next to be given out. back_from: the source set
    it back, or it began its cycle anew, from there or further; None: it only went on."""

    schema: str
    name: str
    ascending: bool
    last_value: int
    is_called: bool
    back_from: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.schema, self.name

    @property
    def qualified_name(self) -> str:
        """For messages; not SQL."""
        return qualified(self.schema, self.name)

    def passed(self, other: SequenceValue) -> bool:
        """Whether this sequence has come further than `other`."""
        mine, others = (self.last_value, self.is_called), (other.last_value, other.is_called)
        if self.last_value == other.last_value or self.ascending:
            return mine > others
        return self.last_value < other.last_value

    def replaces(self, current: SequenceValue) -> bool:
        """Whether a replica's sequence that stands at `current` is to be set to this.

        One that was set back is followed only from where it had come to: who stands before that, because of a
        TRUNCATE with RESTART IDENTITY or a later copy, has gone back already.
        """
        if self.passed(current):
            return True
        if self.back_from is None or not current.passed(self):
            return False
        sign = 1 if self.ascending else -1
        return sign * current.last_value >= sign * self.back_from


def last_of(current: SequenceValue, wanted: Iterable[SequenceValue]) -> SequenceValue:
    """Where a sequence of a replica stands after these values of the log, in their order."""
    for value in wanted:
        if value.replaces(current):
            current = value
    return current
