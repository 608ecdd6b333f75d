"""Unique keys and exclusion constraints that PostgreSQL does not enforce for us (P15).

While `session_replication_role` is `replica`, a DEFERRABLE one lets in what it should not. So every
value that a target transaction wrote into such a key is looked up before it is committed: at the end,
because in between two rows may rightly have the same one. Of an exclusion constraint it is every row that
was written, by the table's key: what a row excludes cannot be told from values that it no longer has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.apply.catalog import TargetTable
from connectors.postgres.apply.errors import EXCLUSION, UNIQUE, SourceRef
from connectors.postgres.apply.keys import Exclusion, UniqueKey
from connectors.postgres.apply.statements import Statement, Values, equal_to, relation
from connectors.postgres.catalog.publication import TableName
from schemas.table import TableSchema

LOOKUP_LIMIT: Final = 10_000
"""Values of one key that are looked up one by one; more are checked by one pass over the table."""

Ref = tuple[SourceRef, int]
"""The source transaction and the ordinal of the change that wrote a key."""


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """What is not enforced. Both statements return one row if all is well. `indexes`: of what is looked up,
    in the log's row. limit: above so many it is `all`. nulls_collide: NULLs are looked up, too. table: whose
    it is."""

    one: Statement
    all: Statement
    indexes: tuple[int, ...]
    limit: int
    table: TableName
    nulls_collide: bool = False

    def values(self, key: Values) -> Values:
        """The parameters of `one`."""
        return [*key, *(b"t" if value is None else b"f" for value in key)] if self.nulls_collide else key


def key_checks(table: TableSchema, target: TargetTable, written: Sequence[int]) -> tuple[KeyCheck, ...]:
    """The checks that a statement needs which writes these columns of the log's rows."""
    places = {table.columns[i].name: i for i in written}
    unique = (
        _unique_check(target, key, tuple(places[name] for name in key.columns))
        for key in target.deferrable_keys
        if all(name in places for name in key.columns)
    )
    row = tuple(places[name] for name in target.key if name in places)
    known = row if len(row) == len(target.key) else ()
    return *unique, *(_exclusion_check(target, each, known) for each in target.deferrable_exclusions)


def _unique_check(target: TargetTable, key: UniqueKey, indexes: tuple[int, ...]) -> KeyCheck:
    columns = sql.SQL(", ").join(map(sql.Identifier, key.columns))
    every = sql.SQL("select where not exists (select from {}{} group by {} having count(*) > 1)").format(
        relation(target), sql.SQL("") if key.nulls_collide else _without_null(key), columns
    )
    one = sql.SQL("select where (select count(*) from {} where {}) <= 1").format(
        relation(target), _has_values(target, key)
    )
    what = f"{UNIQUE} ({', '.join(key.columns)}) of {target.qualified_name}"
    return KeyCheck(
        _statement(one, what),
        _statement(every, what),
        indexes,
        LOOKUP_LIMIT,
        (target.schema, target.name),
        key.nulls_collide,
    )


def _without_null(key: UniqueKey) -> sql.Composed:
    names = map(sql.Identifier, key.columns)
    return sql.SQL(" where ") + sql.SQL(" and ").join(sql.SQL("num_nulls({}) = 0").format(n) for n in names)


def _has_values(target: TargetTable, key: UniqueKey) -> sql.Composed:
    """If NULLs collide, a second parameter of each column says whether it is NULL. (IS NULL would call a
    composite of NULLs one.)"""
    count = len(key.columns)
    equal = [equal_to(target, name, _parameter(number)) for number, name in enumerate(key.columns, 1)]
    if key.nulls_collide:
        null = sql.SQL("({} or {} and {} is not distinct from null)")
        equal = [
            null.format(one, _parameter(count + number), sql.Identifier(name))
            for number, (name, one) in enumerate(zip(key.columns, equal, strict=True), 1)
        ]
    return sql.SQL(" and ").join(equal)


def _exclusion_check(target: TargetTable, exclusion: Exclusion, row: tuple[int, ...]) -> KeyCheck:
    """`row`: where the log's row has the table's key; () if it has none."""
    key = [equal_to(target, name, _parameter(number)) for number, name in enumerate(target.key, 1)]
    every = _without_conflict(target, exclusion, [])
    one = _without_conflict(target, exclusion, key) if row else every
    what = f"{EXCLUSION} {exclusion.name} of {target.qualified_name}"
    limit = LOOKUP_LIMIT if row else 0
    return KeyCheck(_statement(one, what), _statement(every, what), row, limit, (target.schema, target.name))


_WITHOUT_CONFLICT: Final = sql.SQL(
    "select where not exists (select from (select tableoid t, ctid c, {values} from {table} where {some}) a"
    " join (select tableoid t, ctid c, {values} from {table} where {every}) b"
    " on (a.t, a.c) <> (b.t, b.c) and {excluded})"
)


def _without_conflict(
    target: TargetTable, exclusion: Exclusion, key: Sequence[sql.Composable]
) -> sql.Composed:
    """That none of these rows, of all without a key, excludes another."""
    every = sql.SQL(f"({exclusion.predicate})")
    return _WITHOUT_CONFLICT.format(
        values=sql.SQL(", ".join(f"{text} v{i}" for i, text in enumerate(exclusion.expressions))),
        table=relation(target),
        some=sql.SQL(" and ").join([every, *key]),
        every=every,
        excluded=sql.SQL(" and ".join(f"a.v{i} {by} b.v{i}" for i, by in enumerate(exclusion.operators))),
    )


def _parameter(number: int) -> sql.Composed:
    return sql.SQL("${}").format(sql.Literal(number))


def _statement(text: sql.Composed, what: str) -> Statement:
    return Statement(text.as_bytes(None), (), what)


class KeyLookups:
    """The keys that the open target transaction wrote."""

    def __init__(self) -> None:
        self._written: dict[KeyCheck, dict[tuple[bytes | None, ...], Ref] | None] = {}
        self._last: Ref | None = None

    def note(self, checks: Sequence[KeyCheck], values: Values, ref: Ref) -> None:
        """A row was sent; `ref` names the change, for the error."""
        for check in checks:
            key = tuple(values[i] for i in check.indexes)
            known = self._written.setdefault(check, {})
            if known is None or (None in key and not check.nulls_collide):
                continue
            known[key] = ref
            if len(known) > check.limit:
                self._written[check] = None
            self._last = ref

    def send(
        self, send: Callable[[Statement, Values, Ref], None], tables: Collection[TableName] | None = None
    ) -> None:
        """Hand out what to look up, of these tables (None: of all), and forget it."""
        due = [check for check in self._written if tables is None or check.table in tables]
        for check in due:
            known = self._written.pop(check)
            if known is None:
                assert self._last is not None
                send(check.all, (), self._last)
            else:
                for key, ref in known.items():
                    send(check.one, check.values(key), ref)

    def forget(self) -> None:
        """The transaction ended otherwise."""
        self._written.clear()
