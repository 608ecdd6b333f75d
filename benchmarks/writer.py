"""A writer of single-row transactions at a steady rate: `python -m benchmarks.writer RATE SECONDS FIRST`.

The connection string comes on stdin, so that no password stands in a process list. Each of its threads has
a session and a number of its own (FIRST, FIRST + 1, …) and follows a timetable: a slow commit delays
the next ones and leaves none out. At the end it prints, as JSON, when each commit had returned, by the
machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import psycopg

WRITERS = 4
CREATE = """
    create table event (
        writer integer not null, number integer not null, kind text, payload text, at timestamptz,
        primary key (writer, number)
    )
"""
_INSERT = "insert into event values (%s, %s, 'call', repeat('x', 100), clock_timestamp())"
_LEAD_S = 0.2


def main(arguments: list[str]) -> None:
    rate, seconds, first = float(arguments[0]), float(arguments[1]), int(arguments[2])
    dsn = sys.stdin.readline().strip()
    commits: dict[int, list[float]] = {first + number: [] for number in range(WRITERS)}
    begin_s = time.monotonic() + _LEAD_S
    threads = [
        threading.Thread(
            target=write, args=[dsn, writer, returned, rate / WRITERS, begin_s + index / rate, seconds]
        )
        for index, (writer, returned) in enumerate(commits.items())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(commits, sys.stdout)


def write(dsn: str, writer: int, returned: list[float], rate: float, begin_s: float, seconds: float) -> None:
    """One writer's transactions; appends to `returned`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number in range(int(rate * seconds)):
            wait_s = begin_s + number / rate - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            connection.execute(_INSERT, [writer, number], prepare=True)
            returned.append(time.monotonic())


if __name__ == "__main__":
    main(sys.argv[1:])
