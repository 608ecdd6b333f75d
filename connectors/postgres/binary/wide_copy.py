"""Rows that COPY cannot send as text, because a bytea's text is twice as long as it is and a row's limit is
1 GB.

They go into a temporary table of the replica, in COPY's binary form: each bytea as it is, everything else as
its text, which means the same on every server. From there one INSERT reads the texts as the columns' types
would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.catalog.held_types import HeldColumns, read_held_columns
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.copystream import Tick, require_all, run_query, stream_copy, stream_in_chunks
from connectors.postgres.session import Session
from schemas.pgtypes import BYTEA

_STAGE: Final = sql.Identifier("pg_temp", "keepstream_wide")
_INPUT: Final = {18: "charin", 2205: "regclassin"}
"""Of types to which a cast from text does something else than their input function."""
_TYPES: Final = """
    select attname, pg_catalog.format_type(atttypid, -1) from pg_attribute
     where attrelid = %s::regclass and attnum > 0 and not attisdropped
"""


@dataclass(frozen=True, slots=True)
class Aside:
    """A table for the rows. column: of it, that gets the place of each; place: SQL of that on the source."""

    table: sql.Identifier
    column: str
    place: sql.Composable


def copy_wide(
    source: Session,
    replica: Session,
    *,
    table: TableName,
    target: TableName,
    columns: Sequence[str],
    where: sql.Composable,
    tick: Tick,
    in_chunks: bool = False,
    aside: Aside | None = None,
) -> int:
    """Copy these rows inside of the replica's open transaction; returns how many they are. `in_chunks`: as
    `stream_in_chunks` does it. `aside`: not into the target, but into a table with its columns' types.

    Raises what `stream_copy` does, or `stream_in_chunks`.
    """
    theirs = _held(replica, target)
    raw = {name for name, one in _held(source, table).items() if one.oid == theirs[name].oid == BYTEA}
    placed = [aside.column] if aside else []
    run_query(replica, _stage([*placed, *columns], raw), tick)
    sent = [_sent(name, is_raw=name in raw) for name in columns]
    values = sql.SQL(", ").join([aside.place, *sent] if aside else sent)
    read = sql.SQL("copy (select {} from only {}{}) to stdout (format binary)").format(
        values, sql.Identifier(*table), where
    )
    write = sql.SQL("copy {} from stdin (format binary)").format(_STAGE)
    copying = {"read": read.as_string(), "write": write.as_string()}
    if in_chunks:
        rows = stream_in_chunks(source, replica, **copying, binary=True, tick=tick)
    else:
        rows = stream_copy(source, replica, **copying, tick=tick)
    reading = _reading(replica, target, theirs) | dict.fromkeys(placed, "{}")
    into = aside.table if aside else sql.Identifier(*target)
    *_, done = run_query(replica, _insert(into, [*placed, *columns], raw, reading), tick)
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


def _insert(into: sql.Identifier, columns: Sequence[str], raw: set[str], reading: Mapping[str, str]) -> str:
    values = sql.SQL(", ").join(
        sql.Identifier(name) if name in raw else sql.SQL(reading[name]).format(sql.Identifier(name))
        for name in columns
    )
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    return (
        sql.SQL("insert into {} ({}) overriding system value select {} from {}")
        .format(into, listed, values, _STAGE)
        .as_string()
    )
