"""Parameters of one large change: a bytea is bound in binary form, because its text is twice as long and a
message to PostgreSQL may have 1 GB. Everything else stays text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from psycopg import pq

from connectors.postgres.apply.catalog import TargetTable
from connectors.postgres.apply.statements import Old, ValueRef
from schemas.avro import raw_row_decoder
from schemas.pgtypes import BYTEA
from schemas.rowform import RowDecoder
from schemas.table import TableSchema

_BYTEA_NAMES = frozenset({"bytea", '"pg_catalog"."bytea"'})
"""The second one is of a domain: pgoutput names the type below it."""


@dataclass(frozen=True, slots=True)
class LargeForm:
    """How a statement is sent with a large row. Rows are decoded by `decode_row`; `formats`: of its
    parameters. Keys are short, and text."""

    decode_row: RowDecoder
    formats: tuple[pq.Format, ...]


def large_form(
    table: TableSchema,
    target: TargetTable,
    refs: Sequence[ValueRef],
    *,
    old: Old,
    but: Collection[int],
) -> LargeForm:
    """`but`: places in the log's row whose text is wanted."""
    raw = tuple(i for i in range(len(table.columns)) if i not in but and _is_bytea(table, target, i))
    formats = tuple(
        pq.Format.BINARY if ref.index in raw and not (ref.old and old is Old.KEY) else pq.Format.TEXT
        for ref in refs
    )
    return LargeForm(raw_row_decoder(table, raw), formats)


def _is_bytea(table: TableSchema, target: TargetTable, index: int) -> bool:
    """On both sides: a bytea, or a domain over one."""
    column = table.columns[index]
    there = target.columns.get(column.name)
    return column.type_name in _BYTEA_NAMES and there is not None and there.held.oid == BYTEA
