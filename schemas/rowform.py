"""The two forms of a row: pgoutput's TupleData, and Avro.

TupleData: Int16 number of columns, then for each a byte: `n` null, `u` unchanged TOAST value, `t` text with
Int32 length and the bytes. An Avro row: for each column the union's branch (0 null, 2 value: zigzag of 0 and
1), then the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

RowEncoder = Callable[[bytes, int], tuple[bytes, tuple[int, ...], int]]
RowDecoder = Callable[[bytes, int], list[bytes | None]]
Refuse = Callable[[bytes, int], NoReturn]

VALUE_BRANCH: Final = b"\x02"
NULL_BRANCH: Final = b"\x00"


def read_length(message: bytes, position: int) -> int:
    """The length in a `t` column's header; ValueError unless that column is whole."""
    if message[position : position + 1] != b"t":
        raise ValueError("not a text column")
    length = parse_length(message[position : position + 5])
    if position + 5 + length > len(message):
        raise ValueError("tuple ends inside a column")
    return length


def parse_length(header: bytes) -> int:
    length = int.from_bytes(header[1:], signed=True)
    if len(header) != 5 or length < 0:
        raise ValueError("no length in a column's header")
    return length
