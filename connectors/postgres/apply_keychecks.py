"""Unique keys that PostgreSQL does not enforce for us (P15).

While `session_replication_role` is `replica`, a DEFERRABLE unique constraint lets duplicates in. So every
value that a target transaction wrote into such a key is looked up before it is committed: at the end,
because in between two rows may rightly have the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.apply_catalog import TargetTable
from connectors.postgres.apply_errors import SourceRef
from connectors.postgres.statements import Statement, Values, cast_of, relation
from schemas.table import TableSchema

LOOKUP_LIMIT: Final = 10_000
"""Values of one key that are looked up one by one; more are checked by one pass over the table."""

UNIQUE: Final = "unique key"

Ref = tuple[SourceRef, int]
"""The source transaction and the ordinal of the change that wrote a key."""


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """One unenforced key. Both statements return one row if all is well. `indexes`: in the log's row."""

    one: Statement
    all: Statement
    indexes: tuple[int, ...]


def key_checks(table: TableSchema, target: TargetTable, written: Sequence[int]) -> tuple[KeyCheck, ...]:
    """The checks that a statement needs which writes these columns of the log's rows."""
    places = {table.columns[i].name: i for i in written}
    return tuple(
        _check(target, key, tuple(places[name] for name in key))
        for key in target.deferrable_keys
        if all(name in places for name in key)
    )


def _check(target: TargetTable, key: tuple[str, ...], indexes: tuple[int, ...]) -> KeyCheck:
    names = [sql.Identifier(name) for name in key]
    equal = sql.SQL(" and ").join(
        sql.SQL("{} = ${}{}").format(name, sql.Literal(number), cast_of(target, key[number - 1]))
        for number, name in enumerate(names, 1)
    )
    not_null = sql.SQL(" and ").join(sql.SQL("num_nulls({}) = 0").format(name) for name in names)
    one = sql.SQL("select where (select count(*) from {} where {}) <= 1").format(relation(target), equal)
    every = sql.SQL("select where not exists (select from {} where {} group by {} having count(*) > 1)")
    what = f"{UNIQUE} ({', '.join(key)}) of {target.qualified_name}"
    columns = sql.SQL(", ").join(names)
    return KeyCheck(
        Statement(one.as_bytes(None), (), what),
        Statement(every.format(relation(target), not_null, columns).as_bytes(None), (), what),
        indexes,
    )


class KeyLookups:
    """The keys that the open target transaction wrote."""

    def __init__(self) -> None:
        self._written: dict[KeyCheck, dict[tuple[bytes, ...], Ref] | None] = {}
        self._last: Ref | None = None

    def note(self, checks: Sequence[KeyCheck], values: Values, ref: Ref) -> None:
        """A row was sent; `ref` names the change, for the error. NULLs never collide."""
        for check in checks:
            key = tuple(value for i in check.indexes if (value := values[i]) is not None)
            known = self._written.setdefault(check, {})
            if known is None or len(key) < len(check.indexes):
                continue
            known[key] = ref
            if len(known) > LOOKUP_LIMIT:
                self._written[check] = None
            self._last = ref

    def send(self, send: Callable[[Statement, Values, Ref], None]) -> None:
        """Hand out what to look up, and forget it."""
        for check, known in self._written.items():
            if known is None:
                assert self._last is not None
                send(check.all, (), self._last)
            else:
                for key, ref in known.items():
                    send(check.one, key, ref)
        self.forget()

    def forget(self) -> None:
        """The transaction ended otherwise."""
        self._written.clear()
