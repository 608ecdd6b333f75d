"""The rows of one table, and whether they are still the same: for a table that joins a running pipeline."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.session import Session

# How many rows each transaction wrote: PostgreSQL keeps a row's xmin for as long as the row lives.
_VERSIONS = """
    select count(*) || ' ' || coalesce(sum(pg_catalog.hashtextextended(writer::text, rows)::numeric), 0)
      from (select xmin as writer, count(*) as rows from {} group by xmin) as written
"""
_COLUMNS = """
    select a.attname
      from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = %s and c.relname = %s and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
     order by a.attnum
"""


def _rows_of(table: TableName, *, is_whole: bool) -> sql.Composable:
    """`is_whole`: a partitioned table with the rows of all its partitions."""
    name = sql.Identifier(*table)
    return name if is_whole else sql.SQL("only {}").format(name)


def row_versions(session: Session, table: TableName, *, is_whole: bool = False) -> str:
    """A digest of the rows that the session's snapshot shows. Equal to a later one: no row was written
    in between. One that was gives rows to a transaction that had none; one that was deleted takes a row from
    one that had it."""
    query = sql.SQL(_VERSIONS).format(_rows_of(table, is_whole=is_whole))
    (found,) = session.execute(query).fetchone() or ("",)
    return str(found)


# COPY's text form, made by the server; format() asks the type's output function, as COPY does.
# num_nulls(): IS NULL also holds for a composite value whose fields are all NULL.
_VALUE = """case when num_nulls({column}) = 1 then '\\N' else replace(replace(replace(replace(
    format('%s', {column}), '\\', '\\\\'), chr(9), '\\t'), chr(10), '\\n'), chr(13), '\\r') end"""
_EMIT = """
    select pg_catalog.pg_logical_emit_message(true, {prefix},
               pg_catalog.convert_to(string_agg({line} || chr(10), ''), 'UTF8'))
      from {table} where {where} group by tableoid, (ctid::text::point)[0]::bigint / {pages}
"""


def emit_rows(
    session: Session,
    table: TableName,
    columns: tuple[str, ...],
    prefix: str,
    *,
    pages: int,
    is_whole: bool = False,
    where: str | None = None,
) -> None:
    """Write the rows into the WAL as transactional messages of this prefix, in COPY's text form, whole lines,
    those of so many of the table's pages in each. `where`: the row filter.

    No row comes to the client: the statement ends even if nobody waits for it, and can be cancelled.
    """
    values = [sql.SQL(_VALUE).format(column=sql.Identifier(column)) for column in columns]
    line = sql.SQL(" || chr(9) || ").join(values) if values else sql.SQL("''")
    message, divisor, rows = sql.Literal(prefix), sql.Literal(pages), _rows_of(table, is_whole=is_whole)
    query = sql.SQL(_EMIT).format(prefix=message, line=line, table=rows, pages=divisor, where=_where(where))
    session.execute(query)  # without parameters: a name may hold a percent sign


def _where(row_filter: str | None) -> sql.Composable:
    return sql.SQL("true") if row_filter is None else sql.SQL("({})").format(sql.SQL(row_filter))


def copied_columns(session: Session, table: TableName) -> tuple[str, ...]:
    """The columns that have values of their own."""
    return tuple(name for (name,) in session.execute(_COLUMNS, table))


def copied_rows(
    session: Session,
    table: TableName,
    columns: tuple[str, ...],
    *,
    chunk_bytes: int,
    is_whole: bool = False,
    where: str | None = None,
) -> Iterator[bytes]:
    """The rows in COPY's text form, whole lines, about `chunk_bytes` a piece (one row may be longer).
    `where`: the row filter."""
    query = sql.SQL("copy (select {} from {} where {}) to stdout").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), _rows_of(table, is_whole=is_whole), _where(where)
    )
    lines: list[bytes] = []
    size_bytes = 0
    with session.cursor() as cursor, cursor.copy(query) as copy:
        for line in copy:
            lines.append(bytes(line))
            size_bytes += len(line)
            if size_bytes >= chunk_bytes:
                yield b"".join(lines)
                lines, size_bytes = [], 0
    if lines:
        yield b"".join(lines)
