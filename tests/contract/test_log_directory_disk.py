"""The directory log on a disk that is full, fails, tears or rots, and what `check` says of it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.interfaces import ChangeLog
from connectors.log import directory_writer, watch
from connectors.log.directory import DirectoryLog
from connectors.log.place import unpack_place
from connectors.log.segment import HEADER_BYTES, WATERMARK_OFFSET, SegmentName
from schemas.errors import HistoryBroken, OperatorNeeded, RetryLater
from schemas.finding import Severity
from tests.contract.logs import append_all, begin, read_all, read_count, start_of, wait_durable

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def log(tmp_path: Path) -> DirectoryLog:
    log = DirectoryLog(tmp_path, "crm")
    log.create()
    return log


def file_of(log: DirectoryLog, tmp_path: Path, *, generation: int = 1, segment: int = 0) -> Path:
    return tmp_path / "crm.log" / SegmentName(generation, segment).file_name


def run_child(tmp_path: Path, before: str, after: str) -> subprocess.CompletedProcess[str]:
    """Run a writer in a process of its own, with lines of code before and after it begins epoch 1."""
    lines = [
        "import errno, os, resource, signal, sys",
        "from pathlib import Path",
        "from connectors.log.directory import DirectoryLog",
        "from schemas.errors import KeepstreamError",
        "from tests.contract.logs import append_all, begin, wait_durable",
        "log = DirectoryLog(Path(sys.argv[1]), 'crm')",
        before,
        "writer = begin(log, 1)",
        after,
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines), str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_p8_a_failed_fsync_ends_the_process_and_nothing_more_is_called_durable(
    log: DirectoryLog, tmp_path: Path
) -> None:
    """A second fsync would succeed: the kernel has dropped the pages and marked them clean."""
    result = run_child(
        tmp_path,
        before="real, calls = os.fdatasync, []",
        after="\n".join(
            [
                "append_all(writer, [b'durable'])",
                "def fail_once(descriptor):",
                "    calls.append(1)",
                "    if len(calls) == 1: raise OSError(errno.EIO, os.strerror(errno.EIO))",
                "    real(descriptor)",
                "os.fdatasync = fail_once",
                "writer.append(b'lost')",
                "try:",
                "    print('durable', wait_durable(writer, 2))",
                "finally:",
                "    print('still running')",
            ]
        ),
    )
    assert result.returncode == 5
    assert result.stdout == ""
    assert result.stderr == (
        f"keepstream: log-fsync-failed: fsync of {file_of(log, tmp_path)} failed: Input/output error;"
        " this process ends\n"
    )


def test_p8_a_failed_fsync_of_capture_start_ends_the_process_too(log: DirectoryLog, tmp_path: Path) -> None:
    result = run_child(
        tmp_path,
        before="def fail(descriptor): raise OSError(errno.EIO, 'Input/output error')\nos.fdatasync = fail",
        after="print('begun')",
    )
    assert (result.returncode, result.stdout) == (5, "")
    assert "log-fsync-failed" in result.stderr


def test_a_full_disk_is_said_and_costs_nothing_that_was_durable(log: DirectoryLog, tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the write fails in the same place."""
    result = run_child(
        tmp_path,
        before="signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        after="\n".join(
            [
                "append_all(writer, [b'kept'])",
                "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))",
                "writer.append(bytes(2_000_000))",
                "try:",
                "    wait_durable(writer, 2)",
                "except KeepstreamError as error:",
                "    print(type(error).__name__, error.code, '|', error.hint)",
                "try:",
                "    begin(log, 2)",
                "    print('begun anew')",
                "except KeepstreamError as error:",
                "    print(error.code)",
                "resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))",
                "try:",
                "    begin(log, 3)",
                "except KeepstreamError as error:",
                "    print(error.code)",
                "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
                "append_all(begin(log, 3), [b'space again'])",
            ]
        ),
    )
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("RetryLater log-full | Free space there")
    assert "df -h" in lines[0]
    assert lines[1:] == ["begun anew", "log-full"]
    assert read_all(log) == [start_of(1), b"kept", start_of(2), start_of(3), b"space again"]


