"""What is published of a table, where that is not all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """columns: by name; None: all. where: the row filter, one SQL expression of the operator's; None: all
    rows."""

    columns: tuple[str, ...] | None = None
    where: str | None = None


Limits = Mapping[tuple[str, str], Limit]
"""By schema and name, of those tables that have one."""
