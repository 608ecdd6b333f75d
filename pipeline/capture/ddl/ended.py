"""That tracking ended by itself: since when, and why. An ANCHOR keeps it, so that no restart hides it.

Nothing but the next installation of the event triggers begins tracking again; their removal says that nobody
wants it any more. Either clears the entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.capture.ddl.told import is_tracked
from pipeline.capture.malformed import entry_malformed

ENDED_PREFIX: Final = "untracked:"
BEGIN_TRACKING: Final = (
    "An event trigger of the source was disabled or missing while something was altered, or is so now. Until"
    " you run `keepstream schema install`, only ADD COLUMN is followed."
)


@dataclass(frozen=True, slots=True)
class Ended:
    """`at`: Unix time. `reason`: what was found that no message told."""

    at: int
    reason: str

    def to_token(self) -> str:
        """The entry in an ANCHOR's `publication`."""
        return ENDED_PREFIX + json.dumps([self.at, self.reason])

    @classmethod
    def from_token(cls, token: str) -> Ended:
        """InternalError: `anchor-malformed`."""
        try:
            at, reason = json.loads(token.removeprefix(ENDED_PREFIX))
        except ValueError:
            raise entry_malformed("the end of schema changes' tracking") from None
        return cls(at, reason)


def ended_entries(entries: Iterable[str]) -> tuple[str, ...]:
    return tuple(entry for entry in entries if entry.startswith(ENDED_PREFIX))


def without_end(entries: Iterable[str]) -> tuple[str, ...]:
    return tuple(entry for entry in entries if not entry.startswith(ENDED_PREFIX))


def tracking_details(entries: Iterable[str]) -> Mapping[str, Any]:
    """What a report says of it: `ended_at` and `reason` are None but where tracking ended by itself.
    InternalError: `anchor-malformed`."""
    known = tuple(entries)
    ended = next(map(Ended.from_token, ended_entries(known)), None)
    return {
        "tracked": is_tracked(known),
        "ended_at": ended.at if ended else None,
        "reason": ended.reason if ended else None,
    }
