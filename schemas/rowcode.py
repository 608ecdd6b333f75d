"""The hot loops: encoders and decoders written for one table version, as Python source, and compiled.

A generic loop pays for every column: which type is it, call its codec, append the result. The source
made here has all of that decided. Text columns, most of a CRM, cost one table look-up for pgoutput's
header and one slice; everything else calls its codec's function. The source holds numbers only, never a
name from the database.

pgoutput's TupleData: Int16 number of columns, then for each a byte: `n` null, `u` unchanged TOAST value,
`t` text with Int32 length and the bytes. An Avro row: for each column the union's branch (0 null, 2 value:
zigzag of 0 and 1), then the value.

Compiled code only recognises well-formed input. Whatever it stumbles over is left to `refuse`, which reads
the same bytes again slowly to say which column and what is wrong, and never returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from schemas.pgcodec import BOOLEAN, DATE, FLOAT, INT, LONG, STRING, UUID, Codec, decode_text
from schemas.varint import SHORT, encode_long

RowEncoder = Callable[[bytes | memoryview, int], tuple[bytes, tuple[int, ...], int]]
RowDecoder = Callable[[bytes, int], list[bytes | None]]
Refuse = Callable[[bytes, int], NoReturn]

VALUE_BRANCH: Final = b"\x02"
NULL_BRANCH: Final = b"\x00"
_HEADED: Final = 1 << 12  # text lengths that one look-up serves
_MEMO_LIMIT: Final = 1 << 14
_PLAIN: Final = (STRING, UUID)

# `t` and length, as pgoutput sends them → length; → length and Avro's branch and length.
_LENGTHS: Final = {b"t" + n.to_bytes(4): n for n in range(_HEADED)}
_TEXTS: Final = {b"t" + n.to_bytes(4): (n, VALUE_BRANCH + encode_long(n)) for n in range(_HEADED)}
_SMALL_INTEGERS: Final = {b"%d" % n: VALUE_BRANCH + encode_long(n) for n in range(-128, len(SHORT) // 2)}
_SMALL_TEXTS: Final = tuple(b"%d" % (z >> 1 ^ -(z & 1)) for z in range(0x80))


class _Memo(dict[bytes, bytes]):
    """Values that repeat from row to row, already encoded; bounded by forgetting all at once."""

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, text: bytes) -> bytes:
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        encoded = VALUE_BRANCH + self._encode(text)
        if len(text) <= 32:
            self[text] = encoded
        return encoded


_MEMOS: Final = {id(codec): _Memo(codec.encode) for codec in (BOOLEAN, DATE, FLOAT)}


def read_length(message: bytes, position: int) -> int:
    """The length in a `t` column's header; ValueError unless that column is whole."""
    if message[position : position + 1] != b"t":
        raise ValueError("not a text column")
    end = position + 5
    length = int.from_bytes(message[position + 1 : end], signed=True)
    if end > len(message) or length < 0 or end + length > len(message):
        raise ValueError("tuple ends inside a column")
    return length


def _read_long_text(message: bytes, position: int) -> tuple[int, bytes]:
    length = read_length(message, position)
    return length, VALUE_BRANCH + encode_long(length)


def compile_encoder(codecs: Sequence[Codec], keys: Sequence[int] | None, refuse: Refuse) -> RowEncoder:
    """An encoder from TupleData to an Avro record.

    keys None: of all columns; `u` columns become null and are listed as absent. Else of those columns
    only, others are skipped, and there is no `u` among them.
    """
    body: list[str] = []
    parts: list[str] = []
    scope: dict[str, Any] = {
        "count": len(codecs).to_bytes(2),
        "texts": _TEXTS.get,
        "lengths": _LENGTHS.get,
        "small": _SMALL_INTEGERS.get,
        "long_text": _read_long_text,
        "read_length": read_length,
        "refuse": refuse,
        "join": b"".join,
    }
    unchanged = _UNCHANGED if keys is None else []
    for index, codec in enumerate(codecs):
        if keys is not None and index not in keys:
            body += _SKIP
            continue
        scope[f"encode{index}"] = codec.encode
        plain = codec in _PLAIN
        template = (_TEXT if plain else _OTHER) + unchanged + (_LONG_TEXT if plain else _LONG_OTHER)
        value = _value_source(codec, index, scope)
        body += [line.replace("#VALUE", value).replace("#", str(index)) for line in template]
        parts += [f"a{index}", f"v{index}"] if plain else [f"a{index}"]
    lines = [*_ENCODER_HEAD, *(f"        {line}" for line in body), *_ENCODER_TAIL]
    source = "\n".join(lines).replace("PARTS", ", ".join(parts) + ("," if parts else ""))
    encoder: RowEncoder = _define(source, scope)
    return encoder


