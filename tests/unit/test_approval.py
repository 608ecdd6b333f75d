"""What looks at changes on their way to a replica keeps none of them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.apply.approval import Approval
from schemas.ddl.kinds import DEFAULTS


class Row:
    """As a change that holds a row, and can be referred to weakly."""

    payload = None


def rows(count: int) -> Iterator[Any]:
    for _ in range(count):
        yield Row()


def test_no_row_is_held_while_it_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.apply.approval.approvals.read", lambda *_: None)
    session: Any = None
    passing = Approval(session, "crm", DEFAULTS).watching(rows(3))
    seen = [weakref.ref(next(passing)) for _ in range(3)]
    assert [row() for row in seen] == [None, None, None]
