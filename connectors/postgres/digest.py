"""Digests of a table's rows that do not depend on their order: equal rows, equal digest, on any server.

A row is its columns' text as their types' output functions write it (the session pins what that looks
like), in PostgreSQL's notation of a composite value: NULL, '' and 'NULL' differ. Its digest is the
first half of the SHA-256 of that in UTF-8, whatever the database's encoding; the two 64-bit words of
it are summed, so that a missing row does not hide behind a doubled one.

A bytea stands there as its own SHA-256, because its text is twice as long as it is. A row whose
text is longer than PostgreSQL's limit of 1 GB is refused (RowTooLong) and can be read `wide`: each
column by its own SHA-256, and an array of bytea by that of its send form.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import psycopg
from psycopg import sql

from connectors.postgres.catalog.equality import default_equality
from connectors.postgres.catalog.held_types import COMPOSITE, Types
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.session import Session, wrapped
from schemas.errors import RefusedData
from schemas.identifiers import qualified

_FETCHED_ROWS: Final = 2000
# What a row that is too long for PostgreSQL ends in: the string buffer's limit, or the allocator's.
_TOO_LONG = (
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.OutOfMemory,
    psycopg.errors.InternalError_,
)


@dataclass(frozen=True, slots=True)
class Digest:
    """Of all rows, or of some. Digests of disjoint parts add up to that of the whole."""

    rows: int = 0
    sum_high: int = 0
    sum_low: int = 0

    def __add__(self, other: Digest) -> Digest:
        return Digest(self.rows + other.rows, self.sum_high + other.sum_high, self.sum_low + other.sum_low)


@dataclass(frozen=True, slots=True)
class DigestColumn:
    """A column that both sides have; `is_bytea`, `is_bytea_array` if it is one on both, or a domain over
    one."""

    name: str
    is_bytea: bool = False
    is_bytea_array: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """How a table's rows are read, the same on both sides. key: names of columns; () for none."""

    columns: tuple[DigestColumn, ...]
    key: tuple[str, ...] = ()
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Blocks:
    """Rows whose ctid is in [first, end); None: no bound."""

    first: int | None = None
    end: int | None = None


Place = tuple[int, str]
"""Where a row is: the index of its table among those that were read, and its ctid there."""


class KeyedRow(NamedTuple):
    """One row: digests of its key and of itself, then the text of its key's columns, or its ctid if it
    has no key. Without a key both digests are the same."""

    key_digest: bytes
    digest: bytes
    names: tuple[str | None, ...]
    place: Place = (0, "")


class RowTooLong(RefusedData):
    """A row's text is longer than PostgreSQL can hold in one value: read the table `wide`."""


def table_digest(
    session: Session,
    table: TableName,
    shape: Shape,
    blocks: Blocks = Blocks(),
    *,
    row_filter: str | None = None,
) -> Digest:
    """The digest of the table's rows, or those of some blocks, without its children. `row_filter`: SQL of
    which these rows are; None: all."""
    query = sql.SQL("select count(*), {} from (select {} as b from only {}{} offset 0) r").format(
        _SUMS, _bits(_row_digest(shape)), sql.Identifier(*table), _where(row_filter, _block_range(blocks))
    )
    with _reading(table):
        row = session.execute(query).fetchone()
    assert row is not None
    return Digest(*map(int, row))


def bucket_digests(
    session: Session, tables: Sequence[TableName], shape: Shape, *, row_filter: str | None = None
) -> dict[int, Digest]:
    """Digests of the rows of these tables together by bucket; a row's bucket depends on its key alone."""
    query = sql.SQL(
        "select n, count(*), {} from (select {} as n, {} as b from ({}) k offset 0) r group by n"
    ).format(_SUMS, _bucket(sql.SQL("k")), _bits(sql.SQL("d")), _all_rows(tables, shape, row_filter))
    with _reading(tables[0]):
        rows = session.execute(query).fetchall()
    return {row[0]: Digest(*map(int, row[1:])) for row in rows}


