"""P8 in the directory log: writers that freeze, wake up late, die or are overtaken, at every step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.interfaces import LogReader
from connectors.log.directory import DirectoryLog
from connectors.log.segment import SegmentName
from schemas.errors import HistoryBroken, LogFenced
from tests.contract.frozen_writer import RECORDS, record_of
from tests.contract.logs import append_all, begin, read_all, read_count, start_of

# Where a writer can be when it freezes: (failpoint, which hit). The first hits are CAPTURE_START's.
WHILE_WRITING = [
    ("log.written", 3),
    ("log.synced", 3),
    ("log.looked", 3),
    ("log.segment_created", 1),
    ("log.written", RECORDS + 1),
]


@pytest.fixture
def log(tmp_path: Path) -> DirectoryLog:
    log = DirectoryLog(tmp_path, "crm")
    log.create()
    return log


class Frozen:
    """A writer in a process of its own that has stopped itself."""

    def __init__(self, root: Path, epoch: int, failpoint: str, hit: int) -> None:
        command = [sys.executable, "-m", "tests.contract.frozen_writer"]
        self._process = subprocess.Popen(
            [*command, str(root), "crm", str(epoch), failpoint, str(hit)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "the writer ended before it reached its failpoint"

    def wake(self) -> tuple[str, int]:
        """Let it go on to its end: what became of it, and how many records it called durable."""
        self._process.send_signal(signal.SIGCONT)
        output, _ = self._process.communicate(timeout=60)
        code, durable = output.split()
        return code, int(durable)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[list[Frozen]]:
    """Writers to be killed when the test is over."""
    writers: list[Frozen] = []
    yield writers
    for writer in writers:
        writer.kill()


def drain(reader: LogReader) -> list[bytes]:
    """All that a reader gives until nothing more comes."""
    values: list[bytes] = []
    while records := reader.read(0.4):
        values += [record.value for record in records]
    return values


@pytest.mark.parametrize(("failpoint", "hit"), WHILE_WRITING)
def test_p8_what_a_frozen_writer_wrote_late_is_never_read(
    log: DirectoryLog, tmp_path: Path, frozen: list[Frozen], failpoint: str, hit: int
) -> None:
    old = Frozen(tmp_path, 1, failpoint, hit)
    frozen.append(old)
    early = log.reader()
    before = drain(early)

    new = begin(log, 2)
    append_all(new, [b"new"])
    between = drain(early)
    fresh = read_all(log)

    code, durable = old.wake()
    append_all(new, [b"newer"])
    after = drain(early)
    early.close()
    new.close()

    assert code == "log-fenced"
    assert before + between == fresh
    assert before + between + after == [*fresh, b"newer"] == read_all(log)
    old_records = [record_of(1, number) for number in range(RECORDS)]
    kept = fresh[1 : fresh.index(start_of(2))]
    assert kept == old_records[: len(kept)]
    assert durable <= len(kept), "a record was called durable and is lost"


@pytest.mark.parametrize(("failpoint", "hit"), WHILE_WRITING)
def test_a_killed_writer_leaves_nothing_in_doubt_that_it_called_durable(
    log: DirectoryLog, tmp_path: Path, frozen: list[Frozen], failpoint: str, hit: int
) -> None:
    """Readers need no successor to see its tail: they prove it themselves."""
    old = Frozen(tmp_path, 1, failpoint, hit)
    old.kill()
    alone = read_all(log)
    place = log.bounds().end
    resumed = log.reader(place)
    new = begin(log, 2)
    append_all(new, [b"new"])
    assert [record.value for record in read_count(resumed, 2)] == [start_of(2), b"new"]
    assert read_all(log) == [*alone, start_of(2), b"new"]
    resumed.close()
    new.close()


def test_p8_an_epoch_belongs_to_whoever_created_its_file(log: DirectoryLog) -> None:
    first = begin(log, 4)
    for epoch in (4, 3):
        with pytest.raises(LogFenced) as raised:
            begin(log, epoch)
        assert raised.value.code == "epoch-taken"
    append_all(first, [b"not disturbed"])
    assert read_all(log) == [start_of(4), b"not disturbed"]
    first.close()


def test_p8_an_unfinished_epoch_fences_the_old_writer_and_holds_readers_where_they_are_sure(
    log: DirectoryLog, tmp_path: Path, frozen: list[Frozen]
) -> None:
    old = begin(log, 1)
    append_all(old, [b"a", b"b"])
    reader = log.reader()
    read_count(reader, 3)
    creator = Frozen(tmp_path, 2, "log.epoch_created", 1)
    frozen.append(creator)

    old.append(b"late")
    with pytest.raises(LogFenced) as raised:
        old.durable(10)
    assert raised.value.code == "log-fenced"
    old.close()
    assert reader.read(1) == [], "late is in the file, but nobody knows yet whether it counts"
    assert read_all(log) == [start_of(1), b"a", b"b"], "what is proven can still be read"

    third = begin(log, 3)
    append_all(third, [b"c"])
    assert creator.wake() == ("log-fenced", 0)
    values = drain(reader)
    assert values[-2:] == [start_of(3), b"c"]
    assert read_all(log) == [start_of(1), b"a", b"b", *values]
    assert start_of(2) not in values
    reader.close()
    third.close()


def test_p8_a_creator_that_wakes_up_after_another_chose_its_predecessor_is_an_orphan(
    log: DirectoryLog, tmp_path: Path, frozen: list[Frozen]
) -> None:
    """Epoch 3 read what is valid while 2 had no header. 2 completes its header first, and is never read."""
    old = begin(log, 1)
    append_all(old, [b"a"])
    second = Frozen(tmp_path, 2, "log.predecessor_read", 1)
    frozen.append(second)
    third = Frozen(tmp_path, 3, "log.predecessor_read", 1)
    frozen.append(third)
    reader = log.reader()

    assert second.wake() == ("log-fenced", 0)
    orphan = (tmp_path / "crm.log" / SegmentName(2, 0).file_name).read_bytes()
    assert start_of(2) in orphan, "the case is not built: epoch 2 wrote nothing"
    assert drain(reader) == [start_of(1), b"a"]
    assert read_all(log) == [start_of(1), b"a"]

    assert third.wake() == ("done", RECORDS)
    expected = [start_of(1), b"a", start_of(3), *(record_of(3, number) for number in range(RECORDS))]
    assert [start_of(1), b"a", *drain(reader)] == expected
    assert read_all(log) == expected
    reader.close()
    old.close()


def test_p8_a_creator_killed_before_its_header_holds_nobody_up_once_another_begins(
    log: DirectoryLog, tmp_path: Path
) -> None:
    """The next capture asks for the same epoch: the log holds no record of the one that died."""
    Frozen(tmp_path, 1, "log.epoch_created", 1).kill()
    assert read_all(log) == []
    writer = begin(log, 1)
    append_all(writer, [b"a"])
    writer.close()
    Frozen(tmp_path, 2, "log.epoch_created", 1).kill()
    writer = begin(log, 2)
    append_all(writer, [b"b"])
    assert read_all(log) == [start_of(1), b"a", start_of(2), b"b"]
    writer.close()


def test_p8_a_creator_frozen_before_its_header_is_fenced_by_one_of_the_same_epoch(
    log: DirectoryLog, tmp_path: Path, frozen: list[Frozen]
) -> None:
    first = begin(log, 1)
    second = Frozen(tmp_path, 2, "log.predecessor_read", 1)
    frozen.append(second)
    other = begin(log, 2)
    append_all(other, [b"a"])
    assert second.wake() == ("log-fenced", 0)
    append_all(other, [b"b"])
    assert read_all(log) == [start_of(1), start_of(2), b"a", b"b"]
    first.close()
    other.close()


def test_p8_a_log_whose_very_first_writers_overlap_is_not_taken_for_an_emptied_one(
    log: DirectoryLog, tmp_path: Path, frozen: list[Frozen]
) -> None:
    """Nothing has a watermark yet, and an unfinished file hides the only one with a header."""
    first = Frozen(tmp_path, 1, "log.written", 1)
    frozen.append(first)
    reader = log.reader()
    values = [record.value for record in reader.read(0.2)]
    second = Frozen(tmp_path, 2, "log.epoch_created", 1)
    frozen.append(second)
    assert reader.read(0.2) == []
    assert second.wake() == ("done", RECORDS)
    values += drain(reader)
    assert values == [start_of(1), start_of(2), *(record_of(2, number) for number in range(RECORDS))]
    reader.close()


def test_a_writer_whose_log_was_deleted_is_stopped(log: DirectoryLog) -> None:
    writer = begin(log, 1)
    append_all(writer, [b"a"])
    log.destroy()
    writer.append(b"b")
    with pytest.raises(HistoryBroken) as missing:
        writer.durable(10)
    assert missing.value.code == "log-missing"
    writer.close()


@pytest.mark.parametrize("how", ["deleted", "moved away"])
def test_p8_a_writer_whose_log_was_made_anew_never_calls_anything_durable(
    log: DirectoryLog, tmp_path: Path, how: str
) -> None:
    """Its own file still takes every write and fsync: an acknowledgement alone proves nothing."""
    old = begin(log, 1)
    reader = log.reader()
    read_count(reader, 1)
    if how == "deleted":
        log.destroy()
    else:
        (tmp_path / "crm.log").rename(tmp_path / "elsewhere")
    log.create()
    new = begin(log, 1)
    old.append(b"lost")
    with pytest.raises(LogFenced):
        old.durable(10)
    append_all(new, [b"kept"])
    assert read_all(log) == [start_of(1), b"kept"]
    time.sleep(0.1)  # longer than a reader waits for a living writer: it tries to prove "lost" itself
    with pytest.raises(HistoryBroken) as raised:
        reader.read(5)
    assert raised.value.code == "log-recreated"
    for each in (old, new, reader):
        each.close()
