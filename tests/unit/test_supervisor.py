"""`run`'s children: what is restarted, what stays stopped, and what the whole ends with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from pipeline import supervisor
from pipeline.supervisor import Supervisor

FOREVER = "import time; time.sleep(60)"


def child(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def exits(status: int) -> list[str]:
    return child(f"raise SystemExit({status})")


def run(commands: dict[str, list[str]], stop: threading.Event | None = None) -> int:
    return Supervisor(commands, stop or threading.Event()).run()


@pytest.mark.parametrize("code", [2, 3, 4, 6])
def test_a_capture_that_needs_an_operator_ends_the_whole_with_its_code(code: int) -> None:
    assert run({"capture": exits(code), "standby": child(FOREVER)}) == code


def test_the_last_replica_that_stops_ends_the_whole_with_its_code() -> None:
    assert run({"capture": child(FOREVER), "standby": exits(6)}) == 6


def test_one_stopped_replica_leaves_the_others_running(tmp_path: Path) -> None:
    """The other replica ends only after it has seen the first one stopped for a while."""
    later = child("import time; time.sleep(1.5); raise SystemExit(6)")
    started = time.monotonic()
    assert run({"capture": child(FOREVER), "second": later, "first": exits(4)}) == 6
    assert time.monotonic() - started > 1.2


@pytest.mark.parametrize(
    "ending",
    [
        "raise SystemExit(0)",
        "raise SystemExit(5)",
        "raise SystemExit(7)",
        "raise SystemExit(130)",
        "import os; os.kill(os.getpid(), 9)",
    ],
)
def test_what_ended_well_or_cannot_be_reached_or_was_killed_is_restarted(tmp_path: Path, ending: str) -> None:
    tally = tmp_path / "starts"
    restarted = child(
        f"""
        with open({str(tally)!r}, "a") as file:
            file.write("x")
        if len(open({str(tally)!r}).read()) == 3:
            raise SystemExit(4)
        {ending}
        """
    )
    assert run({"capture": restarted}) == 4
    assert tally.read_text() == "xxx"


def test_a_stage_that_crashes_again_and_again_stops(tmp_path: Path) -> None:
    tally = tmp_path / "starts"
    crashing = child(f"open({str(tally)!r}, 'a').write('x'); raise SystemExit(1)")
    assert run({"capture": crashing}) == 1
    assert tally.read_text() == "xxxxx"


def test_stopping_ends_every_child_and_counts_as_success(tmp_path: Path) -> None:
    stop = threading.Event()
    pids = tmp_path / "pid"
    announced = child(f"import os; open({str(pids)!r}, 'w').write(str(os.getpid())); {FOREVER}")
    threading.Timer(1.0, stop.set).start()
    assert run({"capture": announced}, stop) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), 0)


def test_a_child_that_the_kernel_cannot_end_keeps_neither_us_nor_the_killing_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kill, made = subprocess.Popen.kill, list[subprocess.Popen[bytes]]()

    def kill_all_but_the_first(process: subprocess.Popen[bytes]) -> None:
        made.append(process)
        if process is not made[0]:
            kill(process)

    monkeypatch.setattr(subprocess.Popen, "kill", kill_all_but_the_first)
    monkeypatch.setattr(supervisor, "STOP_PATIENCE_S", 0.5)
    stop = threading.Event()
    ready = [tmp_path / name for name in ("capture", "standby")]
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    stages = {path.name: child(f"{deaf}; open({str(path)!r}, 'w'); {FOREVER}") for path in ready}
    threading.Thread(target=stop_when, args=[stop, ready], daemon=True).start()
    try:
        assert run(stages, stop) == 0
        assert [process.returncode for process in made] == [None, -signal.SIGKILL]
        said = [record.message for record in caplog.records if record.levelname == "WARNING"]
        late = "stage did not end in time"
        left = "stage was killed and is left behind: it ends when the disk that it waits for answers"
        assert said == [late, late, left]
    finally:
        kill(made[0])
        made[0].wait()


def stop_when(stop: threading.Event, ready: list[Path]) -> None:
    deadline = time.monotonic() + 20
    while not all(path.exists() for path in ready) and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_children_die_with_a_supervisor_that_was_killed_whatever_they_are_doing(tmp_path: Path) -> None:
    """They need not have loaded anything of ours yet."""
    pids = tmp_path / "pid"
    inner = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = (
        "import sys, threading; from pipeline.supervisor import Supervisor;"
        f" Supervisor({{'capture': [sys.executable, '-c', {inner!r}]}}, threading.Event()).run()"
    )
    with subprocess.Popen([sys.executable, "-c", outer]) as supervisor:
        deadline = time.monotonic() + 20
        while not (pids.exists() and pids.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        supervisor.send_signal(signal.SIGKILL)
    pid = int(pids.read_text())
    deadline = time.monotonic() + 2
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()
