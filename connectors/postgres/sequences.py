"""Sequences' values. They are not part of any snapshot: a value read after S is at least S's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.session import Session, wrapped


@dataclass(frozen=True, slots=True)
class SequenceValue:
    """last_value: given out already if `is_called`, else the next to be given out."""

    schema: str
    name: str
    ascending: bool
    last_value: int
    is_called: bool

    def passed(self, other: SequenceValue) -> bool:
        """Whether this sequence has come further than `other`."""
        mine, others = (self.last_value, self.is_called), (other.last_value, other.is_called)
        if self.last_value == other.last_value or self.ascending:
            return mine > others
        return self.last_value < other.last_value


# pg_sequences shows null for a sequence that was not called yet, and for one we may not read.
_SEQUENCES: Final = """
    select schemaname, sequencename, increment_by > 0, last_value from pg_catalog.pg_sequences
     where schemaname <> 'keepstream' order by 1, 2
"""


def read_sequences(conn: Session) -> list[SequenceValue]:
    """All sequences as they are now. Raises OperatorNeeded (`privilege-missing`) for one we cannot read."""
    with wrapped("reading sequences"):
        rows = conn.execute(_SEQUENCES).fetchall()
        values = (
            SequenceValue(schema, name, ascending, last, True)
            if last is not None
            else _read_uncalled(conn, schema, name, ascending)
            for schema, name, ascending, last in rows
        )
        return [value for value in values if value is not None]


def _read_uncalled(conn: Session, schema: str, name: str, ascending: bool) -> SequenceValue | None:
    query = sql.SQL("select last_value, is_called from {}").format(sql.Identifier(schema, name))
    try:
        ((last, called),) = conn.execute(query).fetchall()
    except psycopg.errors.UndefinedTable:
        return None  # dropped meanwhile
    return SequenceValue(schema, name, ascending, last, called)


def advance_sequences(conn: Session, wanted: Sequence[SequenceValue]) -> list[SequenceValue]:
    """Set sequences that are behind; returns those that this database does not have."""
    there = {(value.schema, value.name): value for value in read_sequences(conn)}
    with wrapped("setting sequences"):
        for value in wanted:
            current = there.get((value.schema, value.name))
            if current is not None and value.passed(current):
                regclass = sql.Identifier(value.schema, value.name).as_string()
                conn.execute(
                    "select pg_catalog.setval(%s::text::regclass, %s, %s)",
                    [regclass, value.last_value, value.is_called],
                )
    return [value for value in wanted if (value.schema, value.name) not in there]
