"""A signal ends a stage whatever its main thread is doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

# The wait itself takes the event's lock again and again: a handler that sets the event would sooner or later
# find it taken by its own thread.
WAITING = """
from pipeline.signals import stop_on_signals
stop = stop_on_signals()
print("ready", flush=True)
while not stop.wait(0.000001):
    pass
"""


BEGINNING = """
import time
from pipeline.signals import end_on_sigterm
end_on_sigterm({code})
print("ready", flush=True)
time.sleep(60)
"""


def end_of(lines: str, *arguments: str) -> int:
    """How a process ends that says `ready` and gets SIGTERM then."""
    with subprocess.Popen([sys.executable, "-c", lines, *arguments], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            child.terminate()
            return child.wait(10)
        finally:
            child.kill()


@pytest.mark.parametrize("code", [0, 130])
def test_a_process_that_has_begun_nothing_ends_at_once(code: int) -> None:
    assert end_of(BEGINNING.format(code=code)) == code


# Python's handlers wait for the call's end, as in the look-up of a name whose server does not answer.
CALLING = """
import ctypes, threading
from pipeline.signals import end_on_sigterm
end_on_sigterm()
mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
lock(mutex)
threading.Timer(0.2, print, ["ready"], {"flush": True}).start()
lock(mutex)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a mutex of zeros is Linux's")
def test_sigterm_ends_a_process_in_a_call_that_no_signal_interrupts() -> None:
    assert end_of(CALLING) == 0


ENTERING = """
import runpy, sys, time, types
def main():
    print("ready", flush=True)
    time.sleep(60)
sys.modules["pipeline.cli.streams"] = types.SimpleNamespace(set_up_streams=lambda: None)
sys.modules["pipeline.cli"] = types.SimpleNamespace(main=main)  # as if it took that long to import
runpy.run_module("pipeline.entry", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        (["-c", "keepstream.yaml", "run"], 0),
        (["apply", "standby"], 0),
        (["apply", "standby", "--until=0/1"], 130),
        (["status"], -signal.SIGTERM),
    ],
)
def test_sigterm_is_minded_before_the_command_is_loaded(verb: list[str], code: int) -> None:
    assert end_of(ENTERING, *verb) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_wait_ends_it(number: signal.Signals) -> None:
    for _ in range(15):
        with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == b"ready\n"
                time.sleep(0.002)
                child.send_signal(number)
                assert child.wait(10) == 0
            finally:
                child.kill()
