"""What `check` must know of a folder that holds, or will hold, the change log."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from connectors.log.disk import is_there, permit_command
from schemas.finding import Finding, Severity

_LOW_BYTES = 2 * 1024**3
_LOW_SHARE = 0.05
# P8 needs a file that one process created to be seen by every other at once, and fsync to mean it.
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs"})
_VOLATILE = frozenset({"tmpfs", "ramfs"})


def inspect_folder(path: Path) -> list[Finding]:
    """Findings about the log's folder, or about the nearest existing folder above it."""
    present = path
    while not is_there(present) and present != present.parent:
        present = present.parent
    if not present.is_dir():
        return [_in_the_way(path, present)]
    findings = [_writable(path, present), _space(path, present), *_file_system(path, present)]
    if present == path:
        findings += _permissions(path)
    return findings


def _in_the_way(path: Path, present: Path) -> Finding:
    return Finding(
        Severity.ERROR,
        "log-path-taken",
        str(path),
        "folder",
        f"{present} is a file, not a folder",
        fix="Move the file away, or choose another folder for `log`.",
    )


def _writable(path: Path, present: Path) -> Finding:
    if os.access(present, os.W_OK | os.X_OK):
        message = "the folder can be written" if present == path else f"it can be made in {present}"
        return Finding(Severity.OK, "log-writable", str(path), "folder", message)
    return Finding(
        Severity.ERROR,
        "log-permission",
        str(path),
        "folder",
        f"{present} cannot be written by this user",
        fix=permit_command(path),
    )


def _space(path: Path, present: Path) -> Finding:
    space = os.statvfs(present)
    free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    message = f"{free / 1024**3:.1f} GiB of {total / 1024**3:.1f} GiB are free"
    if free < _LOW_BYTES or free < total * _LOW_SHARE:
        return Finding(
            Severity.WARNING,
            "log-space-low",
            str(path),
            "free space",
            f"{message}: when the disk is full, nothing is captured and the source keeps its WAL",
            fix=f"df -h {shlex.quote(str(present))}",
        )
    return Finding(Severity.OK, "log-space", str(path), "free space", message)


def _file_system(path: Path, present: Path) -> list[Finding]:
    kind = _kind_of_file_system(present)
    if kind in _NETWORK:
        message = f"{kind} is a network file system: two machines may not see each other's files at once"
        fix = "Put the log on a local disk, or use Kafka where capture and apply run on several machines."
        return [Finding(Severity.WARNING, "log-network-filesystem", str(path), "file system", message, fix)]
    if kind in _VOLATILE:
        message = f"{kind} is lost when the machine stops"
        fix = "Put the log on a disk: `log: file:///var/lib/keepstream`."
        return [Finding(Severity.WARNING, "log-volatile", str(path), "file system", message, fix)]
    return []


def _permissions(path: Path) -> list[Finding]:
    if not stat.S_IMODE(path.stat().st_mode) & 0o077:
        return []
    return [
        Finding(
            Severity.WARNING,
            "log-readable-by-others",
            str(path),
            "permissions",
            "others can read the folder, and it holds every row",
            fix=f"chmod -R go= {shlex.quote(str(path))}",
        )
    ]


def _kind_of_file_system(path: Path) -> str:
    """The type that the innermost mount above `path` has; empty where the system does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    mounts: dict[str, str] = {}
    for line in lines:
        fields, _, source = line.partition(" - ")
        mounts[fields.split()[4]] = source.split()[0]
    for folder in (path.resolve(), *path.resolve().parents):
        if str(folder) in mounts:
            return mounts[str(folder)]
    return ""
