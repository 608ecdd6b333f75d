"""`schema.policies` of keepstream.yaml: what replicas do with each kind of schema change."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated

from pydantic import BeforeValidator

from schemas.ddl.kinds import DEFAULTS, NEVER_APPLIED, Kind, Policy


def _policies(given: object) -> object:
    if not isinstance(given, Mapping):
        return given
    for kind, policy in given.items():
        if kind not in set(Kind):
            close = get_close_matches(str(kind), list(Kind), n=1)
            hint = f"; did you mean `{close[0]}`?" if close else "; docs/schema-changes.md lists the kinds"
            raise ValueError(f"has no kind of schema change `{kind}`{hint}")
        if policy not in set(Policy):
            raise ValueError(f"says `{policy}` of {kind}; it is apply, pause or ignore")
        if policy == Policy.APPLY and kind in NEVER_APPLIED:
            raise ValueError(f"says apply of {kind}, which no replica can follow; it is pause or ignore")
    return given


Policies = Annotated[Mapping[Kind, Policy], BeforeValidator(_policies)]


def merged(*given: Mapping[Kind, Policy]) -> dict[Kind, Policy]:
    """A policy for each kind: what stands later counts more, and what nobody says is the default."""
    found = dict(DEFAULTS)
    for policies in given:
        found |= policies
    return found
