"""Whether a replica's table can take what the log has of it: every column, every value unchanged, and nothing
of its own acts on our writes.

PostgreSQL takes a value's text into another type, too, and may round, cut or normalise it without a word:
7.7777 into numeric(8,2), a time with its zone into one without, json into jsonb. `narrowing` says where.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.apply.catalog import TargetColumn, TargetTable
from connectors.postgres.catalog.columns import Generated, TableColumns
from connectors.postgres.catalog.held_types import COMPOSITE, ENUM, HeldType
from connectors.postgres.replica.firing import would_fire
from connectors.postgres.replica.narrowing import LackingLabels, Narrowing, lacking_labels, narrowing
from connectors.postgres.replica.row_security import would_apply
from schemas.errors import OperatorNeeded
from schemas.pgtypes import FIRST_USER_OID
from schemas.table import Column, TableSchema

# By pg_type's names.
_NAMES: Final = {20: "int8", 21: "int2", 23: "int4", 3802: "jsonb"}
_KINDS: Final = {COMPOSITE: "composite type ", ENUM: "enum "}
_COPIED_THEN: Final = (
    "then its rows are copied, by the applier itself or by `keepstream snapshot`; its key, which stands in"
    " keepstream.deferred_ddl, can be made after that"
)
_WITH_COLUMN: Final = "its values, and the indexes and constraints that name it"
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)"')


@dataclass(frozen=True, slots=True)
class Misfit:
    """`seen` in words; `fix`: SQL that mends it. `silent`: the replica would hold other values without a
    word. `loses`: what of the replica's own that SQL destroys."""

    seen: str
    fix: str
    silent: bool = False
    loses: str = ""


def require_fit(
    table: TableSchema,
    target: TargetTable,
    *,
    replica: str,
    source: TableColumns | None = None,
    inserting: bool = True,
) -> None:
    """Raises OperatorNeeded (`replica-schema`) with every column that does not fit. `inserting`: it gets
    rows."""
    found = [*misfits(table, target, source), *(unfilled(table, target) if inserting else ())]
    _refuse(found, table, target, replica)


def require_unchanged_values(
    table: TableSchema, target: TargetTable, *, replica: str, source: TableColumns | None
) -> None:
    """The same of those columns that are there: a replica that is behind gets others later."""
    found = [each for each in misfits(table, target, source) if each.silent]
    _refuse(found, table, target, replica)


def _refuse(found: list[Misfit], table: TableSchema, target: TargetTable, replica: str) -> None:
    if found:
        raise OperatorNeeded(
            f"{target.qualified_name} of {replica} cannot hold what {table.qualified_name} holds:"
            f" {'; '.join(each.seen for each in found)}",
            code="replica-schema",
            hint="\n".join(["Make it as it is on the source and start again:", *map(_told, found)]),
        )


def _told(found: Misfit) -> str:
    return f"{found.fix} -- loses {found.loses}" if found.loses else found.fix


def misfits(table: TableSchema, target: TargetTable, source: TableColumns | None = None) -> Iterator[Misfit]:
    """All that does not fit. `source`: what the source's catalog says of its columns, where that could be
    asked: the log knows neither the modifier of a domain, nor what a composite type consists of, nor which
    columns the source computes."""
    for column in table.columns:
        there = target.columns.get(column.name)
        if there is None:
            seen = f"it lacks column {column.name} ({column.type_name})"
            yield Misfit(seen, _adding(target, column).as_string())
            continue
        if there.left_out:
            if table.is_found_by(column):
                seen = f"it goes without column {column.name}, by which the source finds its rows now"
                yield Misfit(seen, f"{_adding(target, column).as_string()}  -- {_COPIED_THEN}")
            continue
        holder = _holder(target, there)
        if there.generated:
            seen, fix = (
                f"it computes column {column.name} itself",
                _make_plain(holder, there, column.type_name),
            )
            yield Misfit(seen, fix.as_string(), loses="its expression")
        else:
            yield from _of_type(holder, column, there, source.held.get(column.name) if source else None)
    if source is not None:
        yield from _uncomputed(target, source.generated)


def _uncomputed(target: TargetTable, generated: Mapping[str, Generated]) -> Iterator[Misfit]:
    """Columns that the source computes, and that nobody would fill on the replica."""
    for name, column in generated.items():
        there = target.columns.get(name)
        if there is not None and not there.generated:
            seen = f"it does not compute column {name}, as the source does"
            yield Misfit(seen, generating(target, there, column), silent=True, loses=_WITH_COLUMN)


def generating(target: TargetTable, there: TargetColumn, wanted: Generated) -> str:
    """SQL that makes the column generated as on the source: stored, as every release of PostgreSQL can."""
    if wanted.expression is None:
        return "-- Drop it, and add it as it is generated on the source."
    statement = sql.SQL(
        "alter table {} drop column {column}, add column {column} {} generated always as ({}) stored;"
    )
    return statement.format(
        _holder(target, there),
        sql.SQL(wanted.type_name),
        sql.SQL(wanted.expression),
        column=sql.Identifier(there.name),
    ).as_string()


def _holder(target: TargetTable, there: TargetColumn) -> sql.Identifier:
    """The table that has to be altered."""
    return sql.Identifier(*(there.giver or (target.schema, target.name)))


