"""`tests/scenario/soak`: the command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.soak.site import open_site
from tests.soak.soak import Options, Soak


def main() -> int:
    given = _parser().parse_args()
    with open_site(given.log) as site:
        tally = Soak(site, Options(given.faults, given.seed, given.log, given.bug)).run()
    print(tally.as_text())
    if given.json:
        given.json.write_text(json.dumps(tally.as_json(), indent=1) + "\n")
    return int(tally.failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/scenario/soak", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the same seed, the same faults")
    parser.add_argument("--log", choices=["directory", "kafka"], default="directory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what was seen")
    parser.add_argument("--bug", metavar="NAME", help="plant a bug: it must be caught, exit code 1")
    return parser


if __name__ == "__main__":
    sys.exit(main())
