"""How long transactions gather: times in, times out."""

from __future__ import annotations

import pytest

from pipeline.capture.writing.gathering import BEHIND_US, Gathering

PACE_S = 0.006
LATE, SOON = BEHIND_US + 1, BEHIND_US


def holds(gathering: Gathering, count: int) -> list[float]:
    """How long what came for each of so many frames was held, in ms."""
    found = []
    for now in range(count):
        gathering.begin(now)
        found.append(gathering.left_s(now) * 1000)
        gathering.flushed(now)
    return found


def test_what_is_in_time_gathers_for_ten_milliseconds() -> None:
    gathering = Gathering(PACE_S)
    gathering.see(sent_at=SOON, committed_at=0)
    assert not gathering.is_behind
    assert holds(gathering, 3) == pytest.approx([10, 10, 10])


def test_what_is_late_gathers_longer_with_each_frame() -> None:
    gathering = Gathering(PACE_S)
    gathering.see(sent_at=LATE, committed_at=0)
    assert gathering.is_behind
    assert holds(gathering, 5) == pytest.approx([10, 20, 40, 60, 60])


def test_who_has_caught_up_gathers_briefly_at_once_and_begins_anew_when_behind_again() -> None:
    gathering = Gathering(PACE_S)
    gathering.see(sent_at=LATE, committed_at=0)
    holds(gathering, 4)
    gathering.begin(10.0)
    gathering.see(sent_at=SOON, committed_at=0)
    assert gathering.left_s(10.004) == pytest.approx(0.006)
    gathering.see(sent_at=LATE, committed_at=0)
    assert holds(gathering, 2) == pytest.approx([10, 20])


def test_no_frame_follows_another_at_once_and_one_after_a_pause_waits_for_nothing() -> None:
    gathering = Gathering(PACE_S)
    assert gathering.early_s(50.0) <= 0
    gathering.flushed(50.0)
    assert gathering.early_s(50.001) == pytest.approx(PACE_S - 0.001)
    assert gathering.early_s(50.0 + 2 * PACE_S) <= 0


def test_who_is_behind_keeps_no_pace() -> None:
    gathering = Gathering(PACE_S)
    gathering.see(sent_at=LATE, committed_at=0)
    gathering.flushed(50.0)
    assert gathering.early_s(50.0) <= 0
