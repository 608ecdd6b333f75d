"""Avro's primitives as frames and changes use them: longs, bytes, optional text.

Readers take a buffer and a position and return the value and the next position; they raise
IndexError or ValueError on input that ends too early, never a shorter value, and ValueError for what the
encoders do not write: so no two inputs read as the same value.
"""

from __future__ import annotations

from schemas.varint import SHORT
from schemas.varint import encode_long as _encode_any_long

LONGS = SHORT[::2]
"""The encodings of 0 … 8191: lengths and counts, nearly always."""


def encode_long(value: int) -> bytes:
    """An Avro int or long."""
    return LONGS[value] if 0 <= value < 8192 else _encode_any_long(value)


def read_long(buffer: bytes, pos: int) -> tuple[int, int]:
    """(value, next position)."""
    byte = buffer[pos]
    pos += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), pos
    value = byte & 0x7F
    shift = 7
    while True:
        byte = buffer[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ValueError("an Avro long has at most 10 bytes")
    if not byte or value >> 64:
        raise ValueError("an Avro long longer than it need be or of more than 64 bits")
    return (value >> 1) ^ -(value & 1), pos


def read_bytes(buffer: bytes, pos: int) -> tuple[bytes, int]:
    """Avro bytes or string (as bytes), and the next position."""
    size, pos = read_long(buffer, pos)
    end = pos + size
    if size < 0 or end > len(buffer):
        raise ValueError("bytes end past the buffer")
    return buffer[pos:end], end


def read_count(buffer: bytes, pos: int) -> tuple[int, int]:
    """How many items an array that is not empty has in its only block, without its size."""
    count, pos = read_long(buffer, pos)
    if count <= 0:
        raise ValueError("an array's block without items")
    return count, pos


def read_end(buffer: bytes, pos: int) -> int:
    """The end of an array's only block; the next position."""
    if buffer[pos]:
        raise ValueError("an array in more than one block")
    return pos + 1


def read_flag(buffer: bytes, pos: int) -> tuple[bool, int]:
    """An Avro boolean."""
    byte = buffer[pos]
    if byte > 1:
        raise ValueError("a boolean that is neither")
    return byte == 1, pos + 1


def read_optional_branch(buffer: bytes, pos: int) -> tuple[bool, int]:
    """The branch of a union of null and one type: whether a value follows."""
    branch, pos = read_long(buffer, pos)
    if branch not in (0, 1):
        raise ValueError("a union has no such branch")
    return branch == 1, pos


def encode_optional_text(text: str | None) -> bytes:
    """The union ["null", "string"]."""
    if text is None:
        return b"\0"
    encoded = text.encode()
    return b"\2" + encode_long(len(encoded)) + encoded


def read_optional_text(buffer: bytes, pos: int) -> tuple[str | None, int]:
    """The union ["null", "string"], and the next position."""
    present, pos = read_optional_branch(buffer, pos)
    if not present:
        return None, pos
    encoded, pos = read_bytes(buffer, pos)
    return encoded.decode(), pos
