"""Why a replica does not come on: what can be seen of capture's slot and of the replica's progress row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from connectors.postgres.replica.progress import HoldKind, Progress, ReplicaState
from connectors.postgres.replication.slot import read_slot
from connectors.postgres.server import insert_lsn
from connectors.postgres.session import Session, connect
from pipeline.quantities import human_bytes, human_seconds
from schemas.errors import HistoryBroken, KeepstreamError
from schemas.lsn import Lsn, format_lsn

ENOUGH_S: Final = 300.0
"""How much longer than its delay a replica that follows may need."""
_IF_STOPPED: Final = (
    "If it was started and retries, or an error stopped it, `keepstream status` shows why and what to do."
)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """`seen` follows "the replica" or "it" in a sentence; `hint` is a full sentence."""

    seen: str
    hint: str


NOBODY_ANSWERS: Final = Obstacle(
    "cannot be judged: a server did not answer in time", "Look at `keepstream status`."
)


def replica_obstacle(replica: str, progress: Progress | None) -> Obstacle | None:
    """What keeps the replica where it is, by its own row; None if it goes on."""
    if progress is None:
        return Obstacle(
            "has no progress row yet",
            "Start `keepstream run`, which copies the replica if it is empty. Where it runs, `keepstream"
            " status` says what the copy waits for.",
        )
    if progress.state is ReplicaState.COPYING:
        if progress.alive:
            return Obstacle("is still being copied", f"Wait for it: `keepstream wait {replica}`.")
        return Obstacle(
            "has an unfinished copy that nobody goes on with",
            "Start `keepstream run`, which clears away what that copy made and begins anew.",
        )
    hold = progress.hold
    if hold is not None and hold.kind is not HoldKind.VERIFY:
        why = "paused" if hold.kind is HoldKind.PAUSE else "held by `apply --until`"
        return Obstacle(
            f"is {why} at {format_lsn(hold.at)}", f"Let it go on with `keepstream resume {replica}`."
        )
    if progress.awaits is not None:
        return Obstacle(
            f"waits for approval of the schema changes at {format_lsn(progress.awaits)}",
            f"See them with `keepstream schema show {replica}`, and let it go on with `keepstream schema"
            f" approve {replica}`.",
        )
    if not progress.alive:
        return Obstacle(
            f"is at {progress.position}, and no applier is connected to it",
            f"Start `keepstream run` or `keepstream apply {replica}`. {_IF_STOPPED}",
        )
    return None


def find_obstacle(
    replica: str,
    progress: Progress | None,
    *,
    source_conninfo: str,
    slot: str,
    purpose: str,
    delay_s: float = 0.0,
    holds_it: bool = False,
) -> Obstacle:
    """The same, with a look at the source: whether capture runs, and how far the replica is behind, which
    may be the delay that it is configured to keep. holds_it: whoever asks does, and nobody else."""
    if not holds_it and (found := _held_for_a_while(replica, progress)) is not None:
        return found
    try:
        with connect(source_conninfo, purpose=purpose) as source:
            return _find(replica, progress, source, slot, delay_s)
    except KeepstreamError as error:
        at = "has no known position" if progress is None else f"is at {progress.position}"
        return Obstacle(f"{at}; the source cannot be asked: {error.message}", error.hint)


def _held_for_a_while(replica: str, progress: Progress | None) -> Obstacle | None:
    hold = progress.hold if progress is not None else None
    if hold is None or hold.kind is not HoldKind.VERIFY:
        return None
    return Obstacle(
        f"is held at {format_lsn(hold.at)} by a verification, or by a copy",
        "Wait until that has ended, or give more time with --timeout; `keepstream status` says what it waits"
        f" for. `keepstream pause {replica}` ends a copy that its applier makes itself.",
    )


def _find(replica: str, progress: Progress | None, source: Session, slot: str, delay_s: float) -> Obstacle:
    found = replica_obstacle(replica, progress)
    if found is not None:
        return found
    assert progress is not None
    state = read_slot(source, slot)
    if state is None or state.foreign or state.active_pid is None:
        seen = "does not exist" if state is None else "is not ours" if state.foreign else "is read by nobody"
        return Obstacle(
            f"is at {progress.position}, and capture does not stream: slot {slot} {seen}",
            "Start `keepstream run` or `keepstream capture`; where it runs, `keepstream status` says what"
            " keeps it."
            f" {_IF_STOPPED}",
        )
    behind = human_bytes(max(0, insert_lsn(source) - progress.position.lsn))
    seen = f"is at {progress.position}, {behind} of the source's WAL behind"
    if delay_s:
        enough = math.ceil(delay_s + ENOUGH_S)
        return Obstacle(
            f"{seen}, and keeps a delay of {human_seconds(delay_s)}",
            f"Give it more time than its delay: --timeout {enough}.",
        )
    return Obstacle(
        seen, "Look at `keepstream status`, and give it more time with --timeout if it is catching up."
    )


def replica_ahead(replica: str, position: Lsn, source: Lsn) -> HistoryBroken:
    """The error for a replica that claims more than its source has written."""
    return HistoryBroken(
        f"replica {replica} is at {format_lsn(position)}, but the source has only written up to"
        f" {format_lsn(source)}",
        code="replica-ahead",
        hint="The replica follows another source, or the source was put back to an earlier state. Correct"
        " `source` and `replicas` in the configuration, or copy the replica anew from an empty database.",
    )
