"""LSNs and positions (P1, P2).

An LSN is a byte position in PostgreSQL's WAL, an int in [0, 2**64), written `16/B374D848`.
A position is one *exclusive* LSN X: it holds every published transaction with `commit_lsn < X`
and no other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from schemas.errors import UsageError

Lsn = NewType("Lsn", int)

ZERO = Lsn(0)
_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """`16/B374D848` → int. Raises UsageError (`lsn-invalid`) for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"not an LSN: {text!r}",
            code="lsn-invalid",
            hint="Write it as PostgreSQL does, for example 16/B374D848.",
        )
    return Lsn(int(match[1], 16) << 32 | int(match[2], 16))


def format_lsn(lsn: int) -> str:
    """int → `16/B374D848`, as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True)
class Position:
    """Position X with what proves it (P2): the last transaction below X, or xid 0 if none is known.

    `commit_time` is in microseconds since 1970-01-01 UTC.
    """

    lsn: Lsn
    xid: int = 0
    commit_time: int = 0

    def holds(self, commit_lsn: int) -> bool:
        """Whether a transaction with this commit LSN is already contained (P1)."""
        return commit_lsn < self.lsn

    def __str__(self) -> str:
        return format_lsn(self.lsn)


START = Position(ZERO)
