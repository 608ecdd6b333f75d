"""What schema messages tell of a table with a column list (decision 015). Pure.

A replica's table has all columns, and those that the publication does not list are NULL in each row. So of
these it is told neither NOT NULL nor defaults nor what else their values would have to fit. PostgreSQL lets
nobody alter the type of a column that is listed: what was rewritten is of no row's in the log.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

from connectors.postgres.catalog.publication import TableName
from pipeline.capture.entries.limitednames import limit_before
from pipeline.config.model import Tables
from schemas.ddl.columns import may_be_of_domain
from schemas.ddl.mentioned import mentions_any
from schemas.ddl.message import UNPUBLISHED, ObjectChange, State
from schemas.entries import Entries

# INCLUDE, and parameters of an index or operator class, which alone have `name=value` without blanks.
_BESIDE_KEYS: Final = re.compile(r""" INCLUDE \((?:"(?:[^"]|"")*"|[^")])*\)|(?: WITH)? \(\w+=\S[^)]*\)""")
_NO_EXPRESSION: Final = re.compile(r'"(?:[^"]|"")*"|OPERATOR\([^)]*\)')
_NOT_TOLD_ABOVE: Final = {"not_null": False, "identity": "", "identity_options": None}
_NOT_TOLD: Final = {**_NOT_TOLD_ABOVE, "missing": None, "has_missing": False}


def all_relaxed(
    changes: Sequence[ObjectChange], listed: Mapping[int, Collection[int]]
) -> tuple[ObjectChange, ...]:
    """`listed`: by OID, as `relaxed` has it. What is above a table gives its columns what they have: so it is
    told no more of them than the table itself, as a first copy makes it."""
    unlisted = _unlisted_with_those_above(changes, listed)
    return tuple(
        _of_command(change, unlisted[change.oid], has_list=change.oid in listed)
        if change.oid in unlisted and change.class_ == "table"
        else change
        for change in changes
    )


def _of_command(change: ObjectChange, unlisted: Collection[int], *, has_list: bool) -> ObjectChange:
    listed = _numbers(change).difference(unlisted)
    if has_list:
        return relaxed(change, listed)
    return replace(_of_table(change, listed, _NOT_TOLD_ABOVE), rewritten=change.rewritten)


def _unlisted_with_those_above(
    changes: Sequence[ObjectChange], listed: Mapping[int, Collection[int]]
) -> dict[int, set[int]]:
    """By OID, numbers of columns."""
    tables = [change for change in changes if change.class_ == "table"]
    found = {each.oid: _numbers(each).difference(listed[each.oid]) for each in tables if each.oid in listed}
    pending, called = [each for each in tables if each.oid in found], _by_name(tables)
    while pending:
        child = pending.pop()
        for holder in chain.from_iterable(called.get(name, ()) for name in _names_above(child)):
            more = _given(holder.before, child.before, found[child.oid])
            more |= _given(holder.after, child.after, found[child.oid])
            if more - found.get(holder.oid, set()):
                found.setdefault(holder.oid, set()).update(more)
                pending.append(holder)
    return found


def _by_name(tables: Iterable[ObjectChange]) -> dict[TableName, list[ObjectChange]]:
    """Those that are called so before the change or after it."""
    found: dict[TableName, list[ObjectChange]] = {}
    for each in tables:
        for name in {(state["schema"], state["name"]) for state in (each.before, each.after) if state}:
            found.setdefault(name, []).append(each)
    return found


def _names_above(child: ObjectChange) -> set[TableName]:
    """Of the tables that give it columns, before the change or after it."""
    states = [state for state in (child.before, child.after) if state]
    above = (name for state in states for name in (*state["inherits"], state["partition_of"]))
    return {(name[0], name[1]) for name in above if name}


def _given(holder: State | None, child: State | None, numbers: Collection[int]) -> set[int]:
    """The numbers of the same columns in the table above."""
    if holder is None or child is None:
        return set()
    above = [*child["inherits"], child["partition_of"]]
    if [holder["schema"], holder["name"]] not in above:
        return set()
    names = {column["name"] for column in child["columns"] if column["num"] in numbers}
    return {column["num"] for column in holder["columns"] if column["name"] in names}


def _numbers(change: ObjectChange) -> set[int]:
    return {column["num"] for state in (change.before, change.after) if state for column in state["columns"]}


def relaxed(change: ObjectChange, listed: Collection[int] | None) -> ObjectChange:
    """`listed`: the numbers of the columns that rows have; None: all."""
    if listed is None or change.class_ != "table":
        return change
    return _of_table(change, listed, _NOT_TOLD)


def _of_table(change: ObjectChange, listed: Collection[int], not_told: Mapping[str, Any]) -> ObjectChange:
    rewritten = UNPUBLISHED if change.rewritten else ""
    before = _relaxed(change.before, listed, not_told)
    after = _relaxed(change.after, listed, not_told)
    unlisted = sorted({*_unlisted(change.before, listed), *_unlisted(change.after, listed)})
    return replace(change, before=before, after=after, rewritten=rewritten, unlisted=tuple(unlisted))


def to_be_listed(change: ObjectChange, tables: Tables, entries: Entries) -> tuple[int, ...] | None:
    """The numbers of the columns that rows of a table are to have that is still to join; None: all. As the
    configuration limits its name, or as that was limited before; else as that of the table that it is a
    partition of."""
    state = change.after or change.before or {}
    for name in (state["schema"], state["name"]), tuple(state["partition_of"] or ()):
        limit = (tables.limit_of(*name) or limit_before(entries, name, tables)) if name else None
        if limit is not None and limit.columns is not None:
            return tuple(column["num"] for column in state["columns"] if column["name"] in limit.columns)
        if limit is not None:
            return None
    return None


def _relaxed(state: State | None, listed: Collection[int], not_told: Mapping[str, Any]) -> State | None:
    if state is None:
        return None
    unlisted = _Unlisted.of(state["columns"], listed)
    broken = {each["oid"] for each in state["constraints"] if unlisted.breaks(each["def"], each["type"])}
    return {
        **state,
        "columns": [_column(column, listed, not_told) for column in state["columns"]],
        "constraints": [each for each in state["constraints"] if each["oid"] not in broken],
        "indexes": [each for each in state["indexes"] if not _is_broken_index(each, unlisted)],
    }


def _unlisted(state: State | None, listed: Collection[int]) -> list[str]:
    columns = state["columns"] if state is not None else ()
    return [column["name"] for column in columns if column["num"] not in listed]


def _column(
    column: Mapping[str, Any], listed: Collection[int], not_told: Mapping[str, Any]
) -> Mapping[str, Any]:
    if column["num"] in listed:
        return column
    if column["generated"]:
        return {**column, "not_null": False}
    return {**column, **not_told, "default": "NULL" if may_be_of_domain(column) else None}


@dataclass(frozen=True, slots=True)
class _Unlisted:
    """Names of a table's columns. `columns`: all that are not listed. `empty`: of these, those that hold
    nothing on replicas. `computed`: of those, the generated ones, which may make a value of NULL."""

    columns: tuple[str, ...]
    empty: tuple[str, ...]
    computed: tuple[str, ...]

    @classmethod
    def of(cls, columns: Iterable[Mapping[str, Any]], listed: Collection[int]) -> _Unlisted:
        unlisted = [column for column in columns if column["num"] not in listed]
        plain = [column["name"] for column in unlisted if not column["generated"]]
        computed = [
            column["name"]
            for column in unlisted
            if column["generated"] and mentions_any(column["default"] or "", plain)
        ]
        return cls(tuple(column["name"] for column in unlisted), (*plain, *computed), tuple(computed))

    def breaks(self, definition: str, kind: str) -> bool:
        """Whether rows that are NULL in these columns may break a constraint or an index."""
        if kind in ("c", "n"):
            return mentions_any(definition, self.columns)
        if kind == "f":
            own, _, other = definition.partition(" REFERENCES ")
            return mentions_any(own, self.empty if " MATCH FULL" in other else self.computed)
        if kind not in ("p", "u", "x"):
            return False
        keys = _BESIDE_KEYS.sub("", definition)
        # of columns alone, UNIQUE and EXCLUDE take any number of NULLs
        plain = _NO_EXPRESSION.sub("", keys)
        strict = kind == "p" or "NULLS NOT DISTINCT" in plain or plain.count("(") > 1
        return mentions_any(keys, self.empty if strict else self.computed)


def _is_broken_index(index: Mapping[str, Any], unlisted: _Unlisted) -> bool:
    kind = "p" if index["primary"] else "u" if index["unique"] else ""
    return unlisted.breaks(index["def"], kind)
