"""SQL of the exact path: one statement for one change, touching exactly one row of the replica.

Columns go by name. Values are parameters in PostgreSQL's text without a type, so that the replica's
column decides how they are read. A statement says what it wants as parameters by `ValueRef`s, which
`bind` turns into a function from decoded rows to parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from psycopg import sql

from connectors.postgres.apply.catalog import PARTITIONED, TargetColumn, TargetTable
from connectors.postgres.catalog.replica_identity import full_identity_sql
from schemas.errors import OperatorNeeded
from schemas.pgtypes import BYTEA
from schemas.table import ReplicaIdentity, TableSchema

Values = Sequence[bytes | None]
"""A decoded row or key: PostgreSQL's text by column, None is NULL."""

Bind = Callable[[Values, Values], "list[bytes | None]"]
"""(new row, old row or key) → parameters. What a statement does not use may be ()."""


class Old(Enum):
    """What an UPDATE or DELETE brought of the row before it."""

    NOTHING = "nothing"
    KEY = "key"
    ROW = "row"


@dataclass(frozen=True, slots=True)
class ValueRef:
    """One value of a change: column `index` of the new row, or `index` of what came of the old one."""

    old: bool
    index: int


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with $1… and where its parameters come from; `what` is for messages, as in
    `update of public.customer by (id)`."""

    sql: bytes
    refs: tuple[ValueRef, ...]
    what: str


def bind(refs: Sequence[ValueRef]) -> Bind:
    """A fast function that picks a statement's parameters."""
    if all(not ref.old for ref in refs):
        indexes = [ref.index for ref in refs]
        if indexes == list(range(len(indexes))):
            count = len(indexes)
            return lambda new, old: list(new) if len(new) == count else list(new[:count])
        return lambda new, old: [new[i] for i in indexes]
    if all(ref.old for ref in refs):
        indexes = [ref.index for ref in refs]
        return lambda new, old: [old[i] for i in indexes]
    pairs = [(ref.old, ref.index) for ref in refs]
    return lambda new, old: [(old if is_old else new)[i] for is_old, i in pairs]


class _Builder:
    """Collects parameters while a statement is composed."""

    def __init__(self, table: TableSchema, target: TargetTable) -> None:
        self.table = table
        self.target = target
        self.refs: list[ValueRef] = []

    def parameter(self, index: int, *, old: bool = False) -> sql.Composable:
        self.refs.append(ValueRef(old, index))
        return sql.SQL("${}").format(sql.Literal(len(self.refs)))

    def column(self, index: int) -> TargetColumn:
        return self.target.columns[self.table.columns[index].name]

    def written(self) -> list[int]:
        """Indexes of the columns that the replica lets us write."""
        return [i for i in range(len(self.table.columns)) if not self.column(i).generated]

    def done(self, verb: str, key: Sequence[str], *parts: sql.Composable) -> Statement:
        text = sql.SQL(" ").join(parts).as_bytes(None)
        by = f" by ({', '.join(key)})" if key else ""
        return Statement(text, tuple(self.refs), f"{verb} of {self.table.qualified_name}{by}")


def relation(target: TargetTable) -> sql.Composable:
    """The table in a statement; ONLY keeps changes of a parent away from its children."""
    name = sql.Identifier(target.schema, target.name)
    return name if target.kind == PARTITIONED else sql.SQL("only {}").format(name)


def insert(table: TableSchema, target: TargetTable) -> Statement:
    """INSERT of a whole row."""
    build = _Builder(table, target)
    written = build.written()
    name = sql.Identifier(target.schema, target.name)
    if not written:
        return build.done("insert", (), sql.SQL("insert into {} default values").format(name))
    columns = sql.SQL(", ").join(sql.Identifier(table.columns[i].name) for i in written)
    values = sql.SQL(", ").join(build.parameter(i) for i in written)
    text = sql.SQL("insert into {} ({}) overriding system value values ({})").format(name, columns, values)
    return build.done("insert", target.key, text)


def delete(table: TableSchema, target: TargetTable, old: Old) -> Statement:
    """DELETE of one row."""
    build = _Builder(table, target)
    condition, key = _where(build, old)
    return build.done("delete", key, sql.SQL("delete from {} where {}").format(relation(target), condition))


def update(table: TableSchema, target: TargetTable, *, absent: Sequence[int], old: Old) -> Statement:
    """UPDATE of one row; columns in `absent` keep their values.

    PostgreSQL refuses SET of an identity column that is GENERATED ALWAYS. Where its value may have
    changed, the row is replaced instead.
    """
    build = _Builder(table, target)
    fixed = _fixed_by_key(table, old)
    given = [i for i in build.written() if i not in absent]
    if any(build.column(i).identity_always and i not in fixed for i in given):
        return _replace(build, given, old)
    assignments = [
        sql.SQL("{} = {}").format(sql.Identifier(table.columns[i].name), build.parameter(i))
        for i in given
        if i not in fixed
    ]
    condition, key = _where(build, old)
    if not assignments:
        return build.done(
            "update", key, sql.SQL("select from {} where {}").format(relation(target), condition)
        )
    text = sql.SQL("update {} set {} where {}").format(
        relation(target), sql.SQL(", ").join(assignments), condition
    )
    return build.done("update", key, text)


def _fixed_by_key(table: TableSchema, old: Old) -> frozenset[int]:
    """Columns that cannot have changed: the key, when no old key came with the change."""
    by_key = table.replica_identity in (ReplicaIdentity.DEFAULT, ReplicaIdentity.INDEX)
    return frozenset(table.key_indexes) if by_key and old is Old.NOTHING else frozenset()


