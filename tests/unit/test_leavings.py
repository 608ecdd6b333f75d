"""Which replicas are past the last rows of a table that left, and what the others are told to wait for."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest

from connectors.postgres.replica.progress import Hold, HoldKind, Progress, ReplicaState
from pipeline.capture.joins.leavings import behind
from pipeline.capture.options import FollowingReplica
from pipeline.config import Initial
from schemas.errors import KeepstreamError, RetryLater
from schemas.lsn import Lsn, Position

NOW = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
LAST_ROWS = Lsn(100)


def row(at: int, **changes: Any) -> Progress:
    values: dict[str, Any] = {
        "name": "crm", "stream": bytes(16), "position": Position(Lsn(at)), "token": uuid.UUID(int=1),
        "state": ReplicaState.STREAMING, "hold": None, "place": "", "backend_pid": 1, "backend_start": NOW,
        "alive": True, "updated_at": NOW,
    }  # fmt: skip
    return Progress(**values | changes)


def seen(found: Progress | KeepstreamError | None, *, initial: Initial = Initial.COPY) -> str | None:
    return behind("crm2", FollowingReplica("", initial), found, LAST_ROWS)


def test_a_replica_that_has_applied_the_last_rows_is_past_them() -> None:
    assert seen(row(100)) is None
    assert seen(row(100, hold=Hold(Lsn(100), HoldKind.PAUSE))) is None


def test_a_replica_that_is_yet_to_be_copied_gets_none_of_the_rows_unless_it_begins_with_the_log() -> None:
    assert seen(None) is None
    assert seen(None, initial=Initial.NONE) is not None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (row(99), "Replica crm2 is not past 0/64 yet."),
        (
            row(50, hold=Hold(Lsn(50), HoldKind.PAUSE)),
            "Replica crm2 is paused at 0/32. Let it go on with `keepstream resume crm2`.",
        ),
        (
            row(200, state=ReplicaState.COPYING),
            "Replica crm2 is still being copied. Wait for it: `keepstream wait crm2`.",
        ),
        (RetryLater("gone", code="no-answer"), "Replica crm2 did not say where it stands (no-answer)."),
    ],
)
def test_what_is_waited_for_names_the_replica_and_what_makes_it_go_on(
    found: Progress | KeepstreamError, said: str
) -> None:
    assert seen(found) == said


def test_a_delay_that_a_replica_keeps_is_named() -> None:
    delayed = FollowingReplica("", Initial.COPY, delay_s=300)
    assert behind("crm2", delayed, row(99), LAST_ROWS) == (
        "Replica crm2 is not past 0/64 yet, and keeps a delay of 5 min 00 s."
    )
