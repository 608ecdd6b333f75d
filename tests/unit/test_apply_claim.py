"""Why a compare-and-set was lost, from the row as it is afterwards (P13)."""

from __future__ import annotations

import datetime
import uuid

import pytest

from connectors.postgres.replica.claim import Claim, Loss, explain
from connectors.postgres.replica.progress import (
    Hold,
    HoldKind,
    Progress,
    ReplicaState,
    to_microseconds,
    to_timestamp,
)
from schemas.errors import HistoryBroken, KeepstreamError, OperatorNeeded
from schemas.lsn import Lsn, Position

CLAIM = Claim("crm", b"s" * 16, uuid.UUID(int=1))
NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)


def row(
    *,
    stream: bytes = b"s" * 16,
    at: int = 100,
    token: int = 1,
    state: ReplicaState = ReplicaState.STREAMING,
    hold: Hold | None = None,
) -> Progress:
    return Progress(
        name="crm",
        stream=stream,
        position=Position(Lsn(at)),
        token=uuid.UUID(int=token),
        state=state,
        hold=hold,
        place="",
        backend_pid=42,
        backend_start=NOW,
        alive=True,
        updated_at=NOW,
    )


def why(found: Progress | None) -> Loss:
    return explain(CLAIM, found, old=Position(Lsn(100)))


def test_a_hold_in_the_way_is_no_error() -> None:
    assert why(row(hold=Hold(Lsn(150), HoldKind.PAUSE))) is Loss.HELD


def test_a_hold_that_is_gone_or_moved_since_is_no_error_either() -> None:
    assert why(row()) is Loss.HELD
    assert why(row(hold=Hold(Lsn(200), HoldKind.VERIFY))) is Loss.HELD


def test_a_position_elsewhere_forwards_or_backwards_is_read_again() -> None:
    assert why(row(at=200)) is Loss.MOVED
    assert why(row(at=50)) is Loss.MOVED


@pytest.mark.parametrize(
    ("found", "kind", "code"),
    [
        (None, HistoryBroken, "progress-missing"),
        (row(stream=b"x" * 16), HistoryBroken, "other-stream"),
        (row(token=2), OperatorNeeded, "applier-replaced"),
        (row(state=ReplicaState.COPYING), OperatorNeeded, "copy-unfinished"),
    ],
)
def test_what_somebody_must_look_at_is_an_error(
    found: Progress | None, kind: type[KeepstreamError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        why(found)
    assert caught.value.code == code


def test_the_parameters_of_a_move_are_postgresqls_text() -> None:
    position = Position(Lsn(0x1_0000_0002), 7, 1_700_000_000_123_457)
    assert CLAIM.advance(Lsn(1), position, place="12:3:ab") == [
        b"1/2",
        b"7",
        b"2023-11-14 22:13:20.123457+00:00",
        b"12:3:ab",
        b"crm",
        b"s".hex().encode() * 16,
        CLAIM.token.hex.encode(),
        b"0/1",
    ]


def test_commit_times_keep_their_microseconds() -> None:
    for commit_time in (1, 1_700_000_000_123_457, -1, 4_102_444_800_999_999):
        text = to_timestamp(commit_time)
        assert text is not None
        assert to_microseconds(datetime.datetime.fromisoformat(text)) == commit_time
    assert to_timestamp(0) is None