def rows_in_order(
    session: Session,
    tables: Sequence[TableName],
    shape: Shape,
    buckets: Sequence[int],
    *,
    row_filter: str | None = None,
) -> Iterator[KeyedRow]:
    """Every row of some buckets, ordered by both digests: the same order on every server.

    Memory is bounded; the server sorts. The session is inside a transaction.
    """
    named = sql.SQL(", ").join(_name(i) for i in range(len(shape.key) or 1))
    query = sql.SQL(
        "declare keepstream_rows no scroll cursor for select k, d, i, c, {} from ({}) k order by k, d"
    ).format(named, _all_rows(tables, shape, row_filter, buckets))
    with _reading(tables[0]):
        session.execute(query)
        while rows := session.execute(f"fetch {_FETCHED_ROWS:d} from keepstream_rows").fetchall():
            for row in rows:
                yield KeyedRow(row[0], row[1], row[4:], row[2:4])
        session.execute("close keepstream_rows")


def column_digests(
    session: Session, tables: Sequence[TableName], shape: Shape, keys: Sequence[tuple[str | None, ...]]
) -> dict[tuple[str | None, ...], tuple[bytes | None, ...]]:
    """The digest of every column of the rows with these keys, NULL for NULL."""
    texts = sql.SQL(", ").join(_text(name) for name in shape.key)
    digests = sql.SQL(", ").join(_column_digest(column) for column in shape.columns)
    with _reading(tables[0]):
        query = sql.SQL(" union all ").join(
            sql.SQL("select {}, {} from only {} where {}").format(
                texts,
                digests,
                sql.Identifier(*table),
                _any_key(shape.key, keys, _comparisons(session, table)),
            )
            for table in tables
        )
        rows = session.execute(query).fetchall()
    count = len(shape.key)
    return {tuple(row[:count]): tuple(row[count:]) for row in rows}


_SUMS: Final = sql.SQL(
    "coalesce(sum(substring(b from 1 for 64)::bigint), 0)::text,"
    " coalesce(sum(substring(b from 65)::bigint), 0)::text"
)


def _all_rows(
    tables: Sequence[TableName],
    shape: Shape,
    row_filter: str | None,
    buckets: Sequence[int] | None = None,
) -> sql.Composed:
    """k: digest of the key, d: of the row, i, c: its place, n0…: the text of the key; of all rows, or those
    of some buckets.
    `offset 0` keeps the planner from computing a digest wherever it is used."""
    row = _row_digest(shape)
    key = _digest_of(sql.SQL(", ").join(map(sql.Identifier, shape.key))) if shape.key else row
    names = sql.SQL(", ").join(
        sql.SQL("{} as {}").format(text, _name(i)) for i, text in enumerate(_named_by(shape))
    )
    which: list[sql.Composable] = []
    if buckets is not None:
        wanted = sql.SQL(", ").join(map(sql.Literal, buckets))
        which.append(sql.SQL("{} in ({})").format(_bucket(key), wanted))
    where = _where(row_filter, which)
    one = sql.SQL("select {} as k, {} as d, {} as i, ctid::text as c, {} from only {}{} offset 0")
    first = key if shape.key else sql.SQL("null::bytea")
    every = [
        one.format(first, row, sql.Literal(i), names, sql.Identifier(*table), where)
        for i, table in enumerate(tables)
    ]
    together = sql.SQL("({})").format(sql.SQL(") union all (").join(every))
    return together if shape.key else sql.SQL("select d as k, d, i, c, n0 from ({}) a").format(together)


def _bucket(key: sql.Composable) -> sql.Composed:
    """The first twelve bits of a digest. It names the digest once, so that it is computed once."""
    return sql.SQL("(('x' || encode(substr({}, 1, 2), 'hex'))::bit(12)::int)").format(key)


def _named_by(shape: Shape) -> list[sql.Composable]:
    return [_text(name) for name in shape.key] if shape.key else [sql.SQL("ctid::text")]


def _name(index: int) -> sql.Identifier:
    return sql.Identifier(f"n{index}")


def _text(column: str) -> sql.Composed:
    """What the type's output function writes, which a cast to text is not for char(n); NULL stays NULL,
    and a composite of NULLs is none."""
    name = sql.Identifier(column)
    return sql.SQL("case when num_nulls({}) = 0 then format('%s', {}) end").format(name, name)


