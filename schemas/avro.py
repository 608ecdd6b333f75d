"""Rows as Avro: the schema of a table version's rows and keys, and the codecs for them.

A row is an Avro record `<schema>.<table>.Row` with a field for each published column in pgoutput's order,
a key `<schema>.<table>.Key` with those of the replica identity. Every field is a union of null and one type
(schemas.pgcodec) and carries the column's real name and PostgreSQL type as properties. Only `TableSchema`
says what type a column has; nothing here asks a catalog.

`RowCodec` works on values, one column at a time. `row_encoder`, `key_encoder` and `row_decoder` give the
compiled functions for the loops that run for every row (schemas.rowcode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Final, NoReturn

from schemas.change import UNCHANGED, TextValue
from schemas.errors import InternalError, RefusedData
from schemas.names import encode_name
from schemas.pgcodec import Codec, codec_of, raw_bytes_of
from schemas.rowcode import compile_decoder, compile_encoder, encoders_of, kinds_of
from schemas.rowform import NULL_BRANCH, VALUE_BRANCH, RowDecoder, RowEncoder, read_length
from schemas.table import Column, TableSchema

_COMPILED_LIMIT: Final = 4096  # table versions whose compiled code is kept


class RowCodec:
    """Encodes and decodes the rows and keys of one table version, column by column."""

    def __init__(self, table: TableSchema) -> None:
        self.table = table
        self._codecs = _codecs(table)
        self._key_columns = tuple((i, self._codecs[i]) for i in table.key_indexes)
        self.avro_schema = _record_schema(table, "Row", table.columns)
        self.key_avro_schema = _record_schema(table, "Key", [table.columns[i] for i in table.key_indexes])

    def encode_row(self, values: Sequence[TextValue]) -> tuple[bytes, tuple[int, ...]]:
        """PostgreSQL's texts, one for each column → Avro row, indexes of absent columns.

        UNCHANGED is encoded as null and its index listed. Raises RefusedData (`value-not-canonical`),
        InternalError (`row-width`).
        """
        self._check_width(values)
        parts: list[bytes] = []
        absent: list[int] = []
        for index, (value, codec) in enumerate(zip(values, self._codecs, strict=True)):
            if value is UNCHANGED:
                absent.append(index)
                parts.append(NULL_BRANCH)
            elif value is None:
                parts.append(NULL_BRANCH)
            else:
                parts += (VALUE_BRANCH, self._encode(codec, index, value))
        return b"".join(parts), tuple(absent)

    def decode_row(self, data: bytes) -> list[bytes | None]:
        """Avro row → PostgreSQL's texts; absent columns are None, as the row itself cannot tell.

        Raises InternalError (`row-malformed`).
        """
        return row_decoder(self.table)(data, 0)

    def encode_key(self, values: Sequence[TextValue]) -> bytes:
        """A full-width list of texts → Avro key of its key columns; the others are not looked at.

        Raises InternalError (`key-absent`) if a key column is UNCHANGED: its value is not known here.
        """
        self._check_width(values)
        parts: list[bytes] = []
        for index, codec in self._key_columns:
            value = values[index]
            if value is UNCHANGED:
                raise _key_absent(self.table, self.table.columns[index])
            if value is None:
                parts.append(NULL_BRANCH)
            else:
                parts += (VALUE_BRANCH, self._encode(codec, index, value))
        return b"".join(parts)

    def decode_key(self, data: bytes) -> list[bytes | None]:
        """Avro key → texts of the key columns only, in column order.

        Raises InternalError (`row-malformed`).
        """
        return key_decoder(self.table)(data, 0)

    def _encode(self, codec: Codec, index: int, text: bytes) -> bytes:
        try:
            return codec.encode(text)
        except ValueError:
            # Its message may hold the value.
            raise not_canonical(self.table, self.table.columns[index]) from None

    def _check_width(self, values: Sequence[TextValue]) -> None:
        if len(values) != len(self._codecs):
            raise InternalError(
                f"{len(values)} values for the {len(self._codecs)} columns of {self.table.qualified_name}",
                code="row-width",
            )


@lru_cache(_COMPILED_LIMIT)
def row_encoder(table: TableSchema, skipped: tuple[int, ...] = ()) -> RowEncoder:
    """A compiled function (message, position of a TupleData) → (Avro row, absent indexes, position after).

    skipped: places in the tuple of columns that this version of the table does not have.
    Raises RefusedData (`value-not-canonical`) and InternalError (`tuple-malformed`).
    """
    codecs = _tuple_codecs(sent_columns(table, skipped))
    return compile_encoder(codecs, partial(_refuse_tuple, table, skipped, False), whole=True)


@lru_cache(_COMPILED_LIMIT)
def key_encoder(table: TableSchema, skipped: tuple[int, ...] = ()) -> RowEncoder:
    """The same for a `K` tuple: → (Avro key, (), position after). Other columns' contents are skipped."""
    codecs = _tuple_codecs(_keys_alone(sent_columns(table, skipped)))
    return compile_encoder(codecs, partial(_refuse_tuple, table, skipped, True), whole=False)


def row_code(
    table: TableSchema, skipped: tuple[int, ...] = ()
) -> tuple[bytes, bytes, tuple[Callable[[bytes], bytes], ...]]:
    """What code in C is told of a table version: a letter for each column of a row, the same of a key, and
    each column's encoder (schemas.rowcode)."""
    sent = sent_columns(table, skipped)
    codecs = _tuple_codecs(sent)
    return kinds_of(codecs), kinds_of(_tuple_codecs(_keys_alone(sent))), encoders_of(codecs)


