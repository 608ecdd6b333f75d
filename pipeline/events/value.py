"""How an event shows what PostgreSQL sent."""

from __future__ import annotations


def shown(value: bytes) -> str | dict[str, str]:
    """Text as it is. Bytes that are no UTF-8, of a message or of damaged text, become an object whose member
    `bytes` has them in hex, as PostgreSQL shows a bytea: so nobody takes them for text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"bytes": rf"\x{value.hex()}"}
