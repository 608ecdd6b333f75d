"""What every benchmark is given: servers, how much, how often, and whom to tell."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from benchmarks.measure import Better, Pairs, Result, median, spread
from benchmarks.servers import Servers

QUICK_DIVISOR = 5


@dataclass(frozen=True)
class Bench:
    """`runs`: pairs of ours and the anchor. `quick`: sizes are a fifth, and times shorter."""

    servers: Servers
    runs: int
    quick: bool
    started_at: float = field(default_factory=time.monotonic)

    @property
    def divisor(self) -> int:
        """By what sizes are divided."""
        return QUICK_DIVISOR if self.quick else 1

    def say(self, text: str) -> None:
        """Progress, for whoever watches."""
        print(f"{time.monotonic() - self.started_at:7.1f} s  {text}", file=sys.stderr, flush=True)

    def compared(
        self,
        name: str,
        pairs: Pairs,
        *,
        unit: str,
        better: Better,
        goal: str,
        anchor: str,
        benchmark: str | None = None,
    ) -> Result:
        """A result of pairs. `anchor`: what the other side was. `benchmark`: where it is not named alike."""
        return Result(
            name=name,
            benchmark=benchmark or name,
            ours=median(pairs.ours),
            anchor=median(pairs.anchor),
            unit=unit,
            better=better,
            runs=pairs.runs,
            quick=self.quick,
            goal=goal,
            notes=(f"anchor: {anchor}", f"{spread('ours', pairs.ours)}; {spread('anchor', pairs.anchor)}"),
        )
