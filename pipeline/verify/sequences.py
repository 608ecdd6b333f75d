"""Sequences of a verification: the replica's must come to where the source's stood when it began."""

from __future__ import annotations

import time
from typing import Final

from connectors.postgres.session import connect
from pipeline.control.sequences import AwaitedSequences, read_now
from pipeline.verify.meeting import VerifyOptions
from pipeline.verify.result import SequencesResult
from pipeline.verify.watch import Watch
from schemas.sequence import SequenceValue

PATIENCE_S: Final = 25.0
"""They reach a replica within ten seconds, and behind all rows that it may not apply yet."""
_POLL_S: Final = 0.2


def compare(options: VerifyOptions, watch: Watch, awaited: AwaitedSequences) -> SequencesResult:
    """Compare the replica's as they are now, for so long as they may be on their way."""

    def now() -> dict[tuple[str, str], SequenceValue]:
        with connect(options.source_conninfo, purpose=options.purpose) as source:
            return read_now(source, awaited.awaited)

    until = time.monotonic() + PATIENCE_S + options.delay_s
    with watch.session(options.replica_conninfo, purpose=options.purpose) as replica:
        while (behind := awaited.look(replica, now)) and time.monotonic() < until:
            watch.tell(f"waiting for {len(behind)} sequences: {behind[0]}")
            watch.pause(_POLL_S)
    return SequencesResult(
        awaited.compared, tuple(map(str, behind)), tuple(sorted(awaited.missing)), awaited.hidden
    )
