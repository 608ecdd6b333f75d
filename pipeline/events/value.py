"""How an event shows what PostgreSQL sent."""

from __future__ import annotations

from typing import Any


def shown(value: bytes) -> str | dict[str, str]:
    """Text as it is. Bytes that are no UTF-8, of a message or of damaged text, become an object whose member
    `bytes` has them in hex, as PostgreSQL shows a bytea: so nobody takes them for text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"bytes": rf"\x{value.hex()}"}


def shortened(event: dict[str, Any], longest: int) -> dict[str, Any]:
    """The event with each value of more than so many characters replaced by an object whose member `length`
    says how many they are."""
    rows = {part: event[part] for part in ("key", "before", "after") if event[part] is not None}
    return event | {
        part: {
            name: _length_of(value) if _is_longer(value, longest) else value for name, value in row.items()
        }
        for part, row in rows.items()
    }


def _is_longer(value: object, longest: int) -> bool:
    return isinstance(value, str) and len(value) > longest


def _length_of(value: str) -> dict[str, int]:
    return {"length": len(value)}
