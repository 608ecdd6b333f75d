"""Leaving a transaction out that comes in many parts, slowly."""

from __future__ import annotations

import itertools
import json
import threading
import uuid
from unittest.mock import Mock

import pytest

from connectors.postgres.replica.claim import Claim
from pipeline.apply import skipping
from pipeline.apply.grouping import Planner
from pipeline.apply.options import Skip
from pipeline.follow import follow_from_start
from schemas.errors import OperatorNeeded
from schemas.lsn import Lsn, Position, format_lsn
from tests.frames import STREAM, Writer
from tests.memorylog import SlowLog

STEP_S = 0.4 * skipping.PATIENCE_S


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at it takes nearly half of the patience."""
    clock = Mock(monotonic=itertools.count(0.0, STEP_S).__next__)
    monkeypatch.setattr(skipping, "time", clock)


def skip_next(records: list[bytes], lsn: int, *, end: int | None = None) -> int:
    """How many changes the audit says were left out. `end`: how many records the log has at first."""
    opened = Mock(
        planner=Planner(Position(Lsn(1000)), ""),
        follower=follow_from_start(SlowLog(records)),  # type: ignore[arg-type]
        claim=Claim("crm", STREAM, uuid.uuid4()),
    )
    skip = Skip(Lsn(lsn), "no")
    end = len(records) if end is None else end
    assert skipping.skip_next(opened, skip, threading.Event(), end=end, replica="standby")
    changes = json.loads(opened.writer.audit.call_args.kwargs["details"])["changes"]
    assert isinstance(changes, int)
    return changes


def test_a_large_transaction_is_skipped_however_long_its_parts_take() -> None:
    owner = Writer()
    lsn = owner.lsn
    parts = [owner.start(), owner.anchor(), *(owner.part(n, last=n == 9) for n in range(1, 10))]
    assert skip_next(parts, lsn) == 9


def test_a_large_transaction_that_is_still_being_written_is_skipped() -> None:
    owner = Writer()
    lsn = owner.lsn
    parts = [owner.start(), owner.anchor(), *(owner.part(n, last=n == 9) for n in range(1, 10))]
    assert skip_next(parts, lsn, end=2) == 9


def test_parts_that_a_new_epoch_made_void_are_not_counted() -> None:
    owner = Writer()
    lsn = owner.lsn
    void = [owner.start(), owner.anchor(), owner.part(1), owner.part(2)]
    again = [owner.start(), owner.anchor(), owner.part(1), owner.part(2, last=True)]
    assert skip_next(void + again, lsn) == 2


def test_a_transaction_whose_rest_does_not_come_is_not_skipped() -> None:
    owner = Writer()
    lsn = owner.lsn
    assert refusal([owner.start(), owner.anchor(), owner.part(1)], lsn) == (
        "the log has no whole transaction after 0/3E8"
    )


def test_what_is_no_transaction_is_not_waited_for_past_the_log_s_first_end() -> None:
    owner = Writer()
    records = [owner.start(), owner.anchor(), *(owner.heartbeat() for _ in range(9))]
    assert refusal(records, 1085, end=2) == "the log has no whole transaction after 0/3E8"


def test_an_lsn_that_the_replica_has_passed_is_refused_at_once() -> None:
    assert refusal([], 999) == "the replica is past it, at 0/3E8"


def test_an_lsn_below_which_the_log_has_nothing_more_is_refused_at_once() -> None:
    owner = Writer()
    records = [owner.start(), owner.anchor(), owner.heartbeat(), owner.heartbeat()]
    assert refusal(records, 1005) == "the log has no transaction between 0/3E8 and 0/3F2"


def refusal(records: list[bytes], lsn: int, *, end: int | None = None) -> str:
    """What was seen instead of the transaction."""
    with pytest.raises(OperatorNeeded) as caught:
        skip_next(records, lsn, end=end)
    assert caught.value.code == "skip-not-next"
    return caught.value.message.removeprefix(f"cannot skip the transaction at {format_lsn(Lsn(lsn))}: ")
