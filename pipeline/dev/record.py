"""server.json: what a running server's folder says about it, so that any process can find and stop it.

It is written before the server answers and removed after it has ended; a record whose process is gone
is stale and means "not running". The password in it is why it is readable by its owner only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.dev.process import ProcessId

FILE_NAME = "server.json"
_KILL_WAIT_S = 20.0

# What ends a server at once. PostgreSQL's immediate shutdown takes its children along; a JVM would
# take SIGQUIT as a wish for a thread dump.
_END = {"postgres": signal.SIGQUIT, "kafka": signal.SIGKILL}


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """`kind`: postgres or kafka. `process` is None while the server is down."""

    kind: str
    port: int
    password: str
    process: ProcessId | None

    def is_running(self) -> bool:
        return self.process is not None and self.process.is_alive()


def read_record(folder: Path) -> ServerRecord | None:
    try:
        values = json.loads((folder / FILE_NAME).read_text())
    except FileNotFoundError:
        return None
    process = values.pop("process")
    return ServerRecord(**values, process=ProcessId(**process) if process else None)


def write_record(folder: Path, record: ServerRecord) -> None:
    """Replace the record in one step, so that a reader never sees half of one."""
    number, name = tempfile.mkstemp(dir=folder, prefix=FILE_NAME)  # created with mode 0600
    with os.fdopen(number, "w") as file:
        json.dump(asdict(record), file)
    Path(name).replace(folder / FILE_NAME)


def records_below(folder: Path) -> Iterator[tuple[Path, ServerRecord]]:
    """Every server that was started in `folder` or up to two levels below it."""
    for pattern in (FILE_NAME, f"*/{FILE_NAME}", f"*/*/{FILE_NAME}"):
        for path in folder.glob(pattern):
            record = read_record(path.parent)
            if record is not None:
                yield path.parent, record


def kill_below(folder: Path) -> None:
    """End every server below `folder` at once and delete the folder: for data that nobody needs."""
    running = [
        (record.process, _END[record.kind])
        for _, record in records_below(folder)
        if record.process is not None
    ]
    for process, end in running:
        process.signal(end)
    for process, _ in running:
        if not process.wait(_KILL_WAIT_S):
            process.signal(signal.SIGKILL)
            process.wait(_KILL_WAIT_S)
    shutil.rmtree(folder, ignore_errors=True)
