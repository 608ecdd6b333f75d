"""A witness for hours: it forgets what it judged, and can be told that a replica lawfully went back."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from tests.scenario.checker import Model, Sample, Verdict, Violation, Witness, parse_lsn

_BASES = 4


@dataclass(frozen=True)
class _Base:
    """The tables as they were at a position."""

    position: int
    applied: int
    model: Model


@dataclass
class LongWitness(Witness):
    """A replica that crashed may have lost its last commits, together with its position: then the samples
    after `went_back` are compared from an earlier base on."""

    held: int = 0
    _bases: deque[_Base] = field(default_factory=deque)
    _back_from: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._bases.append(_Base(0, 0, Model()))

    def may_go_back(self) -> None:
        """What is sampled from now on may lie before what was sampled until now."""
        self._back_from.append(len(self.samples))

    def judge(self) -> int:
        """`Witness.judge`, in runs between two crashes; afterwards there is a new base."""
        samples, self.samples = self.samples, []
        bounds = [*self._back_from, len(samples)]
        self._back_from.clear()
        start = 0
        for end in bounds:
            self.samples = samples[start:end]
            if start and self.samples:
                self._rewind(min(sample.position for sample in self.samples))
            super().judge()
            start = end
        if samples and samples[-1].position == self._last_position:
            self._remember()
        return len(samples)

    def fork(self, replica: LongWitness) -> None:
        """Let the witness of another replica, which will be copied from now on, know what this one knows."""
        replica._model, replica._applied = self._model.copy(), self._applied
        replica._bases = deque([_Base(0, self._applied, self._model.copy())])

    @property
    def oldest(self) -> int:
        """How many transactions can be forgotten."""
        return self._bases[0].applied

    def look(self) -> Sample | None:
        sample = super().look()
        if sample is not None and self.held and sample.position > self.held:
            raise Violation(Verdict.TORN, f"held at {self.held:X}, the replica is at {sample.position:X}")
        return sample

    def hold(self) -> None:
        """From now on the replica must not pass the hold that its row names."""
        row = self.replica.execute_as_admin(
            "select hold_at::text from keepstream.progress where name = %s", [self.name]
        )
        self.held = parse_lsn(row[0][0]) if row and row[0][0] else 0

    def _remember(self) -> None:
        self._bases.append(_Base(self._last_position, self._applied, self._model.copy()))
        if len(self._bases) > _BASES:
            self._bases.popleft()

    def _rewind(self, position: int) -> None:
        if position >= self._last_position:
            return
        known = [base for base in self._bases if base.position <= position]
        if not known:
            raise Violation(Verdict.LOST, f"the replica went back to {position:X}, further than it may")
        base = known[-1]
        self._last_position, self._applied, self._model = base.position, base.applied, base.model.copy()
