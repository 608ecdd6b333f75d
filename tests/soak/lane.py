"""The processes of one stage: the one that works, and those that were frozen, replaced or stand by.

A lane can be *armed*: its working process will be killed at a failpoint. Nothing waits for that at once, so
that the other lane's faults fall into the same time; the next thing that is done to the lane does.
"""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

from tests.fix_pipeline import Pipeline, Running
from tests.scenario.checker import Verdict, Violation

ARMED_S = 12.0
_POLL_S = 0.01
_CODE = re.compile(r"error\[([a-z-]+)\]: (.*)")
_MEANT = frozenset({"applier-replaced"})
"""What may end a stage that a fault has replaced by another one."""


class Lane:
    """`verb`: the command line of the stage. `kills`: where killed processes write their failpoint.
    `other`: the lane that must work, too, or nothing reaches this one."""

    def __init__(self, pipeline: Pipeline, verb: tuple[str, ...], kills: Path) -> None:
        self.working: Running | None = None
        self.missed: list[str] = []
        self.other: Lane | None = None
        self._pipeline = pipeline
        self._verb = verb
        self._kills = kills
        self._aside: list[Running] = []
        self._armed: tuple[str, float] | None = None

    @property
    def running(self) -> list[Running]:
        """All that live."""
        known = [*self._aside, *([self.working] if self.working else [])]
        return [one for one in known if one.alive]

    def start(self, *options: str, failpoint: str | None = None) -> Running:
        """Replace the working process, if there is one, by a new one."""
        self.kill()
        env = {"KEEPSTREAM_FAILPOINT": failpoint or "", "KEEPSTREAM_FAILPOINT_LOG": str(self._kills)}
        self.working = self._pipeline.start(*self._verb, *options, env=env)
        self._armed = (failpoint, time.monotonic() + ARMED_S) if failpoint else None
        return self.working

    def ensure(self) -> None:
        self.settle()
        if self.working is None or not self.working.alive:
            self.start()

    def kill(self) -> None:
        self.settle()
        if self.working is not None:
            self.working.kill()

    def settle(self) -> bool:
        """Wait for the death that was asked for; whether it came. A place that is not reached is no failure:
        the run as a whole must reach each."""
        if self._armed is None or self.working is None:
            return False
        failpoint, deadline = self._armed
        while self.working.alive and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            if self.other is not None:
                self.other.revive()
        self._armed = None
        if self.working.alive:
            self.missed.append(failpoint)
            self.working.kill()
        self.look_after()
        return bool(self.working.process.returncode == -signal.SIGKILL)

    def revive(self) -> None:
        """Start it anew if it is dead."""
        if self.working is None or not self.working.alive:
            self._armed = None
            self.start()

    def set_aside(self) -> Running:
        """The working process is not to be replaced but kept: it goes on beside the next one."""
        assert self.working is not None
        aside, self.working = self.working, None
        self._aside.append(aside)
        return aside

    def clear(self) -> None:
        """End those that stand aside."""
        for running in self._aside:
            running.kill()
        self._aside.clear()

    def end(self) -> None:
        """Kill all, whatever they are at."""
        self._armed = None
        self.clear()
        if self.working is not None:
            self.working.kill()

    def look_after(self) -> None:
        """Only faults end processes. What ended by itself would have needed an operator."""
        for running in [*self._aside, *([self.working] if self.working else [])]:
            code = running.process.poll()
            if code in (None, -signal.SIGKILL):
                continue
            if running in self._aside:
                self._aside.remove(running)
            if error_of(running) not in _MEANT:
                raise Violation(
                    Verdict.STUCK, f"{' '.join(self._verb)} ended with {code}: {_last_words(running)}"
                )
            if running is self.working:
                self.working = None


def error_of(running: Running) -> str | None:
    """The code of the error that ended it."""
    found = _CODE.findall(running.output)
    return found[-1][0] if found else None


def _last_words(running: Running) -> str:
    found = _CODE.findall(running.output)
    return f"{found[-1][0]}: {found[-1][1]}" if found else running.output[-2000:]