def _of_type(
    table: sql.Identifier, column: Column, there: TargetColumn, source: HeldType | None
) -> Iterator[Misfit]:
    if _may_change(column, there):
        seen = f"its column {column.name} is {there.type_name} instead of {column.type_name}"
        wanted = _type_to_take(column.type_oid, column.type_name)
        fix = sql.SQL("alter table {} alter column {} type {};").format(
            table, sql.Identifier(column.name), wanted
        )
        yield Misfit(seen, fix.as_string(), silent=True)
    elif source is None:
        return
    elif narrower := narrowing(source, there.held):
        yield Misfit(_describe(there, narrower), _widening(table, there, narrower).as_string(), silent=True)
    elif lacking := lacking_labels(source, there.held):
        yield _unlabelled(there, lacking)


def _adding(target: TargetTable, column: Column) -> sql.Composed:
    """One that inherits has it perhaps already, from a table that got it just now."""
    return sql.SQL("alter table {} add column if not exists {} {};").format(
        sql.Identifier(*(target.whole or (target.schema, target.name))),
        sql.Identifier(column.name),
        sql.SQL(column.type_name),
    )


def _make_plain(table: sql.Identifier, there: TargetColumn, type_name: str) -> sql.Composed:
    label = sql.Identifier(there.name)
    if not there.made_anew:
        return sql.SQL("alter table {} alter column {} drop expression;").format(table, label)
    return sql.SQL("alter table {} drop column {column}, add column {column} {};").format(
        table, sql.SQL(type_name), column=label
    )


def unfilled(table: TableSchema, target: TargetTable) -> Iterator[Misfit]:
    """Columns of the replica's own without which no row can be inserted."""
    known = set(table.column_names)
    for column in target.columns.values():
        if column.insisting and column.name not in known:
            seen = f"its own column {column.name} is NOT NULL and has no default"
            yield Misfit(seen, column.insisting, loses="the constraint")


def require_quiet(target: TargetTable, *, replica: str, replica_role: bool, verb: str = "writes to") -> None:
    """Nothing of the replica's acts on our writes to it, or hides rows from them. Raises OperatorNeeded
    (`replica-triggers`, `replica-row-security`)."""
    doing = f"{verb} {target.qualified_name} of {replica}"
    if target.policed is not None:
        raise would_apply(doing, target.policed)
    if target.firing:
        raise would_fire(doing, target.firing, replica_role=replica_role)


def _may_change(column: Column, there: TargetColumn) -> bool:
    """As far as the log tells."""
    if there.type_name == column.type_name:
        return False
    logged = HeldType(column.type_oid, column.type_modifier, _type_name(column), kind="")
    return narrowing(logged, there.held) is not None


def _unlabelled(there: TargetColumn, found: LackingLabels) -> Misfit:
    lacks = ", ".join(map(repr, found.labels))
    seen = f"its column {there.name} has enum {found.there.type_name}, which lacks {lacks} of the source's"
    return Misfit(seen, adding_labels(found))


def adding_labels(found: LackingLabels) -> str:
    """SQL. Each label goes beside the one that it stands beside on the source, which is there by then."""
    place = sql.SQL(" before {}").format(found.there.labels[0]) if found.there.labels else sql.SQL("")
    name, statements = sql.Identifier(found.there.schema, found.there.name), []
    for label in found.source.labels:
        if label in found.labels:
            adding = sql.SQL("alter type {} add value if not exists {}{};").format(name, label, place)
            statements.append(adding.as_string())
        place = sql.SQL(" after {}").format(label)
    return " ".join(statements)


def _describe(there: TargetColumn, found: Narrowing) -> str:
    seen, wanted = found.there.type_name, found.source.type_name
    if found.reordered:
        return f"its column {there.name} has {seen}, whose attributes stand in another order on the source"
    inside = "" if seen == there.type_name else f" with {seen}"
    where = f" in attribute {found.attribute}" if found.holder else ""
    kind = _KINDS.get(found.source.kind, "")
    return f"its column {there.name} is {there.type_name}{inside} instead of {kind}{wanted}{where}"


def _widening(table: sql.Identifier, there: TargetColumn, found: Narrowing) -> sql.Composed:
    """A composite type's attribute can be altered while no column is of that type. Other types that a column
    consists of cannot: it becomes text, which holds any value as it is."""
    if found.reordered:
        return sql.Composed([sql.SQL("-- Make that type anew, its attributes as they stand on the source.")])
    column, holder = sql.Identifier(there.name), found.holder
    wanted = _type_to_take(found.source.oid, found.source.type_name)
    altering = sql.SQL("alter table {} alter column {} type ").format(table, column)
    if found.there == there.held:
        return altering + wanted + sql.SQL(";")
    to_text = altering + sql.SQL("text;")
    if holder is None:
        return to_text
    attribute = sql.SQL(" alter type {} alter attribute {} type {};").format(
        sql.Identifier(holder.schema, holder.name),
        sql.Identifier(found.attribute),
        wanted,
    )
    back = sql.SQL("{type} using {}::{type};").format(column, type=sql.SQL(there.type_name))
    return to_text + attribute + sql.SQL(" ") + altering + back


def _type_to_take(oid: int, type_name: str) -> sql.SQL:
    """What the replica's column can be made. The replica may lack a type that users made, or have another
    one of its name, and few of them take what a column of another type holds."""
    return sql.SQL(type_name if oid < FIRST_USER_OID else "text")


def _type_name(column: Column) -> str:
    """As pg_type has it; of a built-in type only where it is needed."""
    if column.type_oid < FIRST_USER_OID:
        return _NAMES.get(column.type_oid, "")
    quoted: list[str] = _QUOTED.findall(column.type_name)
    return quoted[-1].replace('""', '"') if quoted else column.type_name
