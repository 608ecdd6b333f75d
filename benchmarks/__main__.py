"""`benchmarks/run`: run benchmarks one after the other; a table on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import apply, capture, copying, costs, growth, latency, memory, running
from benchmarks.bench import Bench
from benchmarks.machine import describe_machine
from benchmarks.measure import Result, as_json, format_table
from benchmarks.servers import running_servers

Benchmark = Callable[[Bench], list[Result]]
BENCHMARKS: dict[str, Benchmark] = {
    "capture_kafka": capture.capture_kafka,
    "capture_directory": capture.capture_directory,
    "capture_ddl": capture.capture_ddl,
    "capture_types": capture.capture_types,
    "apply_small": apply.apply_small,
    "apply_large": apply.apply_large,
    "apply_types": apply.apply_types,
    "end_to_end_small": apply.end_to_end_small,
    "end_to_end_large": apply.end_to_end_large,
    "end_to_end_small_running": running.end_to_end_small_running,
    "end_to_end_large_running": running.end_to_end_large_running,
    "end_to_end_small_directory": apply.end_to_end_small_directory,
    "end_to_end_large_directory": apply.end_to_end_large_directory,
    "copy": copying.copy,
    "latency_kafka": latency.latency_kafka,
    "latency_directory": latency.latency_directory,
    "memory_large_transaction": memory.memory_large_transaction,
    "memory_wide_row": memory.memory_wide_row,
    "memory_huge_row": memory.memory_huge_row,
    "idle_cost": costs.idle_cost,
    "idle_cost_directory": costs.idle_cost_directory,
    "source_cost": costs.source_cost,
}
GROWTH: dict[str, Benchmark] = {
    "growth_rows": growth.growth_rows,
    "growth_transactions": growth.growth_transactions,
    "growth_tables": growth.growth_tables,
    "growth_replicas": growth.growth_replicas,
}
"""Only where they are asked for: they tell a shape, and take half an hour beside the others."""
KNOWN = BENCHMARKS | GROWTH
RUNS = 3
QUICK_RUNS = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a benchmark failed; the others were run all the same."""
    asked = parse_arguments(arguments)
    if asked.list:
        print("\n".join(KNOWN))
        return 0
    runs = asked.runs or (QUICK_RUNS if asked.quick else RUNS)
    with running_servers() as servers:
        bench = Bench(servers, runs, asked.quick)
        results, failed = run_all(bench, asked.only or list(BENCHMARKS))
        machine = describe_machine(servers)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(format_table(results))
    for name, why in failed.items():
        print(f"{name}: FAILED: {why}")
    if asked.json is not None:
        text = json.dumps(as_json(machine, results), indent=2, ensure_ascii=False)
        asked.json.write_text(text + "\n", encoding="utf-8")
    return 1 if failed else 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Keepstream beside what people use.")
    parser.add_argument("--only", action="append", metavar="NAME", choices=list(KNOWN), help="may repeat")
    parser.add_argument("--quick", action="store_true", help="smaller and one pair: at most 5 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument(
        "--runs", type=_positive, metavar="N", help=f"pairs of ours and the anchor; else {RUNS}"
    )
    parser.add_argument("--list", action="store_true", help="print the names and end")
    return parser.parse_args(arguments)


def run_all(bench: Bench, names: Sequence[str]) -> tuple[list[Result], dict[str, str]]:
    """Results, and why others failed."""
    results: list[Result] = []
    failed: dict[str, str] = {}
    for name in names:
        bench.say(f"== {name}")
        try:
            results += KNOWN[name](bench)
            bench.servers.clear()
        except Exception as error:  # noqa: BLE001 - one failure must not cost the others
            failed[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
            clear_after_failure(bench)
    return results, failed


def clear_after_failure(bench: Bench) -> None:
    """What cannot be cleared hinders the next benchmark, and is told there."""
    try:
        bench.servers.clear()
    except Exception:  # noqa: BLE001 - the failure before it is what matters
        traceback.print_exc()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
