"""An ANCHOR's entry that this version cannot read."""

from __future__ import annotations

from schemas.errors import BEGIN_ANEW, InternalError


def entry_malformed(about: str) -> InternalError:
    """`about`: what the entry says something of."""
    return InternalError(
        f"an ANCHOR's entry about {about} cannot be read",
        code="anchor-malformed",
        hint=f"Another version of Keepstream wrote it: capture with that one, or {BEGIN_ANEW}.",
    )
