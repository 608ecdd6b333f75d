"""The loop: worlds, each under its part of the plan, with a calm after every few faults."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.scenario.checker import Verdict, Violation
from tests.soak import brokers, episodes, stops
from tests.soak import faults as acts
from tests.soak.arena import Arena
from tests.soak.damage import damage
from tests.soak.faults import Act, Skipped
from tests.soak.plan import Fault, Plan, expected_failpoints
from tests.soak.site import Site
from tests.soak.supervisors import two_supervisors
from tests.soak.tally import Tally

CALM_EVERY = 8
WHOLE_EVERY = 5
ALL_HIT_FROM = 600
"""In a run of so many faults, four worlds, every failpoint must be hit, unless it has a deck of its own."""

ACTS: dict[str, Act] = {
    "kill capture": acts.kill("capture"),
    "kill apply": acts.kill("apply"),
    "kill both": acts.kill_both,
    "failpoint capture": acts.arm("capture"),
    "failpoint apply": acts.arm("apply"),
    "freeze capture": acts.freeze("capture"),
    "freeze apply": acts.freeze("apply"),
    "crash source": acts.crash_source,
    "crash replica": acts.crash_replica,
    "restore replica": acts.restore_replica,
    "cut": acts.cut,
    "half-close": acts.half_close,
    "delay": acts.delay,
    "stall": acts.stall,
    "lose": acts.lose,
    "log disk full": acts.fill_log_disk,
    "replica disk full": acts.fill_replica_disk,
    "two supervisors": two_supervisors,
    "copy": episodes.copy,
    "truncate in copy": episodes.truncate,
    "quiet": episodes.quiet,
    "pause": episodes.pause,
    "verify": episodes.verify,
    "snapshot": episodes.snapshot,
    "join": episodes.join,
    "leave": episodes.leave,
    "damage": damage,
    "kill kafka": brokers.kill_kafka,
    "stranger": brokers.stranger,
}


def _last(log: str) -> dict[str, Act]:
    """What ends a world, in turns."""
    return stops.OF_LOG[log] | stops.COMMON


@dataclass(frozen=True)
class Options:
    """`deck`: cards instead of the usual ones; then no world ends but with the run. `most_s`: when to end
    before all faults were done."""

    faults: int
    seed: int
    log: str
    bug: str | None = None
    deck: Mapping[str, int] | None = None
    most_s: float = math.inf


class Soak:
    """One run on one site."""

    def __init__(self, site: Site, options: Options) -> None:
        self._site = site
        self._options = options
        self._last = _last(options.log)
        last = () if options.deck else tuple(self._last)
        self._plan = Plan(options.seed, options.log, last=last, deck=options.deck)
        self._done = 0
        self._began_at = time.monotonic()
        self.tally = Tally(options.log, options.seed)

    def run(self) -> Tally:
        options = self._options
        while not self._is_over:
            self._run_world(options.faults - self._done)
        self.tally.failpoints = _hits(self._site.kills)
        if self._done >= ALL_HIT_FROM and not options.deck:
            self.tally.expected = expected_failpoints(options.log)
        return self.tally

    @property
    def _is_over(self) -> bool:
        options = self._options
        late = time.monotonic() - self._began_at > options.most_s
        return late or self._done >= options.faults or bool(options.bug and self.tally.seen)

    def _run_world(self, limit: int) -> None:
        """Until its plan ends, or something was violated: then the rest of its plan goes undone."""
        plan = list(self._plan.world(limit, self._done))
        arena = Arena(self._site, seed=self._options.seed + self._done, bug=self._options.bug)
        self.tally.worlds += 1
        try:
            arena.begin()
            for index, fault in enumerate(plan, 1):
                self._do(arena, fault)
                if fault.kind in self._last:
                    return
                if index % CALM_EVERY == 0 or index == len(plan):
                    self._calm(arena)
                    if self._is_over:
                        return
        except Violation as violation:
            self.tally.note(violation, self._done)
            self._say(f"{violation.verdict.value.upper()}: {violation}")
        except AssertionError as error:
            self.tally.note(Violation(Verdict.TORN, f"{error!r}"), self._done)
            self._say(f"BROKEN: {error!r}")
        finally:
            self.tally.commits += _commits(arena)
            self.tally.missed.update(arena.all_missed)
            arena.close()

    def _do(self, arena: Arena, fault: Fault) -> None:
        self._say(f"{fault.number} {fault.kind} {fault.parameters}")
        self._done += 1
        try:
            (ACTS | self._last)[fault.kind](arena, fault.parameters)
        except Skipped as reason:
            self.tally.skipped[fault.kind] = str(reason)
        else:
            self.tally.faults[fault.kind] += 1

    def _calm(self, arena: Arena) -> None:
        started = time.monotonic()
        self.tally.samples += arena.calm(whole=self._done % WHOLE_EVERY == 0)
        self._say(f"calm after {time.monotonic() - started:.1f} s, {self.tally.samples} samples")

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self._began_at:8.1f} {what}", file=sys.stderr, flush=True)


def _commits(arena: Arena) -> int:
    with contextlib.suppress(psycopg.Error):
        arena.history.learn()
    return len(arena.history.committed)


def _hits(kills: Path) -> Counter[str]:
    lines = kills.read_text().splitlines() if kills.exists() else []
    return Counter(line.split()[0] for line in lines)
