"""A short soak on each log, and a bug that it must catch. Long ones: `tests/scenario/soak`, docs/soak.md."""

from __future__ import annotations

import os

import pytest

from pipeline.dev.kafka_server import why_no_kafka
from tests.soak.bugs import BUGS
from tests.soak.site import open_site
from tests.soak.soak import CALM_EVERY, Options, Soak
from tests.soak.tally import Tally

SHORT = {
    "kill capture": 1,
    "kill apply": 1,
    "kill both": 1,
    "failpoint capture": 4,
    "failpoint apply": 4,
    "freeze capture": 1,
    "freeze apply": 1,
    "crash source": 1,
    "crash replica": 1,
    "cut": 1,
    "half-close": 1,
    "restore replica": 1,
}
MOST_S = 20.0
"""A busy machine lays only a part of the deck in this time."""

OF_LOG = {"directory": {"log disk full": 1, "damage": 1}, "kafka": {"stranger": 1}}


def soak(options: Options) -> Tally:
    if options.log == "kafka" and (missing := why_no_kafka()):
        assert not os.environ.get("CI"), f"CI must run the Kafka tests, but {missing}"
        pytest.skip(f"no Kafka here: {missing}")
    with open_site(options.log) as site:
        return Soak(site, options).run()


@pytest.mark.long(45)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("log", ["directory", "kafka"])
def test_nothing_is_lost_duplicated_torn_or_stuck(log: str) -> None:
    deck = SHORT | OF_LOG[log]
    tally = soak(Options(sum(deck.values()), seed=1, log=log, deck=deck, most_s=MOST_S))
    assert not tally.failed, tally.as_text()
    assert tally.faults.total() >= CALM_EVERY
    assert tally.samples > 0
    assert tally.commits > 0


@pytest.mark.long(25)
@pytest.mark.timeout(600)
def test_a_planted_bug_is_caught() -> None:
    bug = "confirm-before-acknowledgement"
    tally = soak(Options(40, seed=1, log="directory", bug=bug, deck=BUGS[bug].decks["directory"]))
    assert tally.failed, tally.as_text()
