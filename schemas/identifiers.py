"""Names as PostgreSQL prints them in SQL: in double quotes, unless they are plain."""

from __future__ import annotations


def unquoted(printed: str) -> str:
    """The name that it stands for."""
    return printed[1:-1].replace('""', '"') if printed.startswith('"') else printed
