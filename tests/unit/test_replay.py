"""What the log's own messages tell behind its newest ANCHOR is found while its end is looked for."""

from __future__ import annotations

import pytest

from pipeline.capture.ddl import replay
from pipeline.capture.ddl.replay import Behind
from pipeline.follow import find_tail
from schemas.change import Change, Message, Operation
from schemas.changecodec import encode_change
from schemas.ddl.message import DDL_PREFIX
from schemas.entries import text_kind
from tests.frames import Writer
from tests.memorylog import STEP, MemoryLog


def told(text: str, prefix: str = DDL_PREFIX) -> bytes:
    payload = Message(transactional=True, prefix=prefix, content=text.encode())
    return encode_change(Change(Operation.MESSAGE, bytes(8), payload=payload))


def test_messages_behind_the_newest_anchor_are_known_without_a_second_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.follow.TAIL_PROOF_RECORDS", STEP)
    said = text_kind("said", "what was said")
    monkeypatch.setattr(
        replay, "_after", lambda entries, message, _: entries.put(said, message.content.decode())
    )
    owner = Writer()
    records = [owner.start(), owner.anchor(), *(owner.anchor() for _ in range(2 * STEP))]
    records += [owner.transaction(told("before")), owner.anchor(), owner.transaction(told("one"))]
    records += [owner.transaction() for _ in range(STEP // 2)]
    records += [owner.transaction(told("theirs", "keepstream.other")), owner.transaction(told("two"))]
    log, behind = MemoryLog(records), Behind()
    tail = find_tail(log, see=behind.see)  # type: ignore[arg-type]
    assert behind.known(tail, "p").entries.encode() == ("said:one", "said:two")
    assert len(log.scanned_from) == 2, "it went back once, and then began anew"
