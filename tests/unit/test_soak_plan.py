"""The soak's plan of faults: reproducible, and complete."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.soak.bugs import BUGS
from tests.soak.plan import DECK, OF_LOG, SETUP, Fault, Plan, expected_failpoints
from tests.soak.soak import ACTS, ALL_HIT_FROM
from tests.soak.stops import COMMON
from tests.soak.tally import Tally

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


@pytest.mark.parametrize("log", ["directory", "kafka"])
@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_must_hit_every_failpoint_draws_each(log: str, seed: int) -> None:
    plan, faults = Plan(seed, log, last=tuple(COMMON)), list[Fault]()
    while len(faults) < ALL_HIT_FROM:
        faults += plan.world(ALL_HIT_FROM - len(faults), len(faults))
    drawn = {fault.parameters.get("failpoint", "").partition(":")[0] for fault in faults}
    drawn |= {place for fault in faults for place in fault.parameters.get("failpoints", [])}
    assert expected_failpoints(log) - drawn == {*SETUP, "capture.before_heartbeat", "verify.held"}


def test_a_world_ends_with_an_operator_s_mistake_and_each_comes_in_turn() -> None:
    plan = Plan(1, "directory", last=("one", "two"))
    assert [list(plan.world(500))[-1].kind for _ in range(3)] == ["one", "two", "one"]


def test_a_short_deck_is_laid_whole_before_a_card_of_it_comes_again() -> None:
    deck = dict.fromkeys(["cut", "stall", "pause"], 1) | {"kill apply": 17}
    drawn = list(Plan(1, "directory", deck=deck).world(20))
    assert Counter(fault.kind for fault in drawn) == Counter(deck)


def test_no_table_comes_into_being_twice() -> None:
    plan = Plan(1, "kafka", last=("one",))
    faults = [fault for _ in range(5) for fault in plan.world(500)]
    tables = [fault.parameters["table"] for fault in faults if fault.kind in ("join", "leave")]
    assert len(tables) == len(set(tables)) == 15


def test_places_never_hit_fail_a_run_only_where_that_is_judged() -> None:
    unjudged = Tally("directory", 1)
    assert not unjudged.failed
    assert "never hit: not judged" in unjudged.as_text()
    judged = Tally("directory", 1, expected=frozenset({"apply.before_begin"}))
    assert judged.failed
    assert "never hit: apply.before_begin" in judged.as_text()
