"""Opening a replica: what a try that fails leaves behind, of which a stage makes any number."""

from __future__ import annotations

import threading
from unittest.mock import Mock

import pytest

from pipeline.apply import opened
from schemas.errors import RetryLater


@pytest.mark.parametrize("fails", ["ReplicaWriter", "progress.require"])
def test_a_replica_that_goes_away_while_it_is_opened_leaves_no_reader_of_the_log(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Mock()
    monkeypatch.setattr(opened, "follow_from", Mock(return_value=follower))
    monkeypatch.setattr(opened, "ReplicaWriter", Mock())
    away = RetryLater("away", code="server-unreachable")
    monkeypatch.setattr(f"pipeline.apply.opened.{fails}", Mock(side_effect=away))
    with pytest.raises(RetryLater):
        opened._open_log(Mock(), threading.Event(), Mock(), Mock(), Mock())
    follower.close.assert_called_once_with()
