"""Planted bugs: what the soak must catch."""

from __future__ import annotations

from collections.abc import Callable

BUGS: dict[str, Callable[[], None]] = {}


def plant(name: str) -> None:
    """Put the bug into this process."""
    BUGS[name]()
