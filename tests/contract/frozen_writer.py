"""A directory log's writer in a process of its own, which stops itself (SIGSTOP) at a named failpoint.

Run as `python -m tests.contract.frozen_writer ROOT NAME EPOCH FAILPOINT HIT`. It begins the epoch and
appends `record N of epoch E` one by one, each made durable, until it is fenced or has written RECORDS.
Its last line on stdout is what became of it: `CODE DURABLE`, `done DURABLE` if nothing stopped it.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from unittest.mock import patch

import connectors.log.directory
import connectors.log.segment_writer
from connectors.log.directory import DirectoryLog
from schemas.errors import KeepstreamError
from tests.contract.logs import begin, wait_durable

RECORDS = 6


def record_of(epoch: int, number: int) -> bytes:
    return b"record %d of epoch %d" % (number, epoch)


def stop_at(name: str, hit: int) -> None:
    """From now on the `hit`-th arrival at this failpoint stops the process until SIGCONT."""
    left = [hit]

    def failpoint(reached: str) -> None:
        if reached == name:
            left[0] -= 1
            if left[0] == 0:
                # To this thread, so that it does not get one step further.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    for module in (connectors.log.segment_writer, connectors.log.directory):
        patch.object(module, "failpoint", failpoint).start()


def run(root: Path, name: str, epoch: int) -> str:
    durable = 0
    try:
        writer = begin(DirectoryLog(root, name), epoch)
        for number in range(RECORDS):
            writer.append(record_of(epoch, number), boundary=number == RECORDS // 2)
            durable = wait_durable(writer, number + 1)
    except KeepstreamError as error:
        return f"{error.code} {durable}"
    return f"done {durable}"


if __name__ == "__main__":
    stop_at(sys.argv[4], int(sys.argv[5]))
    sys.stdout.write(run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])) + "\n")
