"""A source that can be checked, and where its log would be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fix_postgres import Database


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def owning(source: Database) -> Database:
    """A source whose owner has lent us its rights."""
    source.grant_ownership()
    return source
