"""What a look at the catalog found otherwise than the log knows it, until that is explained.

It proves nothing: the stream may be behind. A message about the same object clears it; what is left once the
stream has passed the look, nobody told.
"""

from __future__ import annotations

from typing import Final

from connectors.postgres.ddl.tracking import emit_look
from connectors.postgres.session import Session
from pipeline.capture.ddl.looking import Differences
from schemas.errors import KeepstreamError

LOOK_PREFIX: Final = "keepstream.look"


class Suspicions:
    """Of one connection, and of one look at a time. `looks_soon`: the next look need not wait its turn."""

    def __init__(self, session: Session) -> None:
        self.looks_soon = False
        self._session = session
        self._differences: dict[object, KeepstreamError] = {}
        self._lacks_triggers = False
        self._passed_at = 0

    @property
    def are_there(self) -> bool:
        return bool(self._differences) or self._lacks_triggers

    @property
    def has_differences(self) -> bool:
        return bool(self._differences)

    def add(self, differences: Differences, *, triggers_act: bool = True) -> None:
        """What messages that are still to come may explain: that of their removal, that the event triggers do
        not act. What was suspected before is judged first."""
        if self.are_there or (triggers_act and not differences):
            return
        self._differences, self._lacks_triggers = dict(differences), not triggers_act
        self._passed_at = emit_look(self._session, LOOK_PREFIX)

    def clear(self, oid: int) -> None:
        """A message told of this object."""
        self._differences.pop(oid, None)

    def forget(self) -> None:
        """All of them."""
        self._differences, self._lacks_triggers = {}, False

    def take(self, passed: int) -> Differences | None:
        """All transactions that were committed below `passed` were taken: what is left, and forgotten; None:
        nothing, or the look is not passed yet. Empty: only the event triggers did not act."""
        if not self.are_there or passed < self._passed_at:
            return None
        left = self._differences
        self.forget()
        return left
