"""How large a group may be, by what was measured."""

from __future__ import annotations

import pytest

from pipeline.apply.counters import CHANGES_LIMIT, GROUP_S, Counters
from pipeline.apply.grouping import Limits


def test_a_group_takes_about_a_second_at_the_speed_that_was_measured() -> None:
    counters = Counters()
    assert counters.limits() == Limits()
    counters.count(transactions=1, changes=5_000, size_bytes=0, took_s=GROUP_S)
    assert counters.limits().changes == 5_000


def test_many_changes_say_more_about_the_speed_than_transactions_of_one() -> None:
    counters = Counters()
    for _ in range(50):
        counters.count(transactions=1, changes=1, size_bytes=0, took_s=0.002)
    assert counters.limits().changes == pytest.approx(500, abs=1)
    counters.count(transactions=1_000, changes=2_000, size_bytes=0, took_s=0.04)
    assert 0.8 * CHANGES_LIMIT < counters.limits().changes <= CHANGES_LIMIT


def test_a_replica_that_becomes_slow_gets_smaller_groups_soon() -> None:
    counters = Counters()
    for _ in range(10):
        counters.count(transactions=1, changes=40_000, size_bytes=0, took_s=0.4)
    for _ in range(3):
        counters.count(transactions=1, changes=40_000, size_bytes=0, took_s=20.0)
    assert counters.limits().changes < 4_000


def test_what_changed_nothing_says_nothing() -> None:
    counters = Counters()
    counters.count(transactions=1, changes=0, size_bytes=0, took_s=0.1)
    assert counters.limits() == Limits()
