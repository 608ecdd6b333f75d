"""Latency as a reader of the replica sees it: from COMMIT on the source until the row is visible.

Measured outside of Keepstream. The CRM's process notes the monotonic clock when it sends COMMIT of a new
customer; a session of its own on the replica asks for new customers every few milliseconds. The figure is
never too low, and too high by at most that and the source's own flush.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from pipeline.demo.traffic import Commit

POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Sample:
    committed_s: float
    visible_s: float

    @property
    def latency_s(self) -> float:
        return self.visible_s - self.committed_s


@dataclass
class Outage:
    """One kill: from SIGKILL until a customer that was committed after it was visible on the replica."""

    stages: tuple[str, ...]
    killed_s: float
    recovered_s: float | None = field(default=None)

    def touches(self, sample: Sample) -> bool:
        end = self.recovered_s if self.recovered_s is not None else float("inf")
        return sample.visible_s >= self.killed_s and sample.committed_s <= end


class VisibleCustomers:
    """Watches the replica's customers from construction until `stop`; knows nothing of earlier ones."""

    def __init__(self, replica: str) -> None:
        self._connection = psycopg.connect(replica, autocommit=True, application_name="demo:latency")
        self._seen_at: dict[int, float] = {}
        self._newest = self._highest()
        self._start_s = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="latency", daemon=True)
        self._thread.start()

    def samples(self, commits: Sequence[Commit]) -> list[Sample]:
        """Those of `commits` that were made since and seen on the replica, in order."""
        seen = dict(self._seen_at)
        return [
            Sample(c.at_s, seen[c.customer]) for c in commits if c.at_s > self._start_s and c.customer in seen
        ]

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        self._connection.close()

    def _highest(self) -> int:
        row = self._connection.execute("select coalesce(max(id), 0) from public.party_party").fetchone()
        assert row is not None
        return int(row[0])

    def _watch(self) -> None:
        query = "select id from public.party_party where id > %s order by id"
        while not self._end.wait(POLL_S):
            new = [int(row[0]) for row in self._connection.execute(query, [self._newest])]
            now = time.monotonic()
            for customer in new:
                self._seen_at[customer] = now
                self._newest = customer


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of them do not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(0, -(-len(ordered) * share // 1) - 1)
    return ordered[int(rank)]
