"""SIGKILL for the stages of a running pipeline in mid-traffic, and proof that each came back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from pipeline.demo.commands import Running
from pipeline.demo.latency import Outage, VisibleCustomers
from pipeline.demo.traffic import Traffic
from schemas.errors import Unhealthy

SHARES = ((0.15, ("capture",)), (0.42, ("apply",)), (0.68, ("capture", "apply")))
"""When, as a share of the traffic's time, which stages are killed."""

_RECOVERY_S = 60.0


class Kills:
    """The schedule and its outcome. `tick` does what is due; one thread calls it."""

    def __init__(self, running: Running, *, seconds: float) -> None:
        self.outages: list[Outage] = []
        self._running = running
        self._due = [(time.monotonic() + seconds * share, stages) for share, stages in SHARES]
        self._victims: dict[str, int] = {}

    @property
    def survived(self) -> int:
        """Processes that were killed and replaced, after which changes arrived again."""
        return sum(len(outage.stages) for outage in self.outages if outage.recovered_s is not None)

    @property
    def all_done(self) -> bool:
        return not self._due and all(outage.recovered_s is not None for outage in self.outages)

    def tick(self, traffic: Traffic, visible: VisibleCustomers) -> str:
        """A sentence when something happened, else nothing. Raises Unhealthy (`demo-not-recovered`)."""
        if self.outages and self.outages[-1].recovered_s is None:
            return self._look_for_recovery(self.outages[-1], traffic, visible)
        if self._due and time.monotonic() >= self._due[0][0]:
            return self._kill()
        return ""

    def _kill(self) -> str:
        stages, pids = self._due[0][1], self._running.stages()
        if not set(stages) <= pids.keys():
            return ""  # still starting: at the next tick
        self._due.pop(0)
        self._victims = {stage: pids[stage] for stage in stages}
        self.outages.append(Outage(stages, time.monotonic()))
        for pid in self._victims.values():
            os.kill(pid, signal.SIGKILL)
        named = " and ".join(f"{stage} (pid {pid})" for stage, pid in self._victims.items())
        return f"SIGKILL: {named}"

    def _look_for_recovery(self, outage: Outage, traffic: Traffic, visible: VisibleCustomers) -> str:
        after = [c for c in traffic.commits if c.at_s > outage.killed_s]
        samples = visible.samples(after)
        if samples and self._replaced(outage.stages):
            outage.recovered_s = samples[0].visible_s
            took = outage.recovered_s - outage.killed_s
            return f"resumed: what was committed after the kill is on the replica, {took:.1f} s after it"
        if time.monotonic() > outage.killed_s + _RECOVERY_S:
            raise Unhealthy(
                f"{' and '.join(outage.stages)} did not resume within {_RECOVERY_S:g} s of SIGKILL",
                code="demo-not-recovered",
                hint="Run `./demo --keep` and look at run.log in the folder that it names.",
            )
        return ""

    def _replaced(self, stages: Sequence[str]) -> bool:
        pids = self._running.stages()
        return all(stage in pids and pids[stage] != self._victims[stage] for stage in stages)
