"""Starts keepstream's processes in milliseconds: `python -m tests.nursery` has all imported and forks.

Tests start thousands of processes, and importing costs each of them a second of CPU. A child is what
`python -m pipeline.cli` would be: environment, signals, standard streams and random numbers of its own,
failpoints read anew, the same `main`; the stages of a `run` are forked from that, too. Only the command
lines differ, as the process list shows them; and before that, if asked for, a planted bug (`tests.soak.bugs`)
is put in, and other values for constants of the product, as `monkeypatch.setattr` names them.

    parent ── {"arguments", "environment", "output", "errors", "bug", "values"} ──▶ nursery ── fork ──▶ child
    parent ◀─ {"started": pid} … {"ended": pid, "code": …} ── nursery
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import functools
import gc
import importlib
import json
import os
import pkgutil
import queue
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("schemas", "connectors", "pipeline")
_NOT_PRELOADED = ("pipeline.cli.__main__", "pipeline.demo")
_HURRIED = {
    "pipeline.backoff.LONGEST_S": 3.0,
    "pipeline.capture.housekeeping.HEARTBEAT_EVERY_S": 1.0,
    "pipeline.capture.housekeeping.LOOK_EVERY_S": 2.0,
    "pipeline.capture.joins.joins._REFUSED_PAUSES_S": (1.0, 2.0),
    "pipeline.capture.sequences.READ_EVERY_S": 2.0,
    "pipeline.apply.applier.STANDING_EVERY_S": 1.0,
    "pipeline.apply.awaited.FIRST_S": 0.2,
    "pipeline.apply.awaited.LONGEST_S": 3.0,
    "pipeline.apply.opened._RIVAL_POLL_S": 0.2,
}
"""What is rare or slow in production happens more often, so that tests wait less and a soak sees more."""
STACKS_SIGNAL = signal.SIGUSR1
"""At it a process writes where each of its threads is to its standard error."""
_REAP_EVERY_S = 0.02
_START_S = 60.0
_PR_SET_PDEATHSIG = 1


class Nursling:
    """A child of the nursery, with what is used of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def end_with(self, code: int) -> None:
        """Called by the nursery's reader."""
        self.returncode = code
        self._ended.set()


class Nursery:
    """The parent's side. Children die with the nursery, and the nursery with us. Thread-safe."""

    def __init__(self, environment: Mapping[str, str] | None = None, *, hurried: bool = False) -> None:
        """`environment`: of all children, beside ours as it is when they start."""
        self._environment = dict(environment or {})
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *(["hurried"] if hurried else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._environment},
            cwd=_ROOT,
            text=True,
        )
        self._starting = threading.Lock()
        self._children: dict[int, Nursling] = {}
        self._started: queue.Queue[Nursling] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._listener.start()

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: Path,
        *,
        errors: Path | None = None,
        bug: str | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> Nursling:
        """Returns as soon as it has a pid. Both streams are appended to `output` unless `errors` is named."""
        wish = {
            "arguments": list(arguments),
            "environment": {**os.environ, **self._environment, **environment},
            "output": str(output),
            "errors": str(errors or output),
            "bug": bug,
            "values": dict(values or {}),
        }
        output.touch()  # a child may be killed before it opens it
        assert self._process.stdin is not None
        with self._starting:
            self._process.stdin.write(json.dumps(wish) + "\n")
            self._process.stdin.flush()
            return self._started.get(timeout=_START_S)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_START_S)
        self._listener.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for told in map(json.loads, lines):
                if "started" in told:
                    child = self._children[told["started"]] = Nursling(told["started"])
                    self._started.put(child)
                else:
                    self._children.pop(told["ended"]).end_with(told["code"])


@functools.cache
def shared_nursery() -> Nursery:
    """One for all tests of this process; it ends with us."""
    nursery = Nursery(hurried=True)
    atexit.register(nursery.close)
    return nursery


# the nursery's own side


def main(*, hurried: bool) -> None:
    for name in _modules():
        importlib.import_module(name)
    _set(_HURRIED if hurried else {})
    gc.collect()
    gc.freeze()  # children share the pages
    assert threading.active_count() == 1, "a fork would lose the other threads"
    for wish in _wishes():
        if (pid := os.fork()) == 0:
            _live(wish)
        _tell({"started": pid})


def _modules() -> Iterator[str]:
    yield "tests.soak.bugs"
    for package in _PACKAGES:
        for module in pkgutil.walk_packages([str(_ROOT / package)], f"{package}."):
            if not module.name.startswith(_NOT_PRELOADED):
                yield module.name


def _wishes() -> Iterator[dict[str, Any]]:
    """Until the parent is gone. Meanwhile children that have ended are told of."""
    buffered = b""
    while True:
        ready, _, _ = select.select([0], [], [], _REAP_EVERY_S)
        _reap()
        if not ready:
            continue
        data = os.read(0, 65536)
        if not data:
            return
        *lines, buffered = (buffered + data).split(b"\n")
        yield from map(json.loads, lines)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _tell({"ended": ended[0], "code": os.waitstatus_to_exitcode(ended[1])})


def _tell(what: dict[str, int]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _live(wish: dict[str, Any]) -> NoReturn:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, path in ((1, wish["output"]), (2, wish["errors"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), stream)
    if wish["bug"]:
        importlib.import_module("tests.soak.bugs").plant(wish["bug"])
    _set(wish["values"])
    vars(importlib.import_module("pipeline.supervisor"))["subprocess"] = SimpleNamespace(
        Popen=_Stage, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
    _become(wish["arguments"], wish["environment"])


def _set(values: Mapping[str, Any]) -> None:
    """Constants by module and name. Fails where there is none: the test would wait, and nobody know why."""
    for target, value in values.items():
        module, _, name = target.rpartition(".")
        where = importlib.import_module(module)
        assert hasattr(where, name), target
        setattr(where, name, value)


def _become(arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """What `python -m pipeline.entry` does with them, in a process that was just forked."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    faulthandler.register(STACKS_SIGNAL)  # to standard error, of all threads
    importlib.reload(importlib.import_module("connectors.failpoints"))
    code = 1
    try:
        code = importlib.import_module("pipeline.cli").main(list(arguments))
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - what Python itself would do with it
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        _end()
        os._exit(code)


class _Stage:
    """A supervisor's child, with what it uses of `subprocess.Popen`. Thread-safe: one waits, another
    looks."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], stdin: int, preexec_fn: Callable[[], None]
    ) -> None:
        assert command[:4] == [sys.executable, "-P", "-m", "pipeline.entry"]
        assert stdin == subprocess.DEVNULL
        self._code: int | None = None
        self._looking = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            preexec_fn()
            _become(command[4:], env)

    def poll(self) -> int | None:
        with self._looking:
            if self._code is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
            return self._code

    def wait(self, timeout: float = float("inf")) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout)
            time.sleep(_REAP_EVERY_S)
        return code

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _end() -> None:
    """What Python does when its main thread has ended."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    main(hurried="hurried" in sys.argv[1:])
