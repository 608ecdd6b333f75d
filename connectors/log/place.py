"""Places of the directory log: which file, and where in it, packed into one ordered int.

21 bits of generation, 15 of segment, 27 of offset: below 2**63, so that a place fits PostgreSQL's bigint.
0 is the place before the first record of a log that has no file yet.
"""

from __future__ import annotations

from connectors.log.segment import SegmentName

MAX_GENERATION = (1 << 21) - 1
MAX_SEGMENT = (1 << 15) - 1
MAX_OFFSET = (1 << 27) - 1


def pack_place(name: SegmentName, offset: int) -> int:
    """The int that stands for this place. The parts must be within their limits."""
    return name.generation << 42 | name.segment << 27 | offset


def unpack_place(place: int) -> tuple[SegmentName, int]:
    """The file and the offset in it."""
    return SegmentName(place >> 42, place >> 27 & MAX_SEGMENT), place & MAX_OFFSET