def test_a_full_disk_takes_the_next_report_where_the_last_one_stood(
    log: DirectoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.put_report("capture", b'{"state": "streaming"}')
    real_open = os.open

    def open_when_full(path: Any, flags: int, *more: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_open(path, flags, *more)

    monkeypatch.setattr(os, "open", open_when_full)
    log.put_report("capture", b'{"state": "retrying", "error": "log-full"}')
    log.put_report("capture", b'{"state": "retrying"}')
    for stage, report in (("apply:a", b"{}"), ("capture", bytes(1_000_000))):
        with pytest.raises(RetryLater) as caught:
            log.put_report(stage, report)
        assert caught.value.code == "log-full"
    assert log.reports() == {"capture": b'{"state": "retrying"}'}


def test_p8_a_disk_that_does_not_answer_is_given_up_and_gets_nothing_more(
    log: DirectoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_writer, "SILENCE_LIMIT_S", 0.5)
    monkeypatch.setattr(directory_writer, "MAX_QUEUED_BYTES", 10)
    asked, answers, real = threading.Event(), threading.Event(), os.fdatasync

    def hanging(descriptor: int) -> None:
        asked.set()
        answers.wait(30)
        real(descriptor)

    writer = begin(log, 1)
    monkeypatch.setattr(os, "fdatasync", hanging)
    writer.append(b"hangs")
    asked.wait(10)
    writer.append(b"gathers")
    with pytest.raises(RetryLater) as refused:
        writer.append(b"not taken")
    assert str(refused.value) == f"{file_of(log, tmp_path)} was not written within 0.5 s"
    with pytest.raises(RetryLater):
        writer.append(b"nor this one")
    answers.set()
    writer.close()
    assert read_all(log) == [start_of(1), b"hangs"]


@pytest.mark.parametrize("tail", [b"\0" * 5, b"\x20\0\0\0torn", b"\0" * 4096, b"\xff" * 100])
def test_a_torn_tail_is_no_record_and_no_damage(log: DirectoryLog, tmp_path: Path, tail: bytes) -> None:
    writer = begin(log, 1)
    append_all(writer, [b"a", b"b"])
    writer.close()
    with open(file_of(log, tmp_path), "ab") as file:
        file.write(tail)
    end = log.bounds().end
    reader = log.reader()
    assert read_count(reader, 3)[-1].next_place == end
    assert reader.read(0.5) == []
    following = begin(log, 2)
    append_all(following, [b"c"])
    assert [record.value for record in read_count(reader, 2)] == [start_of(2), b"c"]
    reader.close()
    following.close()


def test_a_torn_header_is_an_unfinished_file(log: DirectoryLog, tmp_path: Path) -> None:
    writer = begin(log, 1)
    append_all(writer, [b"a"])
    writer.close()
    header = file_of(log, tmp_path).read_bytes()[:60]
    file_of(log, tmp_path, generation=2).write_bytes(header)
    assert read_all(log) == [start_of(1), b"a"]
    following = begin(log, 2)
    assert read_all(log) == [start_of(1), b"a", start_of(2)]
    following.close()


@pytest.mark.parametrize("in_newest", [True, False])
def test_a_bit_that_flips_in_a_durable_record_is_damage_named_by_file_and_byte(
    log: DirectoryLog, tmp_path: Path, in_newest: bool
) -> None:
    writer = begin(log, 1)
    append_all(writer, [b"first", b"second", b"third"])
    writer.close()
    if not in_newest:
        begin(log, 2).close()
    reader = log.reader()
    second = read_count(reader, 3 + 1 + (not in_newest))[2]
    reader.close()
    offset = unpack_place(second.place)[1]
    path = file_of(log, tmp_path)
    data = bytearray(path.read_bytes())
    data[offset + 10] ^= 1
    path.write_bytes(data)

    fresh = log.reader()
    assert [record.value for record in read_count(fresh, 2)] == [start_of(1), b"first"]
    with pytest.raises(HistoryBroken) as raised:
        fresh.read(5)
    assert raised.value.code == "log-corrupt"
    assert raised.value.message == f"the change log is damaged in {path} at byte {offset}"
    fresh.close()
    if in_newest:
        with pytest.raises(HistoryBroken) as refused:
            begin(log, 2)
        assert refused.value.code == "log-corrupt"
        assert len(list((tmp_path / "crm.log").glob("*.segment"))) == 1, "it must take its file back"


def test_a_damaged_header_of_a_file_that_held_records_is_damage(log: DirectoryLog, tmp_path: Path) -> None:
    writer = begin(log, 1)
    append_all(writer, [b"a"])
    writer.close()
    with open(file_of(log, tmp_path), "r+b") as file:
        file.seek(30)
        file.write(b"!")
    with pytest.raises(HistoryBroken) as raised:
        log.bounds()
    assert raised.value.code == "log-corrupt"


def test_a_file_whose_writer_is_just_beginning_it_is_not_damaged(
    log: DirectoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header is written, and the first record proven, between the reader's two looks."""
    writer = begin(log, 1)
    append_all(writer, [b"a"])
    writer.close()
    path = file_of(log, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(b"")
    read = os.pread

    def pread(descriptor: int, count: int, offset: int) -> bytes:
        data = read(descriptor, count, offset)
        path.write_bytes(whole)
        return data

    monkeypatch.setattr(os, "pread", pread)
    assert read_all(log) == [start_of(1), b"a"]


def test_a_lost_watermark_loses_no_record(log: DirectoryLog, tmp_path: Path) -> None:
    """After a power cut it can be older than the last fsync: readers then prove the tail themselves."""
    writer = begin(log, 1)
    append_all(writer, [b"a", b"b"])
    writer.close()
    with open(file_of(log, tmp_path), "r+b") as file:
        file.seek(WATERMARK_OFFSET)
        file.write(bytes(12))
    assert read_all(log) == [start_of(1), b"a", b"b"]
    following = begin(log, 2)
    assert read_all(log) == [start_of(1), b"a", b"b", start_of(2)]
    following.close()


def test_a_file_missing_in_the_middle_is_no_trimming(log: DirectoryLog, tmp_path: Path) -> None:
    writer = begin(log, 1)
    for number in range(3):
        writer.append(b"anchor", boundary=True)
        writer.append(b"row %d" % number)
    wait_durable(writer, 6)
    writer.close()
    file_of(log, tmp_path, segment=1).unlink()
    with pytest.raises(HistoryBroken) as raised:
        log.bounds()
    assert raised.value.code == "log-corrupt"
    assert "missing in the middle" in raised.value.message


def test_files_end_before_a_place_could_not_name_them(
    log: DirectoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One huge transaction has no boundary: files begin anew by size alone, and readers cross them."""
    monkeypatch.setattr(directory_writer, "ROLL_BYTES", HEADER_BYTES + 3000)
    writer = begin(log, 1)
    records = [bytes([number]) * 700 for number in range(40)]
    for number, record in enumerate(records):
        writer.append(record)
        wait_durable(writer, number + 1)
    assert len(list((tmp_path / "crm.log").glob("*.segment"))) > 8
    assert read_all(log) == [start_of(1), *records]
    writer.close()


def test_a_boundary_begins_a_file_but_the_first_anchor_stays_with_its_capture_start(
    log: DirectoryLog, tmp_path: Path
) -> None:
    writer = begin(log, 1)
    for record, boundary in ((b"anchor", True), (b"row", False), (b"anchor", True), (b"anchor", True)):
        writer.append(record, boundary=boundary)
    wait_durable(writer, 4)
    reader = log.reader()
    files = [unpack_place(record.place)[0].segment for record in read_count(reader, 5)]
    assert files == [0, 0, 0, 1, 2]
    reader.close()
    writer.close()


def test_without_inotify_readers_poll(log: DirectoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_inotify", lambda path: None)
    writer = begin(log, 1)
    reader = log.reader()
    read_count(reader, 1)
    assert reader.read(0.1) == []
    append_all(writer, [b"a"])
    assert [record.value for record in read_count(reader, 1)] == [b"a"]
    reader.close()
    writer.close()


def test_the_log_is_for_its_owner_only(log: DirectoryLog, tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        other = DirectoryLog(tmp_path / "made", "crm")
        other.create()
        begin(other, 1).close()
        other.put_report("capture", b"{}")
    finally:
        os.umask(old_mask)
    for path in (tmp_path / "made").rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def findings_of(log: ChangeLog) -> dict[str, Severity]:
    return {finding.code: finding.severity for finding in log.inspect()}


def test_check_warns_of_a_folder_that_others_can_read(log: DirectoryLog, tmp_path: Path) -> None:
    assert "log-readable-by-others" not in findings_of(log)
    (tmp_path / "crm.log").chmod(0o750)
    finding = next(finding for finding in log.inspect() if finding.code == "log-readable-by-others")
    assert finding.severity is Severity.WARNING
    assert finding.fix == f"chmod -R go= {tmp_path / 'crm.log'}"


def test_check_says_when_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = DirectoryLog(tmp_path / "file", "crm")
    with pytest.raises(OperatorNeeded) as raised:
        blocked.create()
    assert raised.value.code == "log-path-taken"
    assert findings_of(blocked) == {"log-path-taken": Severity.ERROR}


def test_a_folder_that_this_user_may_not_search_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """Root may search every folder, so the child is nobody in particular."""
    closed = tmp_path / "closed"
    closed.mkdir()
    DirectoryLog(closed, "crm").create()
    closed.chmod(0)
    lines = [
        "import os, sys; from pathlib import Path",
        "import connectors.log.directory_findings",
        "from connectors.log.directory import DirectoryLog",
        "from schemas.errors import KeepstreamError",
        "os.geteuid() or os.setuid(65534)",
        "log = DirectoryLog(Path(sys.argv[1]), 'crm')",
        "for call in (log.exists, log.create, log.bounds, log.destroy):",
        "    try: call()",
        "    except KeepstreamError as error: print(error.exit_code, error.code, bool(error.hint))",
        "print([finding.code for finding in log.inspect()][0])",
    ]
    child = [sys.executable, "-c", "\n".join(lines), str(closed)]
    try:
        done = subprocess.run(child, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    finally:
        closed.chmod(0o700)
    assert done.stdout.splitlines() == ["4 log-permission True"] * 4 + ["log-permission"], done.stderr


def test_a_log_s_folder_that_somebody_made_gets_its_reports(tmp_path: Path) -> None:
    """As `check` advises where this user may not make it."""
    (tmp_path / "crm.log").mkdir(mode=0o700)
    log = DirectoryLog(tmp_path, "crm")
    begin(log, 1).close()
    log.put_report("capture", b"{}")
    assert log.reports() == {"capture": b"{}"}


def as_nobody(lines: list[str], folder: Path) -> str:
    """What a child prints that may neither write to root's folders nor read its files."""
    before = [
        "import os, sys; from pathlib import Path",
        "from connectors.log.directory import DirectoryLog",
        "from schemas.errors import KeepstreamError",
        "from tests.contract.logs import append_all, begin",
        "os.geteuid() or os.setuid(65534)",
        "log = DirectoryLog(Path(sys.argv[1]), 'crm')",
    ]
    child = [sys.executable, "-c", "\n".join([*before, *lines]), str(folder)]
    done = subprocess.run(child, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A folder that everybody may search, and only root, if we are, may write to."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "lib")
        folder.mkdir()
        for each in (Path(made), folder):
            each.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def test_a_log_is_gone_with_its_content_where_its_folder_cannot_be_removed(foreign: Path) -> None:
    """The folder was made as `check` advises."""
    path = foreign / "crm.log"
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    foreign.chmod(0o555)
    lines = [
        "print(log.exists())",
        "log.create()",
        "append_all(begin(log, 1), [b'a'])",
        "log.put_report('capture', b'{}')",
        "print(log.exists(), log.destroy(), log.exists(), log.destroy())",
        "log.create()",
        "print(log.exists(), log.bounds().end)",
    ]
    wanted = "False\nTrue its empty folder False its empty folder\nTrue 0\n"
    assert as_nobody(lines, foreign) == wanted
    foreign.chmod(0o711)
    as_nobody(["log.destroy(); log.create()"], foreign)  # a parent that cannot be read cannot be synced


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave files that are not ours")
def test_what_root_is_told_names_the_log_s_folder_whatever_of_it_may_not_be_used(foreign: Path) -> None:
    log = DirectoryLog(foreign, "crm")
    log.create()
    writer = begin(log, 1)
    append_all(writer, [b"a"])
    writer.close()
    log.put_report("capture", b"{}")
    lines = [
        "from tests.contract.logs import read_all",
        "calls = lambda: log.put_report('capture', b'{}'), lambda: log.put_report('new', b'{}'), log.bounds,"
        " lambda: begin(log, 2), log.destroy",
        "for call in calls:",
        "    try: call()",
        "    except KeepstreamError as error: print(error.code, error.hint)",
    ]
    path = foreign / "crm.log"
    told = f"Run as root: `chown -R 65534 {path}`; or choose another folder for `log`."
    for mode in (0o700, 0o755):
        path.chmod(mode)
        assert as_nobody(lines, foreign).splitlines() == [f"log-permission {told}"] * 5


def test_what_root_is_told_to_run_opens_the_folder_that_is_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    lines = [
        "import os, sys; from pathlib import Path",
        "from connectors.log.disk import permit_command",
        "path = Path(sys.argv[1])",
        "os.geteuid() or os.setuid(65534)",
        "print(permit_command(path))",
    ]
    tmp_path.chmod(0o755)
    child = [sys.executable, "-c", "\n".join(lines), str(closed / "log" / "crm.log")]
    try:
        done = subprocess.run(child, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    finally:
        closed.chmod(0o700)
    first_closed = next(
        folder for folder in (*reversed(tmp_path.parents), tmp_path, closed) if is_closed(folder)
    )
    assert done.stdout == f"chmod o+x {first_closed}\n"


def is_closed(folder: Path) -> bool:
    """For a user who is neither its owner nor in its group, or who owns it and closed it."""
    return folder.name == "closed" or (os.geteuid() == 0 and not folder.stat().st_mode & 0o001)


def test_check_warns_of_memory_that_is_lost_with_the_machine() -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm here")
    assert findings_of(DirectoryLog(Path("/dev/shm/keepstream"), "crm"))["log-volatile"] is Severity.WARNING
