"""Folders of development servers: for accounts without a usable home, too."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.dev.folders import cache_folder, data_folder
from pipeline.dev.kafka_server import _maven_environment
from pipeline.dev.process import Account
from schemas.errors import OperatorNeeded

OURSELVES = Account("somebody", os.getuid(), os.getgid(), other=False)


@pytest.mark.parametrize("made", [cache_folder, data_folder])
def test_a_home_that_is_not_there_is_told_with_what_names_another(
    made: Callable[[Account], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OperatorNeeded) as told:
        made(OURSELVES)
    assert told.value.code == "folder-unusable"
    assert "XDG_CACHE_HOME" in told.value.hint


@pytest.mark.parametrize(
    ("recorded", "options"), [("/nonexistent", "-Xmx1g -Duser.home=/ours"), ("/tmp", "-Xmx1g")]
)
def test_maven_goes_by_home_where_java_s_own_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, recorded: str, options: str
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=recorded))
    monkeypatch.setenv("HOME", "/ours")
    monkeypatch.setenv("MAVEN_OPTS", "-Xmx1g")
    assert _maven_environment()["MAVEN_OPTS"] == options
