"""Whether a replica's table can take what the log has of it: every column, every value unchanged, and nothing
of its own acts on our writes.

PostgreSQL takes a value's text into another type, too, and may round, cut or normalise it without a word:
7.7777 into numeric(8,2), a time with its zone into one without, json into jsonb. So another type is accepted
only where that cannot happen. What a type refuses aloud (a number that is too large) is left to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.apply_catalog import HeldType, TargetColumn, TargetTable
from connectors.postgres.firing import would_fire
from connectors.postgres.row_security import would_apply
from schemas.errors import OperatorNeeded
from schemas.pgtypes import FIRST_USER_OID, element_of, scale_of
from schemas.table import Column, TableSchema

_TEXT, _VARCHAR, _NUMERIC = 25, 1043, 1700
_ENUM: Final = "e"

# By pg_type's names; any text goes into `text`, and into `character varying` without a length.
_NAMES: Final = {20: "int8", 21: "int2", 23: "int4", 3802: "jsonb"}
_WIDER: Final = {
    "int2": {"int4", "int8", "numeric"},
    "int4": {"int8", "numeric"},
    "int8": {"numeric"},
    "jsonb": {"json"},
}
_TIMES: Final = frozenset({1083, 1114, 1184, 1266})
_TIME_DIGITS: Final = 6
_LENGTHS: Final = frozenset({1043, 1562})
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)"')


@dataclass(frozen=True, slots=True)
class Misfit:
    """`seen` in words; `fix`: SQL that mends it."""

    seen: str
    fix: str


def require_fit(table: TableSchema, target: TargetTable, *, replica: str) -> None:
    """Raises OperatorNeeded (`replica-schema`) with every column that does not fit."""
    found = list(misfits(table, target))
    if found:
        raise OperatorNeeded(
            f"{target.qualified_name} of {replica} cannot hold what {table.qualified_name} holds:"
            f" {'; '.join(each.seen for each in found)}",
            code="replica-schema",
            hint=f"Make it as it is on the source and start again: {' '.join(each.fix for each in found)}",
        )


def misfits(table: TableSchema, target: TargetTable) -> Iterator[Misfit]:
    """All that does not fit."""
    name = sql.Identifier(target.schema, target.name)
    for column in table.columns:
        label, type_name = sql.Identifier(column.name), column.type_name
        there = target.columns.get(column.name)
        if there is None:
            seen = f"it lacks column {column.name} ({type_name})"
            fix = sql.SQL("alter table {} add column {} {};").format(name, label, sql.SQL(type_name))
        elif there.generated:
            seen = f"it computes column {column.name} itself"
            fix = sql.SQL("alter table {} alter column {} drop expression;").format(name, label)
        elif _may_change(column, there):
            seen = f"its column {column.name} is {there.type_name} instead of {type_name}"
            fix = sql.SQL("alter table {} alter column {} type {};").format(name, label, sql.SQL(type_name))
        else:
            continue
        yield Misfit(seen, fix.as_string())


def require_quiet(target: TargetTable, *, replica: str, replica_role: bool, verb: str = "writes to") -> None:
    """Nothing of the replica's acts on our writes to it, or hides rows from them. Raises OperatorNeeded
    (`replica-triggers`, `replica-row-security`)."""
    doing = f"{verb} {target.qualified_name} of {replica}"
    if target.policed is not None:
        raise would_apply(doing, target.policed)
    if target.firing:
        raise would_fire(doing, target.firing, replica_role=replica_role)


def _may_change(column: Column, there: TargetColumn) -> bool:
    held = there.held
    if there.type_name == column.type_name:
        return False
    if held.oid == _TEXT or (held.oid == _VARCHAR and held.modifier < 0):
        return False
    if column.type_oid < FIRST_USER_OID and held.oid == column.type_oid:
        return not _is_as_wide(held, column.type_modifier)
    name = _type_name(column)
    if held.name == name:
        return False  # a user's type, or a domain, whose own modifier is not in the log
    if held.name in _WIDER.get(name, ()):
        return held.oid == _NUMERIC and held.modifier >= 0
    return held.kind != _ENUM


def _type_name(column: Column) -> str:
    """As pg_type has it; of a built-in type only where it is needed."""
    if column.type_oid < FIRST_USER_OID:
        return _NAMES.get(column.type_oid, "")
    quoted: list[str] = _QUOTED.findall(column.type_name)
    return quoted[-1].replace('""', '"') if quoted else column.type_name


def _is_as_wide(held: HeldType, modifier: int) -> bool:
    """Of two modifiers of one type: whether the replica's takes every value as it is."""
    if held.modifier in (modifier, -1):
        return True
    oid = element_of(held.oid) or held.oid
    if oid in _TIMES:
        return held.modifier >= (modifier if modifier >= 0 else _TIME_DIGITS)
    if modifier < 0:
        return False
    if oid == _NUMERIC:
        return scale_of(held.modifier) >= scale_of(modifier)
    return oid in _LENGTHS and held.modifier >= modifier