def _replace(build: _Builder, given: Sequence[int], old: Old) -> Statement:
    """DELETE and INSERT in one statement. What did not come is taken from the deleted row."""
    target, table = build.target, build.table
    new = {table.columns[i].name: build.parameter(i) for i in given}
    names = [name for name in target.columns if name not in target.generated_columns]
    condition, key = _where(build, old)
    text = sql.SQL(
        "with old as (delete from {} where {} returning *) "
        "insert into {} ({}) overriding system value select {} from old"
    ).format(
        relation(target),
        condition,
        sql.Identifier(target.schema, target.name),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(new.get(name) or sql.Identifier("old", name) for name in names),
    )
    return build.done("update", key, text)


def _where(build: _Builder, old: Old) -> tuple[sql.Composable, tuple[str, ...]]:
    """The condition that finds the row, and the columns it looks at."""
    table = build.table
    if old is Old.ROW:
        return _where_row(build)
    if not table.key_indexes:
        raise OperatorNeeded(
            f"a change of {table.qualified_name} came without anything that identifies its row",
            code="identity-missing",
            hint=f"Run on the source: {full_identity_sql((table.schema, table.name))};",
        )
    is_old = old is Old.KEY
    by_name = {
        table.columns[i].name: build.parameter(place if is_old else i, old=is_old)
        for place, i in enumerate(table.key_indexes)
    }
    return _equal(build, by_name), tuple(by_name)


def _where_row(build: _Builder) -> tuple[sql.Composable, tuple[str, ...]]:
    """REPLICA IDENTITY FULL: by the replica's own key if the old row has it, else by every column."""
    table, target = build.table, build.target
    places = {column.name: i for i, column in enumerate(table.columns)}
    if target.key and all(name in places for name in target.key):
        return _equal(build, {n: build.parameter(places[n], old=True) for n in target.key}), target.key
    compared = [i for i in range(len(table.columns)) if not build.column(i).generated]
    same = sql.SQL(" and ").join(_same_text(build, i) for i in compared) if compared else sql.SQL("true")
    row_id = sql.SQL("(tableoid, ctid)" if target.kind == PARTITIONED else "ctid")
    one = sql.SQL("{} = (select {} from {} where {} limit 1)").format(
        row_id, sql.SQL("tableoid, ctid" if target.kind == PARTITIONED else "ctid"), relation(target), same
    )
    return one, tuple(table.columns[i].name for i in compared)


def _equal(build: _Builder, by_name: dict[str, sql.Composable]) -> sql.Composable:
    return sql.SQL(" and ").join(equal_to(build.target, name, value) for name, value in by_name.items())


def equal_to(target: TargetTable, name: str, value: sql.Composable) -> sql.Composed:
    """That a column has a parameter's value, as its key sees it. Beside a composite type the parameter needs
    a cast. (One to a type with a length would cut values.)"""
    column = target.columns[name]
    cast = sql.SQL(f"::{column.type_name}" if column.composite else "")
    return sql.SQL("{} {} {}{}").format(sql.Identifier(name), sql.SQL(column.equals), value, cast)


# Not every type has an operator `=` (json, point, xml), and where it has, equal is not the same (1.0 and
# 1.00, citext). format() gives the text of the type's output function, which a cast to text does not for
# bool, char(n) and inet. IS NULL would call a composite of NULLs a NULL.
_SAME_TEXT: Final = sql.SQL(
    "({column} is not distinct from null) = ({value}::{type} is not distinct from null)"
    " and format('%s', {column}) = format('%s', {value}::{type}) collate \"C\""
)


# A bytea's text is twice as long as it is, and equal ones are the same.
_SAME_BYTES: Final = sql.SQL("{column} is not distinct from {value}::bytea")


def _same_text(build: _Builder, index: int) -> sql.Composable:
    column = build.column(index)
    if column.held.oid == BYTEA:
        return _SAME_BYTES.format(column=sql.Identifier(column.name), value=build.parameter(index, old=True))
    return _SAME_TEXT.format(
        column=sql.Identifier(column.name),
        value=build.parameter(index, old=True),
        type=sql.SQL(column.type_name),  # from the replica's format_type()
    )


def empty_sql(target: TargetTable) -> str:
    """What empties a table of a replica, and nothing that refers to it or inherits from it."""
    statement = sql.SQL(
        "set session_replication_role = replica; delete from {}; reset session_replication_role;"
    )
    return statement.format(relation(target)).as_string()


def truncate(targets: Sequence[TargetTable], *, restart_identity: bool) -> bytes:
    """TRUNCATE of several tables at once.

    The stream names every published table that the source truncated, CASCADE's too. So there is no
    CASCADE here: it could only empty tables that are the replica's own.
    """
    end = " restart identity" if restart_identity else ""
    return sql.SQL("truncate {}{}").format(_relations(targets), sql.SQL(end)).as_bytes(None)


def delete_all(target: TargetTable) -> bytes:
    """DELETE of every row."""
    return sql.SQL("delete from {}").format(relation(target)).as_bytes(None)


def lock_for_delete(targets: Sequence[TargetTable]) -> bytes:
    """The lock that DELETE takes, on several tables at once: until COMMIT nobody makes a foreign key to them
    or a trigger of them."""
    return sql.SQL("lock table {} in row exclusive mode").format(_relations(targets)).as_bytes(None)


def _relations(targets: Sequence[TargetTable]) -> sql.Composable:
    return sql.SQL(", ").join(map(relation, targets))
