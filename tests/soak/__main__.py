"""`tests/scenario/soak`: the command line."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from pathlib import Path

from tests.soak.bugs import BUGS
from tests.soak.site import open_site
from tests.soak.soak import Options, Soak
from tests.soak.tally import Tally


def main() -> int:
    given = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    if given.bugs:
        return _all_bugs(given)
    tally = _run(given, given.log or _logs(given.bug)[0], given.bug)
    print(tally.as_text())
    if given.json:
        given.json.write_text(json.dumps(tally.as_json(), indent=1) + "\n")
    return int(tally.failed)


def _logs(bug: str | None) -> list[str]:
    """Where it shows."""
    return list(BUGS[bug].decks) if bug else ["directory"]


def _run(given: argparse.Namespace, log: str, bug: str | None) -> Tally:
    deck = dict.fromkeys(given.only, 1) if given.only else None
    if bug:
        deck = dict(BUGS[bug].decks.get(log) or BUGS[bug].decks[_logs(bug)[0]])
    with open_site(log) as site:
        return Soak(site, Options(given.faults, given.seed, log, bug, deck, given.minutes * 60)).run()


def _all_bugs(given: argparse.Namespace) -> int:
    """Each is planted in turn, on each log where it shows; 1 if one was not caught."""
    missed = 0
    pairs = [(bug, log) for bug in BUGS for log in _logs(bug)]
    for name, log in [pair for pair in pairs if given.log in (None, pair[1])]:
        tally = _run(given, log, name)
        first = tally.seen[0] if tally.seen else None
        caught = f"{first[0].value} after fault {first[1]}: {first[2][:160]!r}" if first else "NOT CAUGHT"
        print(f"{name:<32}{log:<11}{time.monotonic() - tally.began_at:>6.0f} s  {caught}", flush=True)
        missed += first is None
    return int(missed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/scenario/soak", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, metavar="N")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="end after so long")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the same seed, the same faults")
    parser.add_argument("--log", choices=["directory", "kafka"], help="else directory")
    parser.add_argument(
        "--only", action="append", metavar="KIND", help="faults of this kind; may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what was seen")
    parser.add_argument("--bug", choices=BUGS, help="plant a bug: it must be caught, exit code 1")
    parser.add_argument(
        "--bugs", action="store_true", help="plant each in turn; exit code 0 if all are caught"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
