"""The demo's last lines: what was replicated, what the business did, latency, kills, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.cli.output import human_seconds
from pipeline.demo.kills import Kills
from pipeline.demo.latency import Sample, percentile
from pipeline.demo.screen import Screen
from pipeline.demo.tally import OPERATIONS, Tally
from pipeline.demo.traffic import Traffic

_BUSIEST = 12


def show_replicated(screen: Screen, verified: Any, tally: Tally) -> None:
    """The busiest tables and the totals: rows as `verify` counted them, changes as `events` listed them."""
    rows_of = {table["table"]: table["rows"] for table in verified["tables"]}
    busiest = tally.busiest(_BUSIEST)
    rows = [[name, f"{rows_of.get(name, 0):,}", *_changes(tally, [name])] for name in busiest]
    others = [name for name in rows_of if name not in busiest]
    rows.append(
        [f"{len(others)} more tables", f"{sum(rows_of[name] for name in others):,}", *_changes(tally, others)]
    )
    rows.append([f"all {len(rows_of)} tables", f"{sum(rows_of.values()):,}", *_changes(tally, list(rows_of))])
    screen.table(("table", "rows", *OPERATIONS), rows, title="What was replicated")
    screen.say(
        f"{tally.transactions:,} transactions since the first copy began; {tally.unsent_values} large values "
        "that PostgreSQL did not send again, being unchanged, are intact"
    )
    for table in verified["not_replicated"]:
        screen.say(f"not replicated: {table['table']}: {table['reason']}", "yellow")


def _changes(tally: Tally, tables: Sequence[str]) -> list[str]:
    return [f"{sum(tally.changes[table, op] for table in tables):,}" for op in OPERATIONS]


def show_business(screen: Screen, traffic: Traffic) -> None:
    acts = sorted(traffic.acts.items(), key=lambda act: -act[1])
    screen.say(f"{traffic.total_acts:,} acts of business: " + ", ".join(f"{n} {name}" for name, n in acts))


def show_latency(screen: Screen, samples: Sequence[Sample], kills: Kills) -> None:
    """Undisturbed and through the kills: one figure for both would hide either."""
    disturbed = [s for s in samples if any(outage.touches(s) for outage in kills.outages)]
    calm = [sample.latency_s for sample in samples if sample not in disturbed]
    screen.say(
        f"latency from COMMIT on the source until visible on the replica: p50 {_of(calm, 0.50)}, "
        f"p99 {_of(calm, 0.99)} ({len(calm)} customers)"
    )
    through = [sample.latency_s for sample in disturbed]
    count = len(through)
    screen.say(
        f"  through the kills: p50 {_of(through, 0.50)}, longest {_of(through, 1.0)} ({count} customers)"
    )
    back = ", ".join(
        f"{'+'.join(outage.stages)} after {human_seconds(outage.recovered_s - outage.killed_s)}"
        for outage in kills.outages
        if outage.recovered_s is not None
    )
    screen.say(f"kills survived: {kills.survived} processes by SIGKILL; changes arrived again: {back}")


def _of(values: Sequence[float], share: float) -> str:
    return human_seconds(percentile(values, share))


def show_verdict(screen: Screen, verified: Any) -> None:
    """The last line."""
    for table in verified["tables"]:
        if not table["identical"]:
            screen.say(f"DIFFERENT: {table['table']}: {_keys(table)}", "bold red")
    if verified["identical"]:
        screen.say(f"identical at LSN {verified['lsn']}", "bold green")
    else:
        screen.say(f"not identical at LSN {verified['lsn']}", "bold red")


def _keys(table: Any) -> str:
    """`id=3 (values differ)`, one after the other."""
    named = [
        f"{', '.join(f'{column}={value}' for column, value in row['key'].items())} ({row['difference']})"
        for row in table["differing_keys"]
    ]
    return ", ".join(named) or table["problem"] or "?"
