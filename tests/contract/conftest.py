"""`change_log`: an empty log in each of its homes, deleted afterwards. Each test has a log of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.interfaces import ChangeLog
from connectors.log import open_log


def new_name() -> str:
    """A pipeline name that no other test has."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture(params=["directory", pytest.param("kafka", marks=pytest.mark.kafka)])
def change_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChangeLog]:
    if request.param == "directory":
        url = tmp_path.as_uri()
    else:
        url = f"kafka://{request.getfixturevalue('kafka_server')}"
    log = open_log(url, new_name())
    yield log
    log.destroy()
    log.close()


@pytest.fixture
def kafka_log(kafka_server: str) -> Iterator[ChangeLog]:
    log = open_log(f"kafka://{kafka_server}", new_name())
    log.create()
    yield log
    log.destroy()
    log.close()
