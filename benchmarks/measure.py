"""Results: their arithmetic, how they are printed, and their JSON. Pure.

A ratio is that of the medians, turned so that more is better for us: 2.0 is twice as good as the anchor.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

COMMAND = "benchmarks/run --only"


class Better(Enum):
    """Which way a figure is good."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Pairs:
    """What each run measured, in the order of the runs; the same unit on both sides."""

    ours: tuple[float, ...]
    anchor: tuple[float, ...]

    @property
    def runs(self) -> int:
        return len(self.ours)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One figure. `anchor` is None where there is nothing to compare with.

    goal: what the figure is meant to be, for people. notes: the anchor's settings, the spread.
    """

    name: str
    benchmark: str
    ours: float
    anchor: float | None
    unit: str
    better: Better
    runs: int
    quick: bool = False
    p50_ms: float | None = None
    p99_ms: float | None = None
    goal: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Ours to the anchor's, more is better; None without an anchor or where one side is 0."""
        if not self.anchor or not self.ours:
            return None
        return self.ours / self.anchor if self.better is Better.HIGHER else self.anchor / self.ours

    @property
    def command(self) -> str:
        """What measures it again."""
        return f"{COMMAND} {self.benchmark}{' --quick' if self.quick else ''}"


def alternate(ours: Callable[[int], float], anchor: Callable[[int], float], runs: int) -> Pairs:
    """Ours, anchor, ours, anchor, …: what changes on the machine meanwhile meets both alike."""
    pairs = [(ours(number), anchor(number)) for number in range(runs)]
    return Pairs(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def rates(pairs: Pairs, amount: int) -> Pairs:
    """Seconds for `amount` things as things a second."""
    return Pairs(
        tuple(amount / seconds for seconds in pairs.ours), tuple(amount / seconds for seconds in pairs.anchor)
    )


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(who: str, values: Sequence[float]) -> str:
    """All values of one side in the order of its runs."""
    return f"{who}: {', '.join(format_figure(value) for value in values)}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed. Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def latencies_ms(
    commits: Mapping[int, Sequence[float]], polls: Sequence[tuple[float, Mapping[int, int]]]
) -> list[float]:
    """For each commit, how long after it a reader saw it.

    commits: by writer, when each of its commits 0, 1, 2 … had returned. polls: when a reader's look had
    ended, and the highest commit that it saw of each writer (-1: none). A commit that was seen before its
    writer had been told counts as 0. Raises ValueError if one was never seen.
    """
    found = []
    times = [at for at, _ in polls]
    for writer, returned in commits.items():
        highest = [seen[writer] for _, seen in polls]
        for number, at in enumerate(returned):
            look = bisect_left(highest, number)
            if look == len(polls):
                raise ValueError(f"commit {number} of writer {writer} was never seen")
            found.append(max(0.0, times[look] - at) * 1000)
    return found


def format_figure(value: float | None) -> str:
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def as_json(machine: Mapping[str, object], results: Sequence[Result]) -> dict[str, object]:
    """The file's one object."""
    return {"machine": dict(machine), "results": [_result_json(result) for result in results]}


def _result_json(result: Result) -> dict[str, object]:
    return {
        "name": result.name,
        "ratio": result.ratio,
        "ours": result.ours,
        "anchor": result.anchor,
        "unit": result.unit,
        "better": result.better.value,
        "runs": result.runs,
        "command": result.command,
        "p50_ms": result.p50_ms,
        "p99_ms": result.p99_ms,
    }


_HEAD = ("benchmark", "ratio", "ours", "anchor", "unit", "p50 ms", "p99 ms", "runs", "goal")


def format_table(results: Sequence[Result]) -> str:
    """The figures in columns, then what each one was compared with."""
    rows = [_HEAD, *(_table_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    for result in results:
        lines += [f"{result.name}: {note}" for note in result.notes]
    return "\n".join(lines)


def _table_row(result: Result) -> tuple[str, ...]:
    ratio = "–" if result.ratio is None else f"{result.ratio:.2f}"
    figures = (result.ours, result.anchor)
    times = (result.p50_ms, result.p99_ms)
    return (
        result.name,
        ratio,
        *map(format_figure, figures),
        result.unit,
        *map(format_figure, times),
        str(result.runs),
        result.goal or "–",
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    left = (0, 4, 8)  # words; the rest are figures
    cells = [
        cell.ljust(width) if column in left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
