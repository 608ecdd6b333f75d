"""The chain that capture writes, where the log does not take a frame."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pipeline.capture.writing.chainwriter import ChainWriter, SourceIdentity
from schemas.entries import Entries
from schemas.errors import InternalError
from schemas.framecodec import open_frame
from schemas.lsn import Lsn, Position
from schemas.validity import Chain
from tests.frames import STREAM, TABLE


class Refusing:
    """Takes every record but the second."""

    def __init__(self) -> None:
        self.asked = 0
        self.taken: list[bytes] = []

    def append(self, record: bytes, *, boundary: bool = False) -> None:
        self.asked += 1
        if self.asked == 2:
            raise InternalError("too large", code="record-too-large")
        self.taken.append(record)


def test_a_frame_that_the_log_did_not_take_is_no_link_of_the_chain() -> None:
    writer = Refusing()
    chain = ChainWriter(cast(Any, writer), Chain(stream=STREAM, epoch=1), SourceIdentity("7", 1, Entries()))
    chain.anchor((TABLE,), at=Position(Lsn(1000)))
    with pytest.raises(InternalError):
        chain.anchor((TABLE, TABLE))
    chain.heartbeat(Position(Lsn(2000)))
    first, second = map(open_frame, writer.taken)
    assert first is not None
    assert second is not None
    assert (second.number, second.previous_digest) == (first.number + 1, first.digest)


@pytest.mark.parametrize(
    ("now", "is_soon"),
    [
        (["shape:7:200:1:aa:bb:", "part:7:6p:s.t"], False),
        (["shape:7:100:1:aa:bb:", "part:7:6p:s.t", "table:7:s.t", "join:801"], False),
        (["shape:7:200:2:aa:bb:", "part:7:6p:s.t"], True),
        (["shape:7:100:1:aa:bb:", "part:7:6u:s.t"], True),
        (["shape:7:100:1:aa:bb:", "part:7:6p:s.t", "type:9:1:aa"], True),
        (["part:7:6p:s.t"], True),
    ],
)
def test_p11_an_anchor_comes_soon_where_more_than_a_tables_file_is_another(
    now: list[str], is_soon: bool
) -> None:
    known = Entries.parse(["shape:7:100:1:aa:bb:", "part:7:6p:s.t"])
    chain = ChainWriter(cast(Any, Refusing()), Chain(stream=STREAM, epoch=1), SourceIdentity("7", 1, known))
    chain.publication_is(Entries.parse(now))
    assert chain.wants_anchor is is_soon
