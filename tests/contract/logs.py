"""Reading and writing logs of opaque records, each with a deadline."""

from __future__ import annotations

import time
from collections.abc import Iterable

from connectors.interfaces import ChangeLog, LogReader, LogWriter, Record

DEADLINE_S = 30.0
START = b"capture start of epoch "


def begin(log: ChangeLog, epoch: int, *, ignorable: tuple[bytes, ...] = ()) -> LogWriter:
    """A writer whose CAPTURE_START says its epoch."""
    return log.begin_epoch(epoch, start_of(epoch), is_ignorable=lambda value: value in ignorable)


def start_of(epoch: int) -> bytes:
    return START + str(epoch).encode()


def append_all(writer: LogWriter, records: Iterable[bytes]) -> int:
    """Append and wait until all of them are durable; what `durable` said in the end."""
    count = wait_durable(writer, 0)
    for record in records:
        writer.append(record)
        count += 1
    return wait_durable(writer, count)


def wait_durable(writer: LogWriter, count: int) -> int:
    deadline = time.monotonic() + DEADLINE_S
    durable = writer.durable(0)
    while durable < count:
        assert time.monotonic() < deadline, f"only {durable} of {count} records became durable"
        durable = writer.durable(1)
    return durable


def read_count(reader: LogReader, count: int) -> list[Record]:
    """Exactly so many records, within the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    records: list[Record] = []
    while len(records) < count:
        assert time.monotonic() < deadline, f"only {len(records)} of {count} records came"
        records += reader.read(1)
    assert len(records) == count
    return records


def read_all(log: ChangeLog) -> list[bytes]:
    """Every record from the oldest to the end that the log has now."""
    end = log.bounds().end
    reader = log.reader()
    deadline = time.monotonic() + DEADLINE_S
    records: list[Record] = []
    try:
        while end > log.bounds().first and (not records or records[-1].next_place < end):
            assert time.monotonic() < deadline, f"the end {end} was not reached"
            records += reader.read(1)
    finally:
        reader.close()
    return [record.value for record in records]