_ENCODER_HEAD: Final = [
    "def function(message, position):",
    "    if message.__class__ is not bytes:",
    "        message = bytes(message)",
    "    try:",
    "        if message[position : position + 2] != count:",
    "            refuse(message, position)",
    "        p = position + 2",
    "        absent = ()",
]
_ENCODER_TAIL: Final = [
    "    except (ValueError, IndexError):",
    "        refuse(message, position)",
    "    if p > len(message):",
    "        refuse(message, position)",
    "    return join((PARTS)), absent, p",
]
_TEXT: Final = [
    "head = texts(message[p : p + 5])",
    "if head is not None:",
    "    n, a# = head",
    "    p += 5",
    "    v# = message[p : (p := p + n)]",
    "elif message[p] == 110:",
    "    a# = b'\\0'",
    "    v# = b''",
    "    p += 1",
]
_LONG_TEXT: Final = [
    "else:",
    "    n, a# = long_text(message, p)",
    "    p += 5",
    "    v# = message[p : (p := p + n)]",
]
_OTHER: Final = [
    "n = lengths(message[p : p + 5])",
    "if n is not None:",
    "    p += 5",
    "    v# = message[p : (p := p + n)]",
    "    a# = #VALUE",
    "elif message[p] == 110:",
    "    a# = b'\\0'",
    "    p += 1",
]
_LONG_OTHER: Final = [
    "else:",
    "    n = read_length(message, p)",
    "    p += 5",
    "    v# = message[p : (p := p + n)]",
    "    a# = #VALUE",
]
_UNCHANGED: Final = [
    "elif message[p] == 117:",
    "    a# = b'\\0'",
    "    v# = b''",
    "    absent += (#,)",
    "    p += 1",
]
_SKIP: Final = [
    "if message[p] == 110 or message[p] == 117:",
    "    p += 1",
    "else:",
    "    p += 5 + read_length(message, p)",
]


def _value_source(codec: Codec, index: int, scope: dict[str, Any]) -> str:
    """The expression that encodes `v#`, with its branch."""
    if codec in (INT, LONG):
        return "small(v#) or b'\\2' + encode#(v#)"
    memo = _MEMOS.get(id(codec))
    if memo is not None:
        scope[f"memo{index}"] = memo
        return "memo#[v#]"
    return "b'\\2' + encode#(v#)"


def compile_decoder(codecs: Sequence[Codec], refuse: Refuse) -> RowDecoder:
    """A decoder from an Avro record that fills the data from a position on, to PostgreSQL's texts."""
    body: list[str] = []
    scope: dict[str, Any] = {"decode_text": decode_text, "small": _SMALL_TEXTS, "refuse": refuse}
    for index, codec in enumerate(codecs):
        scope[f"decode{index}"] = codec.decode
        template = _DECODE_OTHER
        if codec in _PLAIN:
            template = _DECODE_TEXT
        elif codec in (INT, LONG):
            template = _DECODE_INTEGER
        body += [line.replace("#", str(index)) for line in template + _DECODE_NULL]
    values = ", ".join(f"v{index}" for index in range(len(codecs)))
    lines = [*_DECODER_HEAD, *(f"        {line}" for line in body), *_DECODER_TAIL]
    decoder: RowDecoder = _define("\n".join(lines).replace("VALUES", values), scope)
    return decoder


_DECODER_HEAD: Final = ["def function(data, position):", "    p = position", "    try:", "        pass"]
_DECODER_TAIL: Final = [
    "    except (ValueError, IndexError):",
    "        refuse(data, position)",
    "    if p != len(data):",
    "        refuse(data, position)",
    "    return [VALUES]",
]
_DECODE_TEXT: Final = [
    "if data[p] == 2:",
    "    n = data[p + 1]",
    "    if n & 129:",  # longer than one byte, or negative
    "        v#, p = decode_text(data, p + 1)",
    "    else:",
    "        p += 2",
    "        v# = data[p : (p := p + (n >> 1))]",
]
_DECODE_INTEGER: Final = [
    "if data[p] == 2:",
    "    n = data[p + 1]",
    "    if n < 128:",
    "        v# = small[n]",
    "        p += 2",
    "    else:",
    "        v#, p = decode#(data, p + 1)",
]
_DECODE_OTHER: Final = ["if data[p] == 2:", "    v#, p = decode#(data, p + 1)"]
_DECODE_NULL: Final = [
    "elif data[p]:",
    "    refuse(data, position)",
    "else:",
    "    v# = None",
    "    p += 1",
]


def _define(source: str, scope: dict[str, Any]) -> Any:
    exec(compile(source, "<row code>", "exec"), scope)  # noqa: S102 - made here, of numbers only
    return scope["function"]
