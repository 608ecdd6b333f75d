"""Slot, publication and log together: are they of one history, as far as can be seen without writing?

The same proofs as capture has when it starts (P10, P11), reported instead of raised; the WAL is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from connectors.interfaces import ChangeLog
from connectors.postgres.replication.slot import SlotState, read_slot
from connectors.postgres.replication.walsender import SystemIdentity, Walsender
from connectors.postgres.session import Session
from pipeline.app import capture_options, source_conninfo
from pipeline.capture.ddl.looking import UNTRACKED, Seen
from pipeline.capture.ddl.replay import Behind
from pipeline.capture.entries.told import is_tracked
from pipeline.capture.history.source import check_leftover
from pipeline.capture.history.timelines import OTHER_CLUSTER
from pipeline.capture.startup.proofs import Proofs
from pipeline.check.findings import SOURCE
from pipeline.config import Config
from pipeline.follow import Follower, find_tail
from pipeline.quantities import human_bytes, human_seconds
from schemas.errors import KeepstreamError
from schemas.finding import Finding

Proven = TypeVar("Proven")


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
        broken = _broken(partial(check_leftover, slot, config.log.url, begun=begun))
        if isinstance(broken, KeepstreamError):
            yield SOURCE.caught(broken, f"slot {config.slot_name}")


def _continued(
    session: Session,
    log: ChangeLog,
    config: Config,
    slot: SlotState | None,
    tail: Follower,
    behind: Behind,
) -> Iterator[Finding]:
    """What is wrong with the system, which tells whether that was promoted, comes last. Of another cluster
    nothing else says anything: it is no wonder that it lacks the slot."""
    proofs = Proofs(capture_options(config, log), session, tail)
    system = _broken(partial(_system, proofs, config))
    if isinstance(system, KeepstreamError) and system.code == OTHER_CLUSTER:
        yield SOURCE.caught(system, "system")
        return
    is_promoted = isinstance(system, SystemIdentity) and proofs.is_promoted(system)
    broken = _broken(partial(proofs.slot, slot, promoted=is_promoted))
    if isinstance(broken, KeepstreamError):
        yield SOURCE.caught(broken, f"slot {config.slot_name}")
    elif slot is not None:
        yield _state(slot)
    yield from _published(proofs, behind, slot, promoted=is_promoted)
    if isinstance(system, KeepstreamError):
        yield SOURCE.caught(system, "system")


def _system(proofs: Proofs, config: Config) -> SystemIdentity:
    with closing(Walsender(source_conninfo(config), purpose="check")) as walsender:
        return proofs.system(walsender)


def _published(
    proofs: Proofs, behind: Behind, slot: SlotState | None, *, promoted: bool
) -> Iterator[Finding]:
    name = proofs.options.publication
    known = _broken(partial(behind.known, proofs.tail, name))
    if isinstance(known, KeepstreamError):
        yield SOURCE.caught(known, f"publication {name}")
        return
    seen = _broken(partial(proofs.publication, known, promoted=promoted))
    if isinstance(seen, KeepstreamError):
        yield SOURCE.caught(seen, f"publication {name}")
    elif slot is not None and slot.active_pid is None:
        yield from _awaited(seen, f"publication {name}")
    key = _broken(partial(proofs.key, known))
    if isinstance(key, KeepstreamError):
        yield SOURCE.caught(key, "schema changes")


def _awaited(seen: Seen, subject: str) -> Iterator[Finding]:
    """While no capture runs. What schema messages tell is still to come; without them the stream explains
    only a TRUNCATE of the whole."""
    for key, error in seen.differences.items():
        if is_tracked(seen.entries) or key == UNTRACKED:
            continue
        unless = "capture stops at it, unless the stream is still to tell of it"
        yield SOURCE.warning(error.code, subject, f"{error.message}; {unless}", fix=error.hint)


def _broken(prove: Callable[[], Proven]) -> Proven | KeepstreamError:
    """What is proven, or what is wrong."""
    try:
        return prove()
    except KeepstreamError as error:
        return error


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
