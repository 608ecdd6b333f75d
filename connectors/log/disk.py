"""What the operating system's errors mean for a log on disk, and the one way to fsync."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import NoReturn

from schemas.errors import HistoryBroken, KeepstreamError, OperatorNeeded, RetryLater

LOG_SUFFIX = ".log"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOOK_AT_DISK = "Look at the disk: `dmesg | tail` and `smartctl -a`."
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR)
_EXIT_UNREACHABLE = 5


def disk_error(error: OSError, path: Path) -> KeepstreamError:
    """The deliberate error for one the operating system raised about `path`."""
    what = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in FULL:
        return RetryLater(
            f"no space for the change log in {path.parent}: {what.lower()}",
            code="log-full",
            hint=f"Free space there or make the volume larger; `df -h {path.parent}` shows it.",
        )
    if error.errno in _FORBIDDEN:
        return OperatorNeeded(
            f"not allowed to use {path}: {what.lower()}",
            code="log-permission",
            hint=f"Run as root: `{permit_command(path)}`; or choose another folder for `log`.",
        )
    if error.errno in _IN_THE_WAY:
        return OperatorNeeded(
            f"{path} cannot be a folder: a file is in the way",
            code="log-path-taken",
            hint="Move the file away, or choose another folder for `log`.",
        )
    if error.errno == errno.ENOENT:
        return HistoryBroken(
            f"{path} does not exist",
            code="log-missing",
            hint="Bring the folder back, for example mount its volume. `keepstream run` makes a new log"
            " only for a source that has none yet.",
        )
    return RetryLater(
        f"{path} cannot be used: {what.lower()}",
        code="log-unreachable",
        hint=LOOK_AT_DISK,
    )


def permit_command(path: Path) -> str:
    """What root runs so that this process's user can use a log's folder, or make it. `path`: that folder, or
    something in it: what one file lacks, the others lack, too, and a new one needs a folder to be made in."""
    log = next((folder for folder in (path, *path.parents) if folder.suffix == LOG_SUFFIX), path)
    for folder in reversed(log.parents):
        if is_there(folder) and not os.access(folder, os.X_OK):
            return f"chmod o+x {shlex.quote(str(folder))}"
    user, shown = os.geteuid(), shlex.quote(str(log))
    return f"chown -R {user} {shown}" if is_there(log) else f"install -d -m 700 -o {user} {shown}"


def is_folder(path: Path) -> bool:
    """Whether it is one. Raises OperatorNeeded (`log-permission`) where that may not be seen."""
    try:
        return path.is_dir()
    except OSError as error:
        raise disk_error(error, path) from error


def is_empty(path: Path) -> bool:
    """Whether a folder holds nothing, or is gone. Raises OperatorNeeded (`log-permission`) where that may not
    be seen."""
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError as error:
        raise disk_error(error, path) from error


def is_there(path: Path) -> bool:
    """Whether anything is under that path that this user may see."""
    try:
        path.lstat()
    except OSError:
        return False
    return True


def is_in_place(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one under this path: not deleted, not moved away with its folder."""
    try:
        found = os.stat(path)  # noqa: PTH116 - beside fstat
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def sync_or_die(descriptor: int, path: Path) -> None:
    """fsync what this process wrote; if that fails, end the process at once (P8).

    After a failed fsync the kernel may have dropped the pages and marked them clean: the next fsync
    would succeed and prove nothing. So nothing in this process may ever try again.
    """
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        _die(path, error)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder_or_die(path: Path) -> None:
    """The same after names of this process's own, by the same rule."""
    try:
        sync_folder(path)
    except FileNotFoundError as error:
        raise disk_error(error, path) from error
    except OSError as error:
        _die(path, error)


def _die(path: Path, error: OSError) -> NoReturn:
    line = f"keepstream: log-fsync-failed: fsync of {path} failed: {error.strerror}; this process ends\n"
    os.write(2, line.encode())
    os._exit(_EXIT_UNREACHABLE)
