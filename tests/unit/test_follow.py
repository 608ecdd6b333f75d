"""A follower at a broken epoch: nothing counts until capture begins anew (P7)."""

from __future__ import annotations

import pytest

from pipeline.follow import Follower, follow_from_start
from schemas.errors import HistoryBroken
from tests.frames import Writer
from tests.memorylog import MemoryLog


@pytest.fixture
def owner() -> Writer:
    return Writer()


@pytest.fixture
def log(owner: Writer) -> MemoryLog:
    return MemoryLog([owner.start(), owner.anchor(), b"damaged", owner.transaction()])


def read(follower: Follower) -> int:
    """How many frames counted."""
    return len(follower.read(0))


def test_p7_a_follower_waits_at_a_broken_epoch_for_a_new_one(log: MemoryLog, owner: Writer) -> None:
    follower = follow_from_start(log)  # type: ignore[arg-type]
    assert (read(follower), read(follower)) == (2, 0)
    assert follower.waits_for_epoch
    assert follower.broken_s > 0
    again = Writer()
    again.epoch, again.number, again.digest = 1, follower.chain.number, follower.chain.digest
    log.records += [owner.transaction(), again.start(), again.anchor()]
    assert read(follower) == 2
    assert (follower.waits_for_epoch, follower.broken_s) == (False, 0.0)


def test_p7_a_new_epoch_that_never_comes_is_an_error(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = follow_from_start(log)  # type: ignore[arg-type]
    read(follower)
    monkeypatch.setattr("pipeline.follow.BROKEN_TIMEOUT_S", 0)
    with pytest.raises(HistoryBroken) as caught:
        read(follower)
    assert caught.value.code == "log-broken"
    assert caught.value.message == (
        "the log's epoch 1 broke after frame 1 in memory and no capture has begun a new one for 0 s"
    )
