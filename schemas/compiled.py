"""Functions in C, where a compiler was at hand when Keepstream was installed (docs/decisions/007)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def find_compiled(module: str, name: str) -> Callable[..., Any] | None:
    """None where it was not built: then the Python beside it does the same."""
    try:
        found: Callable[..., Any] | None = getattr(import_module(module), name, None)
    except ImportError:
        return None
    return found
