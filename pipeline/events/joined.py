"""A table that joins a running pipeline (`schemas.join`) as events: its definition, then its rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.events.value import shown
from schemas.join import Join

_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def joined_rows(join: Join, copied: bytes) -> Iterator[dict[str, Any]]:
    """The rows of one message in COPY's text form, as column → PostgreSQL's text (`value.shown`) or None."""
    for line in _lines(copied):
        values = line.split(b"\t") if join.columns else []
        yield dict(zip(join.columns, map(_value, values), strict=True))


def _lines(copied: bytes) -> list[bytes]:
    """An empty line is a row, too: of one empty text."""
    return copied.removesuffix(b"\n").split(b"\n") if copied else []


def _value(field: bytes) -> str | dict[str, str] | None:
    if field == rb"\N":
        return None
    return shown(_ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), field))
