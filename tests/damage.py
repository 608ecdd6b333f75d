"""What can happen to bytes: on a disk, on a wire, or by somebody who means it."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

_VARINTS = [b"\0", b"\1", b"\2", b"\4", b"\x7f", b"\x80\0", b"\x81\0", b"\x80\x80\0", b"\xff" * 9 + b"\1"]
_VARINTS += [b"\xfe" * 9 + b"\1", b"\xff" * 9 + b"\x7f", b"\xff" * 12, b"\x80" * 10 + b"\1"]
odd_bytes = st.binary(min_size=1, max_size=12) | st.sampled_from(_VARINTS)
"""Noise, and Avro longs that are odd: negative, huge, longer than they need be, of more than 64 bits."""


@st.composite
def edited(draw: st.DrawFn, content: bytes, *, most: int = 3) -> bytes:
    """The content after some edits; perhaps the same."""
    for _ in range(draw(st.integers(1, most))):
        content = _EDITS[draw(st.integers(0, len(_EDITS) - 1))](draw, content)
    return content


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The content after some edits that changed it."""
    return edited(content).filter(lambda changed: changed != content)


def _at(draw: st.DrawFn, content: bytes) -> int:
    return draw(st.integers(0, len(content)))


def _flip(draw: st.DrawFn, content: bytes) -> bytes:
    at = _at(draw, content)
    flipped = bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in content[at : at + 1])
    return content[:at] + flipped + content[at + 1 :]


def _overwrite(draw: st.DrawFn, content: bytes) -> bytes:
    at, new = _at(draw, content), draw(odd_bytes)
    return content[:at] + new + content[at + len(new) :]


def _insert(draw: st.DrawFn, content: bytes) -> bytes:
    at = _at(draw, content)
    return content[:at] + draw(odd_bytes) + content[at:]


def _delete(draw: st.DrawFn, content: bytes) -> bytes:
    at = _at(draw, content)
    return content[:at] + content[at + draw(st.integers(1, 20)) :]


def _cut(draw: st.DrawFn, content: bytes) -> bytes:
    return content[: _at(draw, content)]


def _repeat(draw: st.DrawFn, content: bytes) -> bytes:
    start, at = _at(draw, content), _at(draw, content)
    return content[:at] + content[start : start + draw(st.integers(1, 40))] + content[at:]


def _wipe(draw: st.DrawFn, content: bytes) -> bytes:
    """A block that was never written reads as zeros."""
    at = _at(draw, content)
    size = len(content[at : at + draw(st.integers(1, 64))])
    return content[:at] + bytes(size) + content[at + size :]


_EDITS: list[Callable[[st.DrawFn, bytes], bytes]] = [
    _flip,
    _overwrite,
    _insert,
    _delete,
    _cut,
    _repeat,
    _wipe,
]
