"""A row as PostgreSQL's record text (`record_out`), back into its columns' texts."""

from __future__ import annotations

import re
from typing import Final

# What record_out leaves unquoted has none of these, and no white space of any locale: that is ASCII's.
_FIELD: Final = re.compile(r'"((?:[^"\\]++|""|\\\\)*+)"|([^",()\\]*)', re.ASCII)
_DOUBLED: Final = re.compile(r'(["\\])\1')


def parse_record(text: str, columns: int) -> list[str | None]:
    """Each column's text; None is NULL. Raises ValueError if it is no record of that many columns."""
    if not (text.startswith("(") and text.endswith(")")):
        raise ValueError("a record's text is not in parentheses")
    if columns == 0 and text == "()":
        return []
    values: list[str | None] = []
    at, end = 1, len(text) - 1
    while True:
        found = _FIELD.match(text, at, end)
        if found is None:
            raise ValueError(f"a record's column {len(values) + 1} is not understood")
        quoted, plain = found.groups()
        values.append(_DOUBLED.sub(r"\1", quoted) if quoted is not None else plain or None)
        at = found.end()
        if at == end:
            break
        if text[at] != ",":
            raise ValueError(f"a record's column {len(values)} is not understood")
        at += 1
    if len(values) != columns:
        raise ValueError(f"a record has {len(values)} columns instead of {columns}")
    return values
