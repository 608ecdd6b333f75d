"""The soak's plan of faults: reproducible, and complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.soak.bugs import BUGS
from tests.soak.plan import DECK, OF_LOG, Plan, expected_failpoints
from tests.soak.soak import ACTS
from tests.soak.stops import COMMON

_ROOT = Path(__file__).parents[2]
_FAILPOINT = re.compile(r'\bfailpoint\("([a-z_.]+)"\)')


@pytest.mark.parametrize("log", ["directory", "kafka"])
def test_a_seed_gives_the_same_faults_again(log: str) -> None:
    one, other = (Plan(7, log, last=tuple(COMMON)) for _ in range(2))
    for _ in range(3):
        assert list(one.world(500)) == list(other.world(500))
    assert list(Plan(8, log).world(500)) != list(Plan(7, log).world(500))


def test_every_kind_has_an_act() -> None:
    decks = [DECK, *OF_LOG.values(), *(deck for bug in BUGS.values() for deck in bug.decks.values())]
    assert {kind for deck in decks for kind in deck} <= ACTS.keys()


def test_every_failpoint_of_the_code_must_be_hit_on_one_of_the_logs() -> None:
    sources = [path for part in ("connectors", "pipeline") for path in (_ROOT / part).rglob("*.py")]
    found = {name for path in sources for name in _FAILPOINT.findall(path.read_text())}
    assert found == expected_failpoints("directory") | expected_failpoints("kafka")


def test_a_world_ends_with_an_operator_s_mistake_and_each_comes_in_turn() -> None:
    plan = Plan(1, "directory", last=("one", "two"))
    assert [list(plan.world(500))[-1].kind for _ in range(3)] == ["one", "two", "one"]
