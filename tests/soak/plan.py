"""The sequence of faults: from a seed, the same again each time.

Cards of a deck are shuffled, so that every kind and every failpoint comes as often as it should. A world
lives for one deck; its last card is an operator's mistake, which ends it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.scenario.workload import TABLES

Parameters = dict[str, Any]

CAPTURE = (
    "capture.before_start_record",
    "capture.after_start_record",
    "capture.before_anchor",
    "capture.after_anchor",
    "capture.before_append",
    "capture.after_append",
    "capture.part_appended",
    "capture.after_durable",
    "capture.after_confirm",
)
WRITER = {
    "directory": ("log.epoch_created", "log.predecessor_read", "log.written", "log.synced", "log.looked"),
    "kafka": ("log.sent", "log.acknowledged"),
}
APPLY = (
    "apply.take_over",
    "apply.before_begin",
    "apply.after_cas",
    "apply.mid_transaction",
    "apply.part_applied",
    "apply.sets_sent",
    "apply.sets_settled",
    "apply.before_commit",
    "apply.inside_commit",
    "apply.after_commit",
)
COPY = (
    "copy.marker_written",
    "copy.snapshot_taken",
    "copy.predata_restored",
    "copy.half_copied",
    "copy.data_copied",
    "copy.postdata_restored",
    "copy.before_completion",
    "copy.after_completion",
)
JOIN = (
    "capture.before_join_announced",
    "capture.after_join_announced",
    "capture.join_rows_sent",
    "capture.after_join_committed",
)
LEAVE = ("capture.after_leave_announced", "capture.after_leave")
MEND = ("mend.emptied", "mend.written", "mend.proven", "mend.committed")
SETUP = ("capture.publication_created", "capture.slot_created")
SNAPSHOT_TABLES = tuple(table for table in TABLES if table != "public.moving")
"""Not the one with a column that only the replica has: copying it anew is refused."""
ONCE = frozenset(
    {"capture.before_start_record", "capture.after_start_record", "capture.before_anchor"}
    | {"capture.after_anchor", "log.epoch_created", "log.predecessor_read", "apply.take_over"}
)
"""Places that a process passes once: there is no third time."""

DECK = {
    "kill capture": 9,
    "kill apply": 9,
    "kill both": 5,
    "failpoint capture": 30,
    "failpoint apply": 30,
    "freeze capture": 4,
    "freeze apply": 4,
    "crash source": 4,
    "crash replica": 5,
    "cut": 9,
    "half-close": 6,
    "delay": 3,
    "stall": 2,
    "lose": 4,
    "restore replica": 2,
    "replica disk full": 2,
    "two supervisors": 1,
    "copy": 3,
    "truncate in copy": 1,
    "quiet": 1,
    "pause": 2,
    "verify": 1,
    "snapshot": 4,
}
OF_LOG = {"directory": {"log disk full": 4, "damage": 1}, "kafka": {"kill kafka": 1, "stranger": 3}}
_WORLD_CARDS = 40
"""A deck of few cards is laid several times into a world, but never cut because of that."""


def expected_failpoints(log: str) -> frozenset[str]:
    """Those that a run with enough faults must have hit."""
    segments = ("log.segment_created",) if log == "directory" else ()
    others = ("capture.before_heartbeat", "verify.held", *segments)
    return frozenset(CAPTURE + WRITER[log] + APPLY + COPY + JOIN + LEAVE + MEND + SETUP + others)


@dataclass(frozen=True)
class Fault:
    """One card, drawn."""

    number: int
    kind: str
    parameters: Parameters = field(default_factory=dict)


class Plan:
    """Draws faults. `last`: kinds that end a world, in turns; `deck`: cards instead of the usual ones."""

    def __init__(
        self, seed: int, log: str, *, last: tuple[str, ...] = (), deck: Mapping[str, int] | None = None
    ) -> None:
        self._random = random.Random(seed)
        self._deck = deck or DECK | OF_LOG[log]
        self._log = log
        self._last = last
        self._worlds = 0
        self._tables = 0
        self._decks: dict[str, list[str]] = {}

    def world(self, limit: int, first: int = 0) -> Iterator[Fault]:
        """The faults of the next world, at most `limit`."""
        kinds = [kind for kind, count in self._deck.items() for _ in range(count)]
        kinds *= max(1, min(_WORLD_CARDS, limit) // len(kinds))
        self._random.shuffle(kinds)
        ending = ["join", "leave", "join", self._last[self._worlds % len(self._last)]] if self._last else []
        self._worlds += 1
        for number, kind in enumerate((kinds + ending)[:limit], first):
            yield Fault(number, kind, self._parameters(kind))

    def _parameters(self, kind: str) -> Parameters:
        if kind.startswith("failpoint"):
            return {"failpoint": self._failpoint(kind)}
        if kind in ("cut", "half-close", "delay", "stall", "lose"):
            return self._network(kind)
        if kind == "copy":
            return {"failpoints": [self._deal("copy", COPY) for _ in range(self._random.choice([1, 1, 2]))]}
        if kind == "join":
            places = (*JOIN, "log.segment_created") if self._log == "directory" else JOIN
            return {"failpoint": self._deal("join", places), "table": f"joined_{self._count()}"}
        if kind == "snapshot":
            table = self._random.choice(SNAPSHOT_TABLES)
            return {"failpoint": self._deal("mend", MEND), "table": table, "after_s": self._time(0.5)}
        if kind == "leave":
            return {"failpoint": self._deal("leave", LEAVE), "table": f"left_{self._count()}"}
        if kind.startswith("crash"):
            how = self._random.choice(["immediate", "kill"])
            return {"how": how, "after_s": self._time(0.6), "down_s": self._time(0.8)}
        if kind == "kill kafka":
            dies = self._random.choice([True, False])
            return {"after_s": self._time(0.5), "down_s": self._time(1.5), "capture_dies": dies}
        if kind.startswith("freeze"):
            wakes = self._random.choice([True, False])
            times = {"works_s": self._time(0.6), "frozen_s": self._time(1.2), "woken_s": self._time(0.8)}
            return times | {"woken_goes_on": wakes}
        if kind.endswith("disk full"):
            return {"left_bytes": self._random.choice([0, 3000, 70_000]), "for_s": 0.5 + self._time(1.5)}
        return {"after_s": self._time(0.5)}

    def _network(self, kind: str) -> Parameters:
        targets = ["source", "replica"] + (["kafka"] if self._log == "kafka" else [])
        parameters: Parameters = {"target": self._random.choice(targets), "after_s": self._time(0.4)}
        if kind == "half-close":
            parameters["toward_server"] = self._random.choice([True, False])
        elif kind == "delay":
            parameters |= {"delay_s": self._time(0.2), "for_s": self._time(2.0)}
        elif kind == "lose":
            parameters |= {"toward_server": self._random.choice([True, False]), "for_s": self._time(1.5)}
        elif kind == "stall":
            parameters["for_s"] = self._time(3.0)
        return parameters

    def _failpoint(self, kind: str) -> str:
        places = APPLY if kind.endswith("apply") else CAPTURE + WRITER[self._log]
        name = self._deal(kind, places)
        return name if name in ONCE else f"{name}:{self._random.randint(1, 4)}"

    def _deal(self, deck: str, places: tuple[str, ...]) -> str:
        """Each place once before any comes again."""
        if not self._decks.get(deck):
            self._decks[deck] = self._random.sample(places, len(places))
        return self._decks[deck].pop()

    def _count(self) -> int:
        """Tables that come into being later, for names that no world sees twice."""
        self._tables += 1
        return self._tables

    def _time(self, most_s: float) -> float:
        return round(self._random.uniform(0.0, most_s), 3)
