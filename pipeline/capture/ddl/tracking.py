"""What the catalog of now says beside the log, and what of it no schema message explains.

A look that finds something else than the log knows proves nothing: the stream may be behind. So it is kept
as a suspicion (`suspicions`), which a message about the same object clears (`messages`). Once the stream has
passed the look without one, tracking ends there, and the next look judges it as without event triggers; where
tracking has not begun, capture stops.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

from connectors.postgres.ddl.tracking import triggers_act
from connectors.postgres.session import Session
from pipeline.capture.ddl.judging import without_tracking
from pipeline.capture.ddl.locked import LockedPartitions
from pipeline.capture.ddl.looking import UNTRACKED, look
from pipeline.capture.ddl.messages import Messages
from pipeline.capture.ddl.suspicions import Suspicions
from pipeline.capture.entries.announcements import Announcements
from pipeline.capture.entries.ended import BEGIN_TRACKING, ENDED, NOT_TRACKED, Ended
from pipeline.capture.entries.limitednames import require_none_below
from pipeline.capture.entries.partitions import (
    PARTITION_TRUNCATED,
    known_partitions,
    new_partitions,
    without_shapes_below,
)
from pipeline.capture.entries.told import Told, is_tracked
from pipeline.capture.options import CaptureOptions
from pipeline.capture.waits import Waits
from pipeline.capture.writing.chainwriter import ChainWriter
from schemas.entries import Entries
from schemas.errors import RefusedData
from schemas.lsn import ZERO, Lsn

logger = logging.getLogger("keepstream.capture")

_TRIGGERS_MISSING: Final = "the source's event triggers are missing or disabled"


class Tracking:
    """Of one connection. All of it is called in the thread that decodes. `clear_at`: where the log ended when
    a look found nothing. `messages`: of this connection, and `locked`: what
    the last look could not see."""

    def __init__(
        self,
        session: Session,
        chain: ChainWriter,
        options: CaptureOptions,
        waits: Waits,
        *,
        clear_at: Lsn = ZERO,
    ) -> None:
        self._session = session
        self._chain = chain
        self._options = options
        self._waits = waits
        self._announcements = Announcements()
        self._suspicions = Suspicions(session)
        self.locked = LockedPartitions(waits)
        self._has_partitions = Entries(), False
        self._clear_at = clear_at
        self.messages = Messages(session, chain, options, self._suspicions)

    @property
    def is_tracked(self) -> bool:
        """At the stream's place."""
        return is_tracked(self._chain.publication)

    @property
    def told(self) -> Mapping[int, Told]:
        """As `Messages.told`."""
        return self.messages.told

    @property
    def waits(self) -> bool:
        """Whether something is not explained, or not seen, yet: a heartbeat would say that nothing
        happened."""
        return self._suspicions.are_there or self.locked.are_there

    @property
    def looks_soon(self) -> bool:
        """Whether the next look need not wait its turn."""
        return self._suspicions.looks_soon

    def look_soon(self) -> None:
        """The next look has something to judge."""
        self._suspicions.looks_soon = True

    def check_publication(self) -> None:
        """P11, and the shapes of all tables; later anchors hold what was seen here.

        Raises HistoryBroken (`publication-changed`), RefusedData (`schema-changed`, `table-renamed`,
        `limit-differs`) where no message could explain it, RetryLater (`commit-not-visible`), and
        CaptureStopped.
        """
        chain, session = self._chain, self._session
        self._suspicions.looks_soon = False
        at = chain.position.lsn
        seen = look(
            session,
            self._options.publication,
            chain.publication,
            slot=self._options.slot,
            reading=self._waits.for_wal,
        )
        attached = new_partitions(chain.publication, seen.entries)
        require_none_below(chain.publication, attached, self._options.tables)
        held = chain.durable_position.lsn
        chain.publication_is(self._announcements.without_ended(session, seen.entries, held=held))
        self._suspicions.add(seen.differences, triggers_act=seen.triggers_act)
        if self.locked.see(seen.locked):
            self.look_soon()
        if not self._suspicions.has_differences and seen.is_clear:
            self._clear_at = at

    def confirmable(self, durable: Lsn) -> Lsn:
        """How far the slot may be confirmed: what explains a partition's new file must still be behind it
        when that is seen."""
        entries = self._chain.publication
        if self._has_partitions[0] is not entries:
            self._has_partitions = entries, bool(known_partitions(entries))
        return min(durable, self._clear_at) if self._has_partitions[1] else durable

    @property
    def is_behind(self) -> bool:
        """Whether the catalog of now may be that of later messages: the event triggers came meanwhile."""
        return not self.is_tracked and triggers_act(self._session)

    def puts_off(self, error: RefusedData) -> bool:
        """Whether a message that is still to come may explain it."""
        if not self.is_behind:
            return False
        self._suspicions.add({UNTRACKED: error})
        return True

    def passed(self, lsn: int) -> None:
        """All transactions that were committed below `lsn` were taken. Raises what is not explained by
        now."""
        unexplained = self._suspicions.take(lsn)
        if unexplained is None:
            return
        if unexplained and not self.is_tracked:
            raise next(iter(unexplained.values()))
        for error in unexplained.values():
            if error.code == PARTITION_TRUNCATED:
                raise error  # no event trigger tells of TRUNCATE
        self.look_soon()
        if UNTRACKED in unexplained:
            return
        if unexplained:
            self.end(next(iter(unexplained.values())).message)
        elif not triggers_act(self._session):
            self.end(_TRIGGERS_MISSING)  # else it was only for a while: what was altered then is a difference

    def end(self, reason: str) -> None:
        """Something was altered, and nothing told of it: from here on it is judged as without event
        triggers."""
        ended = Ended(int(time.time()), reason)
        self._chain.publication_is(without_tracking(self._chain.publication).put(ENDED, ended))
        self._suspicions.forget()
        self.look_soon()
        logger.error(NOT_TRACKED, extra={"reason": reason, "hint": BEGIN_TRACKING})

    def truncated(self, oid: int) -> None:
        """The stream tells that this table was: its partitions have other files, whoever looks at them."""
        for partition in known_partitions(self._chain.publication).values():
            if partition.root == oid:
                self._suspicions.clear(partition.oid)
        self._chain.publication_is(without_shapes_below(self._chain.publication, oid))