@lru_cache(_COMPILED_LIMIT)
def row_decoder(table: TableSchema) -> RowDecoder:
    """A compiled function (data, position of an Avro row that ends with the data) → PostgreSQL's texts.

    Raises InternalError (`row-malformed`).
    """
    return compile_decoder(_codecs(table), partial(_refuse_record, table))


@lru_cache(_COMPILED_LIMIT)
def raw_row_decoder(table: TableSchema, raw: tuple[int, ...]) -> RowDecoder:
    """As `row_decoder`; but the columns with these indexes, each a bytea or a domain over one, are given as
    they are, not in hex."""
    codecs = [raw_bytes_of(codec) if i in raw else codec for i, codec in enumerate(_codecs(table))]
    return compile_decoder(codecs, partial(_refuse_record, table))


@lru_cache(_COMPILED_LIMIT)
def key_decoder(table: TableSchema) -> RowDecoder:
    """The same for an Avro key → texts of the key columns, in column order."""
    codecs = _codecs(table)
    return compile_decoder([codecs[i] for i in table.key_indexes], partial(_refuse_record, table))


def decoders_of(table: TableSchema) -> tuple[bytes, tuple[Callable[[bytes, int], tuple[bytes, int]], ...]]:
    """What code in C is told of a version's rows in the log: a letter for each column, and its decoder."""
    codecs = _codecs(table)
    return kinds_of(codecs), tuple(codec.decode for codec in codecs)


def sent_columns(table: TableSchema, skipped: tuple[int, ...]) -> tuple[Column | None, ...]:
    """The columns as a tuple has them; None for one that the table's version lacks."""
    columns = iter(table.columns)
    width = len(table.columns) + len(skipped)
    return tuple(None if place in skipped else next(columns) for place in range(width))


def _keys_alone(sent: Sequence[Column | None]) -> tuple[Column | None, ...]:
    return tuple(column if column and column.key else None for column in sent)


def _tuple_codecs(sent: Sequence[Column | None]) -> tuple[Codec | None, ...]:
    return tuple(codec_of(column.type_oid) if column else None for column in sent)


def _codecs(table: TableSchema) -> tuple[Codec, ...]:
    return tuple(codec_of(column.type_oid) for column in table.columns)


def _record_schema(table: TableSchema, name: str, columns: Sequence[Column]) -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "namespace": f"{encode_name(table.schema)}.{encode_name(table.name)}",
        "pg.schema": table.schema,
        "pg.table": table.name,
        "fields": [_field_schema(column) for column in columns],
    }


def _field_schema(column: Column) -> dict[str, Any]:
    return {
        "name": encode_name(column.name),
        "type": ["null", codec_of(column.type_oid).avro],
        "default": None,
        "pg.name": column.name,
        "pg.type": column.type_name,
        "pg.oid": column.type_oid,
        "pg.typmod": column.type_modifier,
        "pg.key": column.key,
    }


def _refuse_tuple(
    table: TableSchema, skipped: tuple[int, ...], key: bool, message: bytes, position: int
) -> NoReturn:
    """Say what is wrong with a TupleData that the compiled encoder stumbled over."""
    sent = sent_columns(table, skipped)
    count = int.from_bytes(message[position : position + 2])
    if len(message) < position + 2 or count != len(sent):
        raise _malformed_tuple(table, f"it has {count} columns, the table {len(sent)}")
    position += 2
    for place, column in enumerate(sent):
        kind = message[position : position + 1]
        wanted = column is not None and (column.key or not key)
        if kind == b"u" and key and column is not None and wanted:
            raise _key_absent(table, column)
        if kind in (b"n", b"u"):
            position += 1
            continue
        try:
            length = read_length(message, position)
        except ValueError as error:
            name = column.name if column else place + 1
            raise _malformed_tuple(table, f"column {name} at byte {position}: {error}") from None
        position += 5 + length
        if column is not None and wanted:
            _try_value(table, column, message[position - length : position])
    raise _malformed_tuple(table, "the compiled encoder and this check disagree")


def _try_value(table: TableSchema, column: Column, text: bytes) -> None:
    try:
        codec_of(column.type_oid).encode(text)
    except ValueError:
        raise not_canonical(table, column) from None


def _refuse_record(table: TableSchema, data: bytes, position: int) -> NoReturn:
    raise InternalError(
        f"{len(data) - position} bytes are no row or key of {table.qualified_name}, version {table.id.hex()}",
        code="row-malformed",
    )


def _malformed_tuple(table: TableSchema, what: str) -> InternalError:
    return InternalError(f"malformed tuple for {table.qualified_name}: {what}", code="tuple-malformed")


def _key_absent(table: TableSchema, column: Column) -> InternalError:
    return InternalError(
        f"key column {column.name} of {table.qualified_name} came without its value", code="key-absent"
    )


def not_canonical(table: TableSchema, column: Column) -> RefusedData:
    """The error of a text that is none of the column's type."""
    return RefusedData(
        f"column {column.name} of {table.qualified_name} came in a form that PostgreSQL's {column.type_name} "
        "does not have under our session settings",
        code="value-not-canonical",
        hint="Let nothing between Keepstream and the server (a pooler, a proxy) change DateStyle, TimeZone, "
        "extra_float_digits or bytea_output; or leave the table out under source.tables.exclude.",
    )
