"""pg_dump's SQL of a table without what it says of values of columns that are not listed (decision 015): the
defaults and CHECKs that `relaxing` would take off again. What is in the log stays there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from connectors.postgres.limits.relaxing import NAMES_UNLISTED
from connectors.postgres.session import Session, wrapped
from schemas.identifiers import unquoted

# Their type and collation, as pg_dump writes them: as it does, our sessions have an empty search_path. Those
# of a typed table come with its type.
_DEFAULTS: Final = """
    select a.attname, case when c.reloftype <> 0 then '' else ' ' || format_type(a.atttypid, a.atttypmod)
           || case when a.attcollation <> t.typcollation
                   then ' COLLATE ' || a.attcollation::regcollation::text else '' end end
      from pg_attribute a
      join pg_class c on c.oid = a.attrelid
      join pg_type t on t.oid = a.atttypid
     where a.attrelid = %s::oid and a.attnum > 0 and not a.attisdropped and a.attname <> all (%s)
       and a.atthasdef and a.attgenerated = ''
"""
_CONSTRAINTS: Final = f"""
    select k.conname
      from pg_constraint k
     where k.conrelid = %s::oid and k.contype in ('c', 'n') and {NAMES_UNLISTED}
"""  # noqa: S608 - constants
_QUOTED: Final = r"""
    (?<![A-Za-z0-9_$]) [Ee] ' (?: [^'\\] | \\. | '' )* ' | ' (?: [^'] | '' )* ' | " (?: [^"] | "" )* "
"""
_TOKEN: Final = re.compile(_QUOTED + "| .", re.DOTALL | re.VERBOSE)
_NAME: Final = r'"(?:[^"]|"")*"|[^\s".,()]+'
_COLUMN: Final = re.compile(rf"\s*(?P<name>{_NAME})")
_CONSTRAINT: Final = re.compile(rf"\s*CONSTRAINT (?P<name>{_NAME}) ")
_TYPED: Final = re.compile(rf"CREATE (?:UNLOGGED )?TABLE (?:{_NAME})\.(?:{_NAME}) OF ")
_ALTERED: Final = re.compile(
    rf"ALTER TABLE (?:ONLY )?(?:{_NAME})\.(?:{_NAME})\s+"
    rf"(?:ALTER COLUMN (?P<column>{_NAME}) SET DEFAULT|ADD CONSTRAINT (?P<constraint>{_NAME}) )"
)
_COMMENTED: Final = re.compile(rf"COMMENT ON CONSTRAINT (?P<constraint>{_NAME}) ON ")


@dataclass(frozen=True, slots=True)
class Untold:
    """Of one table. columns: what is left behind the name of those with a default. constraints: by name."""

    columns: Mapping[str, str]
    constraints: frozenset[str]

    def without(self, kind: str, statement: str) -> str:
        """One entry of pg_dump's, by its type; '' if nothing of it is left."""
        if kind == "TABLE":
            return self._in_create(statement)
        altered = _COMMENTED.match(statement) or _ALTERED.match(statement)
        if altered is None:
            return statement
        column, constraint = altered.groupdict().get("column"), altered["constraint"]
        is_untold = unquoted(column) in self.columns if column else unquoted(constraint) in self.constraints
        return "" if is_untold else statement

    def _in_create(self, statement: str) -> str:
        head, elements, rest = _divided(statement)
        told = ",".join(self._elements(elements))
        if elements and not told and _TYPED.match(head):
            return head.removesuffix(" (") + rest.removeprefix(")")  # these take no empty parentheses
        return f"{head}{told}{rest}"

    def _elements(self, elements: Collection[str]) -> Iterator[str]:
        for element in elements:
            constraint, column = _CONSTRAINT.match(element), _COLUMN.match(element)
            if constraint is not None:
                if unquoted(constraint["name"]) not in self.constraints:
                    yield element
            elif column is not None and unquoted(column["name"]) in self.columns:
                yield column[0] + self.columns[unquoted(column["name"])]
            else:
                yield element


NOTHING: Final = Untold({}, frozenset())


def read_untold(session: Session, oid: int, listed: Collection[str]) -> Untold:
    """As the session sees the table."""
    names = list(listed)
    with wrapped("reading the defaults of columns that are not listed"):
        columns: dict[str, str] = dict(session.execute(_DEFAULTS, [oid, names]).fetchall())
        constraints = session.execute(_CONSTRAINTS, [oid, names]).fetchall()
    return Untold(columns, frozenset(name for (name,) in constraints))


def _divided(statement: str) -> tuple[str, list[str], str]:
    """CREATE TABLE up to its first parenthesis and with it, what stands there between commas, and the
    rest."""
    depth, opened, began, elements = 0, 0, 0, list[str]()
    for token in _TOKEN.finditer(statement):
        if token[0] in ("(", "["):
            depth += 1
            if depth == 1:
                opened = began = token.end()
        elif depth == 1 and token[0] in (",", ")"):
            elements.append(statement[began : token.start()])
            began = token.end()
            if token[0] == ")":
                return statement[:opened], elements, statement[token.start() :]
        elif token[0] in (")", "]"):
            depth -= 1
    return statement, [], ""
