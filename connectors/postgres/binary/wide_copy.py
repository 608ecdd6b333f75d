"""Rows that COPY cannot send as text, because a bytea's text is twice as long as it is and a row's limit is
1 GB.

They go into a temporary table of the replica, in COPY's binary form: each bytea as it is, everything else as
its text, which means the same on every server. From there one INSERT reads the texts as the columns' types
would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from psycopg import sql

from connectors.postgres.copystream import Tick, require_all, run_query, stream_copy
from connectors.postgres.held_types import HeldColumns, read_held_columns
from connectors.postgres.publication import TableName
from connectors.postgres.session import Session
from schemas.pgtypes import BYTEA

_STAGE: Final = sql.Identifier("pg_temp", "keepstream_wide")
_INPUT: Final = {18: "charin", 2205: "regclassin"}
"""Of types to which a cast from text does something else than their input function."""
_TYPES: Final = """
    select attname, pg_catalog.format_type(atttypid, -1) from pg_attribute
     where attrelid = %s::regclass and attnum > 0 and not attisdropped
"""


def copy_wide(
    source: Session,
    replica: Session,
    *,
    table: TableName,
    target: TableName,
    columns: Sequence[str],
    where: sql.Composable,
    tick: Tick,
) -> int:
    """Copy these rows inside of the replica's open transaction; returns how many they are. Raises what
    `stream_copy` does."""
    theirs = _held(replica, target)
    raw = {name for name, one in _held(source, table).items() if one.oid == theirs[name].oid == BYTEA}
    run_query(replica, _stage(columns, raw), tick)
    values = sql.SQL(", ").join(_sent(name, is_raw=name in raw) for name in columns)
    read = sql.SQL("copy (select {} from only {}{}) to stdout (format binary)").format(
        values, sql.Identifier(*table), where
    )
    write = sql.SQL("copy {} from stdin (format binary)").format(_STAGE)
    rows = stream_copy(source, replica, read=read.as_string(), write=write.as_string(), tick=tick)
    *_, done = run_query(replica, _insert(target, columns, raw, _reading(replica, target, theirs)), tick)
    require_all(rows, done.command_tuples or 0)
    run_query(replica, sql.SQL("drop table {}").format(_STAGE).as_string(), tick)
    return rows


def _oid(session: Session, table: TableName) -> int:
    ((oid,),) = session.execute(
        "select %s::regclass::oid::bigint", [sql.Identifier(*table).as_string(session)]
    ).fetchall()
    return int(oid)


def _held(session: Session, table: TableName) -> HeldColumns:
    return read_held_columns(session, [_oid(session, table)])[table]


def _reading(session: Session, table: TableName, held: HeldColumns) -> dict[str, str]:
    """SQL by column that makes its value of the text `{}`. The type is named without a length: a cast to one
    with a length cuts, an assignment refuses."""
    name = sql.Identifier(*table).as_string(session)
    types: dict[str, str] = dict(session.execute(_TYPES, [name]).fetchall())
    return {
        column: f"{_INPUT[one.oid]}(textout({{}}))" if one.oid in _INPUT else f"{{}}::{types[column]}"
        for column, one in held.items()
    }


def _stage(columns: Sequence[str], raw: set[str]) -> str:
    made = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL("bytea" if name in raw else "text"))
        for name in columns
    )
    stored = sql.SQL(", ").join(
        sql.SQL("alter column {} set storage external").format(sql.Identifier(name)) for name in columns
    )
    return (
        sql.SQL("create temporary table {} ({}) on commit drop; alter table {} {}")
        .format(sql.Identifier("keepstream_wide"), made, _STAGE, stored)
        .as_string()
    )


def _sent(name: str, *, is_raw: bool) -> sql.Composed:
    """format() writes what the type's output function does, which a cast to text is not for char(n)."""
    column = sql.Identifier(name)
    if is_raw:
        return sql.SQL("{}::bytea").format(column)
    return sql.SQL("case when num_nulls({}) = 0 then format('%s', {}) end").format(column, column)


def _insert(target: TableName, columns: Sequence[str], raw: set[str], reading: Mapping[str, str]) -> str:
    values = sql.SQL(", ").join(
        sql.Identifier(name) if name in raw else sql.SQL(reading[name]).format(sql.Identifier(name))
        for name in columns
    )
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    return (
        sql.SQL("insert into {} ({}) overriding system value select {} from {}")
        .format(sql.Identifier(*target), listed, values, _STAGE)
        .as_string()
    )
