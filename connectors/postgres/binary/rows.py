"""TupleData with values in binary form (`b`) → Avro rows, the same that text form gives.

pgoutput with `binary 'true'` sends each value in its type's send form; those of types without one come as
text. What needs no catalog is converted here (schemas.pgbinary); the rest of a tuple at once by the
`Converter`, which asks PostgreSQL. A large text or bytea is copied once, into the row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from schemas.avro import not_canonical, sent_columns
from schemas.errors import InternalError, RefusedData
from schemas.pgbinary import AS_TEXT, EMPTY_TSQUERY, TEXTS, TSQUERY, VERSIONED, ToText, text_after_version
from schemas.pgcodec import BYTES, STRING, Codec, codec_of
from schemas.rowform import NULL_BRANCH, VALUE_BRANCH, RowEncoder
from schemas.table import Column, TableSchema
from schemas.varint import encode_long

_NULL, _UNSENT, _TEXT, _BINARY = b"nutb"
_HEAD: Final = 5  # kind, Int32 length

_Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class BinaryType:
    """What a column's values in binary form are. `oid`: its type, or the one below a domain. `is_label`: an
    enum, whose form is its label."""

    oid: int
    is_label: bool = False


class Converter(Protocol):
    """Asks PostgreSQL what it cannot be known without."""

    def types(self, oids: Sequence[int]) -> Sequence[BinaryType]:
        """What columns of these types hold. Raises RefusedData (`binary-type-gone`)."""
        ...

    def texts(self, table: TableSchema, values: Sequence[tuple[int, memoryview]]) -> Sequence[bytes]:
        """(type's OID, send form) → text. Raises RefusedData, RetryLater."""
        ...


class _Form:
    """How one column's send form becomes a piece of the row. `convert` None: PostgreSQL is asked."""

    __slots__ = ("codec", "convert", "oid", "view")

    def __init__(self, column: Column, held: BinaryType) -> None:
        self.oid = held.oid
        self.codec: Codec = codec_of(column.type_oid)
        self.view: Callable[[memoryview], memoryview] | None = None
        self.convert: ToText | None = None
        if held.is_label or held.oid in AS_TEXT:
            self.convert = bytes
            self.view = _itself if self.codec is STRING else None
        elif held.oid in VERSIONED:
            self.convert = _versioned
            self.view = text_after_version if self.codec is STRING else None
        elif self.codec is BYTES:
            self.view = _itself
        else:
            self.convert = TEXTS.get(held.oid)


def _itself(form: memoryview) -> memoryview:
    return form


def _versioned(form: memoryview) -> bytes:
    return bytes(text_after_version(form))


class BinaryRows:
    """Makes the encoders of one connection, as the `Decoder` of pgoutput wants them."""

    def __init__(self, converter: Converter) -> None:
        self._converter = converter

    def row_encoder(self, table: TableSchema, skipped: tuple[int, ...] = ()) -> RowEncoder:
        """See `schemas.avro.row_encoder`."""
        return _Encoder(table, sent_columns(table, skipped), self._converter, whole=True)

    def key_encoder(self, table: TableSchema, skipped: tuple[int, ...] = ()) -> RowEncoder:
        """See `schemas.avro.key_encoder`."""
        sent = sent_columns(table, skipped)
        keys = tuple(column if column and column.key else None for column in sent)
        return _Encoder(table, keys, self._converter, whole=False)


class _Encoder:
    """A `RowEncoder` of one table version. The types are looked up with its first row."""

    def __init__(
        self, table: TableSchema, sent: Sequence[Column | None], converter: Converter, *, whole: bool
    ) -> None:
        self._table = table
        self._sent = sent
        self._converter = converter
        self._whole = whole
        self._forms: tuple[_Form | None, ...] | None = None

    def __call__(self, message: bytes, position: int) -> tuple[bytes, tuple[int, ...], int]:
        try:
            return self._encode(message, position)
        except (ValueError, LookupError, struct.error):
            raise self._malformed() from None  # the cause may hold the value

    def _encode(self, message: bytes, position: int) -> tuple[bytes, tuple[int, ...], int]:
        forms = self._forms = self._forms or self._look_up()
        view = memoryview(message)
        if int.from_bytes(view[position : position + 2]) != len(forms):
            raise self._malformed()
        at = position + 2
        pieces: list[_Piece] = []
        absent: list[int] = []
        asked: list[tuple[int, int, memoryview]] = []
        place = 0
        for number, form in enumerate(forms):
            kind = view[at]
            if kind in (_NULL, _UNSENT):
                if form is not None:
                    if kind == _UNSENT:
                        self._refuse_unsent(number)
                        absent.append(place)
                    pieces.append(NULL_BRANCH)
                at += 1
            else:
                start = at + _HEAD
                at = start + int.from_bytes(view[at + 1 : start], signed=True)
                if kind not in (_TEXT, _BINARY) or not start <= at <= len(view):
                    raise self._malformed()
                if form is not None:
                    self._add(pieces, asked, number, view[start:at], is_text=kind == _TEXT)
            place += form is not None
        self._ask(pieces, asked)
        return b"".join(pieces), tuple(absent), at

    def _look_up(self) -> tuple[_Form | None, ...]:
        columns = [column for column in self._sent if column is not None]
        held = iter(self._converter.types([column.type_oid for column in columns]))
        return tuple(None if column is None else _Form(column, next(held)) for column in self._sent)

    def _add(
        self,
        pieces: list[_Piece],
        asked: list[tuple[int, int, memoryview]],
        number: int,
        value: memoryview,
        *,
        is_text: bool,
    ) -> None:
        assert self._forms is not None
        form = self._forms[number]
        assert form is not None
        if is_text:
            pieces += (VALUE_BRANCH, self._encoded(number, form.codec, bytes(value)))
        elif form.view is not None:
            content = form.view(value)
            pieces += (VALUE_BRANCH, encode_long(len(content)), content)
        elif form.convert is not None:
            text = form.convert(value)
            if form.codec is STRING:  # of a large domain over bytea, one copy less
                pieces += (VALUE_BRANCH, encode_long(len(text)), text)
            else:
                pieces += (VALUE_BRANCH, self._encoded(number, form.codec, text))
        elif form.oid == TSQUERY and value == EMPTY_TSQUERY:
            pieces += (VALUE_BRANCH, form.codec.encode(b""))
        else:
            pieces.append(VALUE_BRANCH)
            asked.append((len(pieces), number, value))
            pieces.append(b"")

    def _ask(self, pieces: list[_Piece], asked: Sequence[tuple[int, int, memoryview]]) -> None:
        if not asked:
            return
        assert self._forms is not None
        forms = [form for _, number, _ in asked if (form := self._forms[number]) is not None]
        values = [(form.oid, value) for form, (_, _, value) in zip(forms, asked, strict=True)]
        texts = self._converter.texts(self._table, values)
        for (place, number, _), form, text in zip(asked, forms, texts, strict=True):
            pieces[place] = self._encoded(number, form.codec, text)

    def _encoded(self, number: int, codec: Codec, text: bytes) -> bytes:
        try:
            return codec.encode(text)
        except ValueError:
            raise self._not_canonical(number) from None

    def _refuse_unsent(self, number: int) -> None:
        column = self._sent[number]
        if not self._whole and column is not None:
            raise InternalError(
                f"key column {column.name} of {self._table.qualified_name} came without its value",
                code="key-absent",
            )

    def _not_canonical(self, number: int) -> RefusedData:
        column = self._sent[number]
        assert column is not None
        return not_canonical(self._table, column)

    def _malformed(self) -> InternalError:
        return InternalError(
            f"malformed tuple in binary form for {self._table.qualified_name}", code="tuple-malformed"
        )
