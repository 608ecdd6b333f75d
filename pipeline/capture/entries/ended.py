"""That tracking ended by itself: since when, and why. An ANCHOR keeps it, so that no restart hides it.

Nothing but the next installation of the event triggers begins tracking again; their removal says that nobody
wants it any more. Either clears the entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.capture.entries.told import is_tracked
from schemas.entries import Entries, Kind

BEGIN_TRACKING: Final = (
    "An event trigger of the source was disabled or missing while something was altered, or is so now. Until"
    " you run `keepstream schema install`, only ADD COLUMN is followed."
)
NOT_TRACKED: Final = "schema changes are not tracked any more"


@dataclass(frozen=True, slots=True)
class Ended:
    """`at`: Unix time. `reason`: what was found that no message told."""

    at: int
    reason: str

    def to_text(self) -> str:
        return json.dumps([self.at, self.reason])

    @classmethod
    def from_text(cls, text: str) -> Ended:
        """Raises ValueError or TypeError."""
        at, reason = json.loads(text)
        return cls(at, reason)


ENDED: Final[Kind[int, Ended]] = Kind(
    "untracked", "the end of schema changes' tracking", lambda ended: ended.at, Ended.from_text, Ended.to_text
)


def tracking_details(entries: Entries) -> Mapping[str, Any]:
    """What a report says of it: `ended_at` and `reason` are None but where tracking ended by itself.
    InternalError: `anchor-malformed`."""
    ended = next(iter(entries.of(ENDED).values()), None)
    return {
        "tracked": is_tracked(entries),
        "ended_at": ended.at if ended else None,
        "reason": ended.reason if ended else None,
    }
