"""`keepstream.schema_left_out` on the replica: tables and columns of the source whose rows and values it goes
without.

    by a policy     tables and columns that it does not have
    awaits_copy     a table whose rows are too many for the log: it joined without them (decision 017), or
                    lost them to a change that rewrote it (decision 018). It is there, and its schema changes
                    are followed. Its rows come with a copy, whose transaction takes it off the list

The log has their rows and values all the same: apply leaves them out as long as they are listed here.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.session import Session, wrapped
from schemas.identifiers import qualified

logger = logging.getLogger("keepstream.apply")

AWAITS_COPY: Final = "has rows that are not in the log: its changes are left out until they are copied"
"""What is said of a table that does."""
_PLAIN: Final = re.compile(r"[^\".*\s]+")

_INSTALL: Final = (
    """create table if not exists keepstream.schema_left_out (
        name text not null,
        schema_name text not null,
        table_name text not null,
        column_name text not null default '',
        at timestamptz not null default now(),
        primary key (name, schema_name, table_name, column_name)
    )""",
    "alter table keepstream.schema_left_out"
    " add column if not exists awaits_copy boolean not null default false",
    "comment on table keepstream.schema_left_out is "
    "'Tables and columns that a policy told this replica to go without, and tables that await their copy; "
    "keepstream leaves their values out.'",
)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """tables: (schema, name) of those that a policy leaves out; columns: (schema, table, column). awaiting:
    tables that are there without their rows."""

    tables: frozenset[tuple[str, str]] = frozenset()
    columns: frozenset[tuple[str, str, str]] = frozenset()
    awaiting: frozenset[tuple[str, str]] = frozenset()

    def columns_of(self, schema: str, table: str) -> Iterator[str]:
        return (name for of, at, name in self.columns if (of, at) == (schema, table))


NOTHING: Final = LeftOut()


# an earlier release made it without the column
_READ: Final = """
    select schema_name, table_name, column_name, coalesce(to_jsonb(l) ->> 'awaits_copy', 'false')::boolean
      from keepstream.schema_left_out l
     where name = %s
"""


def read(conn: Session, name: str) -> LeftOut:
    """What the replica of pipeline `name` goes without."""
    with wrapped("reading keepstream.schema_left_out"):
        if not _is_there(conn):
            return LeftOut()
        rows = conn.execute(_READ, [name]).fetchall()
    return LeftOut(
        frozenset((schema, table) for schema, table, column, awaits in rows if not column and not awaits),
        frozenset((schema, table, column) for schema, table, column, _ in rows if column),
        frozenset((schema, table) for schema, table, _, awaits in rows if awaits),
    )


def _is_there(conn: Session) -> bool:
    found = conn.execute("select to_regclass('keepstream.schema_left_out') is not null").fetchone()
    return found == (True,)


_MADE: Final = """
    delete from keepstream.schema_left_out l
     using pg_catalog.pg_attribute a
      join pg_catalog.pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'p')
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where l.name = %s and n.nspname = l.schema_name and c.relname = l.table_name
       and a.attname = l.column_name and a.attnum > 0 and not a.attisdropped
     returning l.schema_name, l.table_name, l.column_name
"""


def take_up(conn: Session, name: str) -> list[tuple[str, str, str]]:
    """Take columns off the list that somebody has made by now, in the session's open transaction: (schema,
    table, column) of each."""
    return conn.execute(_MADE, [name]).fetchall()


def lacking(conn: Session, table: tuple[str, str], columns: Sequence[str]) -> frozenset[str]:
    """Those of the columns that the replica's table does not have; all where there is no such table."""
    if not columns:
        return frozenset()
    query = (
        "select attname from pg_catalog.pg_attribute where attnum > 0 and not attisdropped"
        " and attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
    )
    return frozenset(columns) - {name for (name,) in conn.execute(query, table)}


_IS_WHOLE: Final = """
    select exists (select from pg_catalog.pg_attribute
                    where attrelid = to_regclass('keepstream.schema_left_out')
                      and attname = 'awaits_copy' and not attisdropped)
"""


def _install(conn: Session) -> None:
    """Only where something is missing: ALTER TABLE is its owner's, and would wait for whoever has read the
    list and has not ended, as a verification does while it compares."""
    if conn.execute(_IS_WHOLE).fetchone() != (True,):
        for statement in _INSTALL:
            conn.execute(statement)


def add(conn: Session, name: str, table: tuple[str, str], column: str = "") -> None:
    """In the session's open transaction. `column`: only this one of the table."""
    _install(conn)
    conn.execute(
        "insert into keepstream.schema_left_out (name, schema_name, table_name, column_name)"
        " values (%s, %s, %s, %s) on conflict do nothing",
        [name, *table, column],
    )


def await_copy(conn: Session, name: str, table: tuple[str, str], *, replica: str) -> None:
    """It is there without its rows. In the session's open transaction. `replica`: its name, for the hint."""
    add(conn, name, table)
    conn.execute(
        "update keepstream.schema_left_out set awaits_copy = true"
        " where (name, schema_name, table_name, column_name) = (%s, %s, %s, '')",
        [name, *table],
    )
    command = copying_command(replica, table)
    logger.warning("table awaits its copy", extra={"table": qualified(*table), "by_hand": command})


def has_rows(conn: Session, name: str, table: tuple[str, str]) -> bool:
    """It has all its rows, as of the end of the session's open transaction. Returns whether it awaited
    them."""
    if table not in read(conn, name).awaiting:
        return False
    conn.execute(
        "delete from keepstream.schema_left_out"
        " where (name, schema_name, table_name, column_name) = (%s, %s, %s, '')",
        [name, *table],
    )
    return True


def copying_command(replica: str, table: tuple[str, str]) -> str:
    """What copies the rows of a table that awaits them."""
    names = (part if _PLAIN.fullmatch(part) else sql.Identifier(part).as_string() for part in table)
    return f"keepstream snapshot {shlex.quote(replica)} {shlex.quote('.'.join(names))}"


def rename(conn: Session, name: str, table: tuple[str, str], *, to: tuple[str, str]) -> None:
    """The table, and what of it is left out, is called otherwise."""
    if _is_there(conn):
        conn.execute(
            "update keepstream.schema_left_out set schema_name = %s, table_name = %s"
            " where (name, schema_name, table_name) = (%s, %s, %s)",
            [*to, name, *table],
        )


def rename_schema(conn: Session, name: str, schema: str, *, to: str) -> None:
    """All that is left out in the schema."""
    if _is_there(conn):
        conn.execute(
            "update keepstream.schema_left_out set schema_name = %s where (name, schema_name) = (%s, %s)",
            [to, name, schema],
        )


def rename_column(conn: Session, name: str, table: tuple[str, str], column: str, *, to: str) -> None:
    if _is_there(conn):
        conn.execute(
            "update keepstream.schema_left_out set column_name = %s"
            " where (name, schema_name, table_name, column_name) = (%s, %s, %s, %s)",
            [to, name, *table, column],
        )


def forget(conn: Session, name: str, table: tuple[str, str], column: str = "") -> None:
    """It is gone on the source, too: the column, or the table with all its columns."""
    if _is_there(conn):
        conn.execute(
            "delete from keepstream.schema_left_out"
            " where (name, schema_name, table_name) = (%s, %s, %s) and %s in ('', column_name)",
            [name, *table, column],
        )
