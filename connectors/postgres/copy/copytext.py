"""Rows in COPY's text format; in C where there is such (docs/decisions/007).

The Python escapes once for a whole block, not once a value: bytes that UTF-8 never has stand for the
separators and for NULL until everything else is escaped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from schemas.compiled import find_compiled

encode_in_c: Callable[[list[list[bytes | None]]], bytes] | None = find_compiled(
    "connectors.postgres.copy._copytext", "encode_rows"
)

_NULL: Final = b"\xfd"
_COLUMN: Final = b"\xfe"
_ROW: Final = b"\xff"
_SEPARATORS: Final = bytes.maketrans(_COLUMN + _ROW, b"\t\n")
_ESCAPED: Final = ((b"\\", b"\\\\"), (b"\t", b"\\t"), (b"\n", b"\\n"), (b"\r", b"\\r"))


class NotUtf8(Exception):
    """A value has a byte that no UTF-8 text has (a SQL_ASCII database): the Python's block would be
    ambiguous."""


def encode_rows(rows: list[list[bytes | None]]) -> bytes:
    """Rows of PostgreSQL's texts, at least one column each, for COPY … FROM STDIN. Raises NotUtf8."""
    return encode_in_c(rows) if encode_in_c is not None else encode_in_python(rows)


def encode_in_python(rows: list[list[bytes | None]]) -> bytes:
    """The same in Python."""
    if not rows:
        return b""
    lines = [
        _COLUMN.join([_NULL if value is None else value for value in row] if None in row else row)  # type: ignore[arg-type]
        for row in rows
    ]
    block = _ROW.join(lines)
    columns = len(rows[0])
    nulls = sum([row.count(None) for row in rows])
    if (
        block.count(_NULL) != nulls
        or block.count(_COLUMN) != (columns - 1) * len(rows)
        or block.count(_ROW) != len(rows) - 1
    ):
        raise NotUtf8
    for plain, escaped in _ESCAPED:
        if plain in block:
            block = block.replace(plain, escaped)
    return block.translate(_SEPARATORS).replace(_NULL, b"\\N") + b"\n"
