"""What a soak did and saw: a table for people, JSON for programs."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.scenario.checker import Verdict, Violation


@dataclass
class Tally:
    """What one run did and saw.

    seen: each violation's verdict, number of the fault before it, and text. missed: what acts waited for in
    vain. expected: failpoints of which none may go unhit; None in a run too short, or too special, to be
    judged by that.
    """

    log: str
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    missed: Counter[str] = field(default_factory=Counter)
    failpoints: Counter[str] = field(default_factory=Counter)
    expected: frozenset[str] | None = None
    seen: list[tuple[Verdict, int, str]] = field(default_factory=list)
    commits: int = 0
    samples: int = 0
    worlds: int = 0
    began_at: float = field(default_factory=time.monotonic)

    def note(self, violation: Violation, number: int) -> None:
        self.seen.append((violation.verdict, number, str(violation)))

    @property
    def never_hit(self) -> list[str]:
        return sorted((self.expected or frozenset()) - self.failpoints.keys())

    @property
    def failed(self) -> bool:
        return bool(self.seen or self.never_hit)

    def counts(self) -> dict[str, int]:
        """How often each thing that must not be was seen."""
        verdicts = Counter(verdict for verdict, _, _ in self.seen)
        return {verdict.value: verdicts[verdict] for verdict in Verdict}

    def as_json(self) -> dict[str, Any]:
        return {
            "log": self.log,
            "seed": self.seed,
            "seconds": round(time.monotonic() - self.began_at),
            "faults": dict(self.faults.most_common()),
            "faults_total": self.faults.total(),
            "skipped": self.skipped,
            "missed": dict(self.missed.most_common()),
            "failpoints": dict(sorted(self.failpoints.items())),
            "failpoints_never_hit": None if self.expected is None else self.never_hit,
            "worlds": self.worlds,
            "commits": self.commits,
            "samples": self.samples,
            **self.counts(),
            "violations": [
                {"verdict": verdict.value, "after_fault": number, "what": what}
                for verdict, number, what in self.seen
            ],
        }

    def as_text(self) -> str:
        """The same to be read."""
        lines = [f"soak on the {self.log} log, seed {self.seed}, {time.monotonic() - self.began_at:.0f} s"]
        lines += _table("faults", self.faults)
        lines += _table("killed at", dict(sorted(self.failpoints.items())))
        lines += _table("missed", self.missed)
        lines += ["never hit: not judged"] if self.expected is None else []
        lines += [f"never hit: {name}" for name in self.never_hit]
        lines += [f"skipped {kind}: {why}" for kind, why in self.skipped.items()]
        totals = {"worlds": self.worlds, "commits": self.commits, "samples": self.samples, **self.counts()}
        lines += _table("seen", totals)
        lines += [f"{verdict.value}, after fault {number}: {what}" for verdict, number, what in self.seen]
        return "\n".join(lines)


def _table(title: str, rows: dict[str, int] | Counter[str]) -> list[str]:
    total = f" ({sum(rows.values())})" if title != "seen" else ""
    return [f"{title}{total}:", *(f"  {name:<36}{count:>8}" for name, count in rows.items())]
