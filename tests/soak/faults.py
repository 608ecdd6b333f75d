"""What each kind of fault does to an arena. None waits until all is well again: `Arena.calm` does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from pipeline.dev.postgres_server import EmbeddedPostgres
from tests.soak.arena import Arena
from tests.soak.lane import Lane
from tests.soak.plan import Parameters

Act = Callable[[Arena, Parameters], None]


class Skipped(Exception):
    """This machine cannot do it; the text says why."""


def _lane(arena: Arena, stage: str) -> Lane:
    return arena.capture if stage == "capture" else arena.apply


def kill(stage: str) -> Act:
    def act(arena: Arena, given: Parameters) -> None:
        arena.pass_time(given["after_s"])
        _lane(arena, stage).start()

    return act


def kill_both(arena: Arena, given: Parameters) -> None:
    arena.pass_time(given["after_s"])
    arena.capture.kill()
    arena.apply.kill()
    arena.apply.start()
    arena.capture.start()


def arm(stage: str) -> Act:
    """Start the stage anew, to be killed at a failpoint."""

    def act(arena: Arena, given: Parameters) -> None:
        _lane(arena, stage).start(failpoint=given["failpoint"])
        arena.pass_time(0.02)

    return act


def freeze(stage: str) -> Act:
    """SIGSTOP, a replacement, SIGCONT; then one of the two is killed."""

    def act(arena: Arena, given: Parameters) -> None:
        lane = _lane(arena, stage)
        lane.ensure()
        arena.pass_time(given["works_s"])
        frozen = lane.set_aside()
        frozen.process.send_signal(signal.SIGSTOP)
        lane.start("--take-over")
        time.sleep(given["frozen_s"])
        frozen.process.send_signal(signal.SIGCONT)
        arena.pass_time(given["woken_s"])
        if given["woken_goes_on"]:
            lane.kill()
            arena.pass_time(given["woken_s"])
        lane.clear()
        lane.ensure()

    return act


def end_server(server: EmbeddedPostgres, how: str) -> None:
    """Without a checkpoint; with SIGKILL the postmaster alone, whose children notice."""
    if how == "kill" and server.pid is not None:
        os.kill(server.pid, signal.SIGKILL)
    server.crash()


def crash_source(arena: Arena, given: Parameters) -> None:
    server = arena.site.source.postgres
    arena.pass_time(given["after_s"])
    end_server(server, given["how"])
    arena.pass_time(given["down_s"])
    server.start()
    arena.history.reconnect()


def crash_replica(arena: Arena, given: Parameters) -> None:
    server = arena.site.replica.postgres
    arena.pass_time(given["after_s"])
    end_server(server, given["how"])
    arena.watch.may_go_back()
    time.sleep(given["down_s"])
    server.start()


def restore_replica(arena: Arena, given: Parameters) -> None:
    """The replica comes back as a copy of itself that lacks its last commits. It was a replica before."""
    server = arena.site.replica.postgres
    arena.capture.ensure()
    arena.apply.ensure()
    arena.wait_for(lambda: arena.watch.look() is not None, "the replica's progress row")
    earlier = server.folder / "data.earlier"
    shutil.rmtree(earlier, ignore_errors=True)
    server.stop()
    subprocess.run(["cp", "-a", str(server.data), str(earlier)], check=True)
    server.start()
    arena.apply.ensure()
    arena.pass_time(0.5 + 2 * given["after_s"])
    server.crash()
    arena.watch.may_go_back()
    shutil.rmtree(server.data)
    earlier.rename(server.data)
    server.start()


def cut(arena: Arena, given: Parameters) -> None:
    arena.pass_time(given["after_s"])
    arena.site.proxies[given["target"]].cut()


def half_close(arena: Arena, given: Parameters) -> None:
    arena.pass_time(given["after_s"])
    arena.site.proxies[given["target"]].half_close(toward_server=given["toward_server"])


def delay(arena: Arena, given: Parameters) -> None:
    arena.site.proxies[given["target"]].delay(given["delay_s"], given["for_s"])
    arena.pass_time(given["after_s"])


def stall(arena: Arena, given: Parameters) -> None:
    arena.site.proxies[given["target"]].stall(given["for_s"])
    arena.pass_time(given["for_s"])


def lose(arena: Arena, given: Parameters) -> None:
    """Sends fail without an error, or work and are never acknowledged."""
    arena.pass_time(given["after_s"])
    with arena.site.proxies[given["target"]].losing(toward_server=given["toward_server"]):
        arena.pass_time(given["for_s"])


def fill_log_disk(arena: Arena, given: Parameters) -> None:
    disk = arena.site.log_disk
    if not disk.is_small:
        raise Skipped("no tmpfs can be mounted here")
    arena.capture.ensure()
    try:
        disk.fill(left_bytes=given["left_bytes"])
        arena.pass_time(given["for_s"])
        arena.check_confirmed()
    finally:
        disk.free()


def fill_replica_disk(arena: Arena, given: Parameters) -> None:
    """The server survives it, or stops as after a crash; then it is started again."""
    disk, server = arena.site.replica_disk, arena.site.replica.postgres
    if not disk.is_small:
        raise Skipped("no tmpfs can be mounted here")
    arena.apply.ensure()
    try:
        disk.fill(left_bytes=given["left_bytes"])
        arena.pass_time(given["for_s"])
    finally:
        disk.free()
    arena.watch.may_go_back()
    if not server.is_running():
        server.crash()
        server.start()
