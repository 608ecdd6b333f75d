"""What capture proves before it continues a log (P10, P11): that the source is the one whose history that is.
`check` asks the same, and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.postgres.failover.primary import require_same_server
from connectors.postgres.replication.slot import SlotState
from connectors.postgres.replication.walsender import SystemIdentity, Walsender
from connectors.postgres.session import Session
from pipeline.capture.ddl.authentic import require_key
from pipeline.capture.ddl.looking import Reading, Seen, look, unread
from pipeline.capture.ddl.replay import Known
from pipeline.capture.entries.limitednames import require_none_below
from pipeline.capture.entries.partitions import new_partitions
from pipeline.capture.entries.told import is_tracked
from pipeline.capture.history.source import check_cluster, check_slot
from pipeline.capture.history.witnesses import Witnesses, ask_witnesses
from pipeline.capture.options import CaptureOptions
from pipeline.follow import Follower
from schemas.frame import Anchor


@dataclass(frozen=True, slots=True)
class Proofs:
    """Of one log, read to its end, which has an ANCHOR. The session must be in autocommit."""

    options: CaptureOptions
    session: Session
    tail: Follower

    @property
    def _anchor(self) -> Anchor:
        assert self.tail.last_anchor is not None
        return self.tail.last_anchor

    def system(self, walsender: Walsender) -> SystemIdentity:
        """Raises RetryLater (`source-changed`), and what `check_cluster` does."""
        require_same_server(self.session, walsender)
        return check_cluster(walsender, self._anchor, self.tail.chain.tail)

    def is_promoted(self, system: SystemIdentity) -> bool:
        """Whether the source has failed over since the log was written."""
        return system.timeline != self._anchor.timeline

    def slot(self, slot: SlotState | None, *, promoted: bool) -> None:
        """Raises what `check_slot` does."""
        tail = self.tail.chain.tail
        check_slot(self.options.slot, slot, tail=tail, witnesses=self._ask_witnesses, promoted=promoted)

    def publication(
        self, known: Known, *, promoted: bool, slot: str | None = None, reading: Reading = unread
    ) -> Seen:
        """Raises what `look` and `require_none_below` do. `slot`, `reading`: as `look` has them."""
        options = self.options
        seen = look(
            self.session,
            options.publication,
            known.entries,
            promoted=promoted,
            slot=slot,
            reading=reading,
        )
        require_none_below(known.entries, new_partitions(known.entries, seen.entries), options.tables)
        return seen

    def key(self, known: Known) -> None:
        """Raises OperatorNeeded (`ddl-key-missing`, `privilege-missing`)."""
        if is_tracked(known.entries):
            require_key(self.session)

    def _ask_witnesses(self) -> Witnesses:
        options = self.options
        replicas = {name: replica.conninfo for name, replica in options.replicas.items()}
        return ask_witnesses(options.log, replicas, pipeline=options.name, stream=self.tail.chain.stream)
