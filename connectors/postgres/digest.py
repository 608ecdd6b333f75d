"""Digests of a table's rows that do not depend on their order: equal rows, equal digest, on any server.

A row is its columns' text (the session pins what that looks like), as PostgreSQL writes a composite
value: NULL and empty text differ. Its digest is MD5, whose halves are summed, so that a missing row
does not hide behind a doubled one. MD5 finds accidents, which is what a comparison is for; it is no
defence against somebody who makes rows to deceive it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from connectors.postgres.session import Session, wrapped

TableName = tuple[str, str]

BUCKETS = 4096


@dataclass(frozen=True, slots=True)
class Digest:
    """Of all rows, or of those in one bucket."""

    rows: int
    sum_high: int
    sum_low: int


@dataclass(frozen=True, slots=True)
class KeyedRow:
    """One row by its key's text values and its own digest."""

    key: tuple[str | None, ...]
    digest: str


def table_digest(session: Session, table: TableName, columns: Sequence[str]) -> Digest:
    """The digest of the whole table, without its children."""
    query = sql.SQL("select count(*), {} from (select {} as d from only {}) r").format(
        _SUMS, _row_digest(columns), sql.Identifier(*table)
    )
    with wrapped(f"reading {'.'.join(table)}"):
        row = session.execute(query).fetchone()
    assert row is not None
    return Digest(*map(int, row))


def bucket_digests(
    session: Session, table: TableName, columns: Sequence[str], key: Sequence[str]
) -> dict[int, Digest]:
    """Digests of the rows by bucket; a row's bucket depends on its key alone."""
    query = sql.SQL("select b, count(*), {} from (select {} as b, {} as d from only {}) r group by b").format(
        _SUMS, _bucket(key), _row_digest(columns), sql.Identifier(*table)
    )
    with wrapped(f"reading {'.'.join(table)}"):
        rows = session.execute(query).fetchall()
    return {row[0]: Digest(*map(int, row[1:])) for row in rows}


def keyed_rows(
    session: Session,
    table: TableName,
    columns: Sequence[str],
    key: Sequence[str],
    buckets: Sequence[int],
) -> list[KeyedRow]:
    """Every row of some buckets, with its key."""
    query = sql.SQL("select {}, {} from only {} where {} = any(%s)").format(
        sql.SQL(", ").join(map(_text, key)), _row_digest(columns), sql.Identifier(*table), _bucket(key)
    )
    with wrapped(f"reading {'.'.join(table)}"):
        rows = session.execute(query, [list(buckets)]).fetchall()
    return [KeyedRow(tuple(row[:-1]), row[-1]) for row in rows]


def column_names(session: Session, table: TableName) -> frozenset[str] | None:
    """The table's columns; None if there is no such table."""
    with wrapped(f"looking at {'.'.join(table)}"):
        row = session.execute(
            "select array(select a.attname::text from pg_attribute a where a.attrelid = c.oid"
            " and a.attnum > 0 and not a.attisdropped)"
            " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = %s and c.relname = %s",
            table,
        ).fetchone()
    return None if row is None else frozenset(row[0])


_SUMS = sql.SQL(
    "coalesce(sum(('x' || substr(d, 1, 16))::bit(64)::bigint), 0)::text,"
    " coalesce(sum(('x' || substr(d, 17))::bit(64)::bigint), 0)::text"
)


def _text(column: str) -> sql.Composed:
    return sql.SQL("{}::text").format(sql.Identifier(column))


def _row_digest(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL("md5(row({})::text)").format(sql.SQL(", ").join(map(_text, columns)))


def _bucket(key: Sequence[str]) -> sql.Composed:
    digest = _row_digest(key)
    return sql.SQL("(('x' || substr({}, 1, 3))::bit(12)::int)").format(digest)
