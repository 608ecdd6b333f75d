"""`python -m pipeline.demo.tryton_traffic DATABASE --rate R --seconds N --seed S`: a sales team at work.

Acts start at a steady rate; where one takes longer the next begins at once, without catching up. Ends
after N seconds, or after the act at hand on SIGTERM. Writes one JSON object a line:

    {"customer": id, "at": s}      a new customer was committed; s is the monotonic clock when COMMIT was sent
    {"acts": {name: count}}        about once a second and at the end
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from typing import Any

from pipeline.demo.tryton import Tryton
from pipeline.demo.tryton_business import Business

_stop = False


def main() -> None:
    options = _parse()
    signal.signal(signal.SIGTERM, _ask_to_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the story's, which then sends SIGTERM
    business = Business(Tryton(options.database), random.Random(options.seed))  # noqa: S311 (not a secret)
    _say({"acts": {}})
    start = due = told = time.monotonic()
    while not _stop and time.monotonic() < start + options.seconds:
        business.do_something()
        now = time.monotonic()
        if (customer := business.new_customer) is not None:
            _say({"customer": customer.id, "at": customer.commit_sent_s})
        if now > told + 1:
            _say({"acts": business.done})
            told = now
        due = max(due + 1 / options.rate, now - 1)
        time.sleep(max(0.0, due - now))
    _say({"acts": business.done})


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="business in a Tryton database")
    parser.add_argument("database")
    parser.add_argument("--rate", type=float, default=20.0, help="acts a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=2026)
    return parser.parse_args()


def _ask_to_stop(signum: int, frame: object) -> None:
    global _stop
    _stop = True


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
