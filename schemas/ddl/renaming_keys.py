"""SQL that makes or changes a foreign key, as PostgreSQL or we wrote it, with another name for the key or for
a column of it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

_NAME: Final = r'(?:"(?:[^"]|"")*"|[^\s"(),.;]+)'
_NAMES: Final = rf"\((?:{_NAME}|[\s,])*\)"
_CONSTRAINT: Final = re.compile(rf'"(?:[^"]|"")*"|\bconstraint\s+(?P<name>{_NAME})', re.IGNORECASE)
_TABLE: Final = re.compile(rf"^(alter table (?:only )?){_NAME}(?:\.{_NAME})?", re.IGNORECASE)
_KEY: Final = re.compile(
    rf" FOREIGN KEY (?P<own>{_NAMES}) REFERENCES (?P<table>{_NAME}(?:\.{_NAME})?)(?P<there>{_NAMES})"
    rf"(?:.* SET (?:NULL|DEFAULT) (?P<set>{_NAMES}))?"
)


@dataclass(frozen=True, slots=True)
class Renaming:
    """old: each form in which the name is written; new: what stands there then."""

    old: frozenset[str]
    new: str


def of_table(statement: str, table: str) -> str:
    """The same of another table."""
    return _TABLE.sub(lambda found: found[1] + table, statement)


def with_constraint(statement: str, renaming: Renaming) -> str:
    """Of which the name is that of its constraint."""
    for found in _CONSTRAINT.finditer(statement):
        if found["name"] is not None:
            start, end = found.span("name")
            is_it = found["name"] in renaming.old
            return statement[:start] + renaming.new + statement[end:] if is_it else statement
    return statement


def with_column(statement: str, renaming: Renaming, *, own: bool, referenced: Collection[str]) -> str:
    """own: the column is one of the table that has the key; referenced: each form in which its table is
    written where a key refers to it."""
    found = _KEY.search(statement)
    if found is None:
        return statement
    lists = ["own", "set"] if own else []
    lists += ["there"] if found["table"] in referenced else []
    for start, end in sorted((found.span(each) for each in lists if found[each]), reverse=True):
        names = re.sub(
            _NAME,
            lambda name: renaming.new if name[0] in renaming.old else name[0],
            statement[start:end],
        )
        statement = statement[:start] + names + statement[end:]
    return statement
