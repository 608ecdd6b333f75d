"""The parts of one big transaction, kept until its last one says how it ended.

Small ones stay in memory, the rest goes to a temporary file; what is read back at a time is one part.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator

from schemas.change import Change
from schemas.frame import Fragment, Part, PartChanges
from schemas.lsn import ZERO

MEMORY_BYTES = 8 * 1024 * 1024
_NO_FRAGMENT, _FRAGMENT, _LAST_FRAGMENT = 0, 1, 2
_SIZES = struct.Struct("<QQBQ")


class PartSpool:
    """`add` every part in order, then `changes` once."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115 - closed by `close`

    def add(self, part: Part) -> None:
        kind, content = _NO_FRAGMENT, b""
        if part.fragment is not None:
            kind = _LAST_FRAGMENT if part.fragment.last else _FRAGMENT
            content = part.fragment.content
        self._file.write(_SIZES.pack(part.change_count, len(part.changes), kind, len(content)))
        self._file.write(part.changes)
        self._file.write(content)

    def changes(self) -> Iterator[Change]:
        """All changes, in source order."""
        self._file.seek(0)
        whole = PartChanges()
        while sizes := self._file.read(_SIZES.size):
            count, changes_bytes, kind, content_bytes = _SIZES.unpack(sizes)
            changes, content = self._file.read(changes_bytes), self._file.read(content_bytes)
            fragment = None if kind == _NO_FRAGMENT else Fragment(content, last=kind == _LAST_FRAGMENT)
            yield from whole.feed(Part(0, ZERO, 0, 0, count, changes, fragment))

    def close(self) -> None:
        self._file.close()
