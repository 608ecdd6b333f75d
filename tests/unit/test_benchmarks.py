"""The benchmarks' arithmetic, table and JSON. What they measure needs servers: `benchmarks/run`."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import parse_arguments
from benchmarks.measure import (
    Better,
    Pairs,
    Result,
    alternate,
    as_json,
    format_figure,
    format_table,
    latencies_ms,
    percentile,
    rates,
)
from benchmarks.workload import LARGE, MEDIUM, SMALL


def result(
    *, ours: float = 150.0, anchor: float | None = 100.0, better: Better = Better.HIGHER, quick: bool = False
) -> Result:
    return Result(
        name="apply_small",
        benchmark="apply_small",
        ours=ours,
        anchor=anchor,
        unit="rows/s",
        better=better,
        runs=3,
        quick=quick,
        goal="≥ 1.0",
        notes=("anchor: a subscription",),
    )


def test_the_ratio_of_what_should_be_high_is_ours_to_the_anchors() -> None:
    assert result(ours=150, anchor=100).ratio == 1.5


def test_the_ratio_of_what_should_be_low_is_turned_round() -> None:
    assert result(ours=50, anchor=100, better=Better.LOWER).ratio == 2.0


def test_without_an_anchor_there_is_no_ratio() -> None:
    assert result(anchor=None).ratio is None


def test_nothing_measured_gives_no_ratio() -> None:
    assert result(ours=0.0).ratio is None
    assert result(anchor=0.0).ratio is None


def test_ours_and_the_anchor_run_in_turns() -> None:
    order: list[str] = []

    def ours(number: int) -> float:
        order.append(f"ours {number}")
        return 1.0 + number

    def anchor(number: int) -> float:
        order.append(f"anchor {number}")
        return 2.0 + number

    assert alternate(ours, anchor, 2) == Pairs((1.0, 2.0), (2.0, 3.0))
    assert order == ["ours 0", "anchor 0", "ours 1", "anchor 1"]


def test_seconds_become_rates() -> None:
    assert rates(Pairs((2.0, 4.0), (1.0, 5.0)), 100) == Pairs((50.0, 25.0), (100.0, 20.0))


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_a_percentile_is_the_smallest_value_that_covers_the_share(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_latency_ends_with_the_first_look_that_saw_the_commit() -> None:
    commits = {7: [1.0, 2.0], 8: [1.5]}
    polls = [(0.9, {7: -1, 8: -1}), (1.25, {7: 0, 8: -1}), (2.5, {7: 1, 8: 0})]
    assert latencies_ms(commits, polls) == [250.0, 500.0, 1000.0]


def test_a_commit_seen_before_its_writer_was_told_counts_as_nothing() -> None:
    assert latencies_ms({0: [1.0]}, [(0.5, {0: 0})]) == [0.0]


def test_a_commit_that_nobody_saw_is_an_error() -> None:
    with pytest.raises(ValueError, match="commit 1 of writer 0 was never seen"):
        latencies_ms({0: [1.0, 2.0]}, [(3.0, {0: 0})])


def test_the_json_holds_exactly_what_is_promised() -> None:
    measured = as_json({"cores": 2}, [result(quick=True)])
    assert measured == {
        "machine": {"cores": 2},
        "results": [
            {
                "name": "apply_small",
                "ratio": 1.5,
                "ours": 150.0,
                "anchor": 100.0,
                "unit": "rows/s",
                "better": "higher",
                "runs": 3,
                "command": "benchmarks/run --only apply_small --quick",
                "p50_ms": None,
                "p99_ms": None,
            }
        ],
    }


def test_the_table_shows_the_anchor_and_its_settings() -> None:
    assert format_table([result(ours=1_500_000.0, anchor=1_000_000.0)]).splitlines() == [
        "benchmark    ratio       ours     anchor  unit    p50 ms  p99 ms  runs  goal",
        "-----------  -----  ---------  ---------  ------  ------  ------  ----  -----",
        "apply_small   1.50  1,500,000  1,000,000  rows/s       –       –     3  ≥ 1.0",
        "apply_small: anchor: a subscription",
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.1234, "0.123"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1,234")]
)
def test_figures_have_three_digits_or_all_before_the_point(value: float | None, shown: str) -> None:
    assert format_figure(value) == shown


def test_backlogs_have_the_sizes_that_they_are_named_for() -> None:
    assert (MEDIUM.transactions, MEDIUM.changes) == (450, 450_000)
    assert (SMALL.transactions, SMALL.changes) == (40_000, 80_000)
    assert (LARGE.transactions, LARGE.changes) == (2, 450_000)


def test_a_smaller_backlog_has_the_same_shape() -> None:
    assert LARGE.scaled(4).transactions == 2
    assert SMALL.scaled(4).transactions == 10_000
    assert LARGE.scaled(1) == LARGE


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--only", "apply_smal"])
    assert ended.value.code == 2
    assert "invalid choice: 'apply_smal'" in capsys.readouterr().err


def test_several_benchmarks_can_be_chosen() -> None:
    asked = parse_arguments(["--only", "copy", "--only", "idle_cost", "--runs", "5", "--quick"])
    assert (asked.only, asked.runs, asked.quick, asked.json) == (["copy", "idle_cost"], 5, True, None)