def _row_digest(shape: Shape) -> sql.Composed:
    values = [_column_digest(column) if shape.wide else _value(column) for column in shape.columns]
    return _digest_of(sql.SQL(", ").join(values))


def _value(column: DigestColumn) -> sql.Composable:
    return _column_digest(column) if column.is_bytea else sql.Identifier(column.name)


def _column_digest(column: DigestColumn) -> sql.Composed:
    if column.is_bytea:
        return sql.SQL("sha256({})").format(sql.Identifier(column.name))
    if column.is_bytea_array:
        return sql.SQL("sha256(array_send({}))").format(sql.Identifier(column.name))
    return sql.SQL("sha256(convert_to({}, 'UTF8'))").format(_text(column.name))


def _digest_of(values: sql.Composable) -> sql.Composed:
    return sql.SQL("substr(sha256(convert_to(row({})::text, 'UTF8')), 1, 16)").format(values)


def _bits(digest: sql.Composable) -> sql.Composed:
    return sql.SQL("('x' || encode({}, 'hex'))::bit(128)").format(digest)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """How a column of a key is compared with a value's text. operator: None of a type for which only its
    index has one."""

    operator: str | None
    cast: str

    def equal(self, name: str, value: str | None) -> sql.Composed:
        """With a literal without a type, so that an index on the key serves."""
        literal = sql.Literal(value)
        if self.operator is None:
            return sql.SQL("{} = {}").format(_text(name), literal)
        operator, cast = sql.SQL(self.operator), sql.SQL(self.cast)
        return sql.SQL("{} {} {}{}").format(sql.Identifier(name), operator, literal, cast)


def _any_key(
    columns: Sequence[str],
    keys: Sequence[tuple[str | None, ...]],
    comparisons: Mapping[str, _Comparison],
) -> sql.Composable:
    one = [
        sql.SQL(" and ").join(
            comparisons[name].equal(name, value) for name, value in zip(columns, key, strict=True)
        )
        for key in keys
    ]
    return sql.SQL(" or ").join(sql.SQL("({})").format(condition) for condition in one)


def _comparisons(session: Session, table: TableName) -> dict[str, _Comparison]:
    """By column. A literal beside a composite value needs a cast: it would be read as an anonymous record."""
    query = sql.SQL(
        "select attname, '::' || format_type(atttypid, atttypmod), atttypid::bigint, atttypmod"
        " from pg_attribute where attrelid = {}::regclass and attnum > 0 and not attisdropped"
    ).format(sql.Literal(sql.Identifier(*table).as_string()))
    rows = session.execute(query).fetchall()
    types = Types(session, {row[2] for row in rows})
    held = {name: types.held(oid, modifier) for name, _, oid, modifier in rows}
    operators = default_equality(session, held)
    return {
        name: _Comparison(operators[name], cast if held[name].kind == COMPOSITE else "")
        for name, cast, *_ in rows
    }


def _block_range(blocks: Blocks) -> list[sql.Composable]:
    return [
        sql.SQL(f"ctid {comparison} '({block:d},0)'::tid")
        for comparison, block in ((">=", blocks.first), ("<", blocks.end))
        if block is not None
    ]


def _where(row_filter: str | None, conditions: Sequence[sql.Composable]) -> sql.Composable:
    filters = [] if row_filter is None else [sql.SQL("({})").format(sql.SQL(row_filter))]
    together = [*filters, *conditions]
    return sql.SQL(" where ") + sql.SQL(" and ").join(together) if together else sql.SQL("")


@contextlib.contextmanager
def _reading(table: TableName) -> Iterator[None]:
    with wrapped(f"reading {qualified(*table)}"):
        try:
            yield
        except _TOO_LONG as exc:
            said = exc.diag.message_primary or type(exc).__name__
            raise RowTooLong(
                f"reading {qualified(*table)}: {said}",
                code="row-too-long",
                hint="If a value is too long for the server's memory, give it more, or leave the table out "
                "under source.tables.exclude; else look into the server's log.",
            ) from exc
