"""Slot, publication and log together: are they of one history, as far as can be seen without writing?

The same comparisons as capture makes when it starts (P10, P11), reported instead of raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from connectors.interfaces import ChangeLog
from connectors.postgres.session import Session
from connectors.postgres.slot import SlotState, read_slot
from connectors.postgres.walsender import Walsender
from pipeline.app import replica_conninfo, source_conninfo
from pipeline.capture import history
from pipeline.capture.ddl.looking import look
from pipeline.capture.ddl.replay import Behind
from pipeline.capture.witnesses import ask_witnesses
from pipeline.check.findings import SOURCE
from pipeline.config import Config
from pipeline.follow import Follower, find_tail
from pipeline.quantities import human_bytes, human_seconds
from schemas.errors import KeepstreamError
from schemas.finding import Finding


@dataclass(frozen=True, slots=True)
class HistorySeen:
    """The slot, and where the log ends, with what it has behind its newest anchor; None: there is none."""

    slot: SlotState | None
    tail: Follower | None
    behind: Behind

    @property
    def stream(self) -> bytes | None:
        """Which stream the log holds; None if it holds none."""
        return self.tail.chain.stream if self.tail is not None else None


def read_history(session: Session, log: ChangeLog, config: Config) -> HistorySeen:
    """Raises what reading the log raises."""
    slot = read_slot(session, config.slot_name)
    behind = Behind()
    tail = find_tail(log, see=behind.see) if log.exists() else None
    if tail is not None:
        tail.close()
    if tail is not None and tail.chain.promised:
        slot = slot or read_slot(session, config.slot_name)  # capture may just have made slot and log
    return HistorySeen(slot, tail, behind)


def check_history(session: Session, seen: HistorySeen, log: ChangeLog, config: Config) -> Iterator[Finding]:
    """Whether they belong together."""
    slot, tail = seen.slot, seen.tail
    if tail is not None and tail.chain.promised:
        yield from _continued(session, log, config, slot, tail, seen.behind)
    elif slot is None:
        yield SOURCE.ok("slot", f"slot {config.slot_name}", "will be made")
    else:
        begun = seen.stream is not None
        broken = _broken(partial(history.check_leftover, slot, config.log.url, begun=begun))
        if broken is not None:
            yield SOURCE.caught(broken, f"slot {config.slot_name}")


def _continued(
    session: Session,
    log: ChangeLog,
    config: Config,
    slot: SlotState | None,
    tail: Follower,
    behind: Behind,
) -> Iterator[Finding]:
    anchor, end = tail.last_anchor, tail.chain.tail
    assert anchor is not None
    subject = f"slot {config.slot_name}"
    witnesses = partial(
        ask_witnesses,
        log,
        {name: replica_conninfo(config, name) for name in config.replicas},
        pipeline=config.name,
        stream=tail.chain.stream,
    )
    broken = _broken(partial(history.check_slot, config.slot_name, slot, tail=end, witnesses=witnesses))
    if broken is not None:
        yield SOURCE.caught(broken, subject)
    elif slot is not None:
        yield _state(slot)
    broken = _broken(partial(_look, session, config, tail, behind))
    if broken is not None:
        yield SOURCE.caught(broken, f"publication {config.publication_name}")
    walsender = Walsender(source_conninfo(config), purpose="check")
    try:
        broken = _broken(partial(history.check_cluster, walsender, anchor, end))
    finally:
        walsender.close()
    if broken is not None:
        yield SOURCE.caught(broken, "system")


def _look(session: Session, config: Config, tail: Follower, behind: Behind) -> None:
    known = behind.known(tail, config.publication_name)
    look(session, config.publication_name, known.entries)


def _broken(compare: Callable[[], object]) -> KeepstreamError | None:
    try:
        compare()
    except KeepstreamError as error:
        return error
    return None


def _state(slot: SlotState) -> Finding:
    if slot.active_pid is not None:
        now = f"process {slot.active_pid} streams from it"
    elif slot.inactive_s is not None:
        now = f"nobody has streamed from it for {human_seconds(slot.inactive_s)}"
    else:
        now = "nobody streams from it"
    return SOURCE.ok(
        "slot", f"slot {slot.name}", f"{now}; it retains {human_bytes(slot.retained_bytes)} of WAL"
    )
