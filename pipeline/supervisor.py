"""`run`'s children: one process a stage, restarted when they die, left stopped when an operator is needed.

    running ──exit 0, 5, 7, 130, or killed──▶ waiting (back-off) ──▶ running
       ├──────exit 1, seldom────────────────▶ waiting
       └──────exit 2, 3, 4, 6, or 1 again and again──▶ stopped (the other stages go on)

The whole ends when capture or the last replica has stopped, with that stage's code, or on SIGTERM
with 0. Children stay in our session and die with us, even if we are killed with SIGKILL. One that the
kernel cannot end yet, because a disk does not answer, is not waited for.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from connectors.lifeline import tied_to_us
from pipeline.backoff import Backoff

logger = logging.getLogger("keepstream.run")

CAPTURE = "capture"
PARENT_VARIABLE = "KEEPSTREAM_PARENT"
STOP_PATIENCE_S = 8.0
KILL_PATIENCE_S = 1.0
"""Both together are less than the 10 s after which Docker and others kill us."""
_RETRIED = frozenset({0, 5, 7, 130})
_CRASHES_TOLERATED = 5
_CALM_S = 60.0
"""A child that ran this long before it failed is not failing again and again."""


def is_supervised() -> bool:
    """Whether this process is a child of `run`."""
    return PARENT_VARIABLE in os.environ


@dataclass(slots=True)
class Stage:
    """One child: what starts it, and how it fares. `code` is set once it has stopped for good."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None
    stopped_at: float = 0.0
    started_at: float = 0.0
    restart_at: float = 0.0
    crashes: int = 0
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def stopped(self) -> bool:
        return self.code is not None


class Supervisor:
    """Runs the stages until `stop` is set or nothing useful is left."""

    def __init__(self, commands: Mapping[str, Sequence[str]], stop: threading.Event) -> None:
        self._stages = [Stage(name, command) for name, command in commands.items()]
        self._stop = stop
        self._woken = threading.Event()

    def run(self) -> int:
        """The exit code of the whole."""
        self._wake_after(self._stop.wait)
        try:
            while not self._stop.is_set():
                self._woken.clear()
                for stage in self._stages:
                    self._tend(stage)
                code = self._final_code()
                if code is not None:
                    return code
                self._woken.wait(self._due_in_s())
            return 0
        finally:
            self._end_all()

    def _wake_after(self, wait: Callable[[], object]) -> None:
        """To look again and again, ten times a second, would be a sixth of what an idle pipeline costs."""

        def wait_and_wake() -> None:
            wait()
            self._woken.set()

        threading.Thread(target=wait_and_wake, daemon=True).start()

    def _due_in_s(self) -> float | None:
        """When the next stage is to be restarted; None for none."""
        waiting = [stage for stage in self._stages if stage.process is None and not stage.stopped]
        due = min((stage.restart_at for stage in waiting), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    def _tend(self, stage: Stage) -> None:
        if stage.stopped:
            return
        if stage.process is None:
            if time.monotonic() >= stage.restart_at:
                self._start(stage)
            return
        status = stage.process.poll()
        if status is not None:
            stage.process = None
            self._judge(stage, status)

    def _start(self, stage: Stage) -> None:
        environment = os.environ | {PARENT_VARIABLE: str(os.getpid())}
        stage.process = subprocess.Popen(
            stage.command, env=environment, stdin=subprocess.DEVNULL, preexec_fn=tied_to_us()
        )
        stage.started_at = time.monotonic()
        self._wake_after(stage.process.wait)
        logger.info("stage started", extra={"stage": stage.name, "pid": stage.process.pid})

    def _judge(self, stage: Stage, status: int) -> None:
        calm = time.monotonic() - stage.started_at > _CALM_S
        if calm:
            stage.backoff.reset()
            stage.crashes = 0
        if status == 1:
            stage.crashes += 1
        retried = status < 0 or status in _RETRIED or (status == 1 and stage.crashes < _CRASHES_TOLERATED)
        if not retried:
            stage.code, stage.stopped_at = status, time.monotonic()
            logger.error("stage stopped", extra={"stage": stage.name, "exit_code": status})
            return
        wait_s = stage.backoff.next_s()
        stage.restart_at = time.monotonic() + wait_s
        ended = f"signal {-status}" if status < 0 else f"exit code {status}"
        logger.warning(
            "stage ended, will be restarted",
            extra={"stage": stage.name, "ended": ended, "restart_in_s": round(wait_s, 1)},
        )

    def _final_code(self) -> int | None:
        """Set when capture stopped, or the last replica: what stopped last gives the code."""
        for stage in self._stages:
            if stage.name == CAPTURE and stage.stopped:
                return stage.code
        replicas = [stage for stage in self._stages if stage.name != CAPTURE]
        if replicas and all(stage.stopped for stage in replicas):
            return max(replicas, key=lambda stage: stage.stopped_at).code
        return None

    def _end_all(self) -> None:
        running = [stage.process for stage in self._stages if stage.process is not None]
        for process in running:
            process.terminate()
        late = _still_running(running, STOP_PATIENCE_S)
        for process in late:
            logger.warning("stage did not end in time", extra={"pid": process.pid})
            process.kill()
        for process in _still_running(late, KILL_PATIENCE_S):
            logger.warning(
                "stage was killed and is left behind: it ends when the disk that it waits for answers",
                extra={"pid": process.pid},
            )


def _still_running(
    processes: Sequence[subprocess.Popen[bytes]], patience_s: float
) -> list[subprocess.Popen[bytes]]:
    """Those that have not ended after that time, for all of them together."""
    deadline = time.monotonic() + patience_s
    left = []
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            left.append(process)
    return left
