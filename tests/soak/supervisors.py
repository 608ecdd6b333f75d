"""Two `keepstream run` at once: one works, the other stands by and takes its turn."""

from __future__ import annotations

import os
import signal

from tests.fix_pipeline import Running
from tests.scenario.checker import Verdict, Violation
from tests.scenario.world import child_of
from tests.soak.arena import Arena
from tests.soak.plan import Parameters
from tests.soak.site import SET_CHANGES

_BEGIN_S = 90.0


def two_supervisors(arena: Arena, given: Parameters) -> None:
    """A child of the first is killed, then the first itself; the second goes on alone for a moment."""
    arena.capture.end()
    arena.apply.end()
    first = _start(arena)
    second = _start(arena)
    arena.wait_for(lambda: _work(first, second), "the stages of one or both", _BEGIN_S)
    arena.pass_time(given["after_s"])
    for verb in ("capture", "apply"):
        _kill_child(first, verb)
        arena.pass_time(given["after_s"])
    first.kill()
    arena.wait_for(lambda: _work(second), "the second supervisor's stages", _BEGIN_S)
    arena.pass_time(given["after_s"])
    second.kill()
    arena.capture.start()
    arena.apply.start()


def _start(arena: Arena) -> Running:
    env = {"KEEPSTREAM_FAILPOINT": "", "KEEPSTREAM_SET_CHANGES": SET_CHANGES}
    return arena.pipeline.start("run", env=env)


def _work(*runs: Running) -> bool:
    """Whether there is one of each stage among them."""
    for run in runs:
        if not run.alive and run.process.returncode != -signal.SIGKILL:
            raise Violation(Verdict.STUCK, f"run ended with {run.process.returncode}: {run.output[-1500:]}")
    said = "".join(run.output for run in runs)
    return "log continued" in said and "apply begins" in said


def _kill_child(run: Running, stage: str) -> None:
    if (pid := child_of(run, stage)) is not None:
        os.kill(pid, signal.SIGKILL)
