"""Memory of processes that handle millions of rows: Python's collector of cyclic garbage, and malloc."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_NEW_OBJECTS: Final = 100_000
_OLDER: Final = 50
_M_TRIM_THRESHOLD: Final = -1  # as in glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 32 * 1024 * 1024
_KEPT_BYTES: Final = 64 * 1024 * 1024


def tune_memory() -> None:
    """Call it once, when everything is imported."""
    _calm_collector()
    _keep_freed_memory()


def _calm_collector() -> None:
    """Rows and changes are tuples without cycles, so looking through them finds nothing, and took a quarter
    of apply's time; what was there at the start stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _OLDER, _OLDER)


def _keep_freed_memory() -> None:
    """Frames and slices of some megabytes come and go. Given back to the system and taken anew each time,
    page by page, they took another quarter. A C library without mallopt has ways of its own."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
