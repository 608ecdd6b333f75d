"""What `source.tables.limits` may say of a table: some of its columns, and which of its rows."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from connectors.postgres.limits.limit import Limit
from pipeline.config.part import Part

_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
"""A text and a name. With E'…' a backslash may hide a quote: then too much is refused, never too little."""


def _one_expression(text: str) -> str:
    """It stands in parentheses in CREATE PUBLICATION, and these must end where we end them. What PostgreSQL
    takes as a row filter it says itself."""
    bare = _QUOTED.sub(" ", text)
    if not bare.strip():
        raise ValueError("must be an SQL expression, such as region = 'eu'")
    if re.search(r"['\";$\\]|--|/\*", bare) or re.search(r"\be'", text, re.IGNORECASE):
        raise ValueError("must be one SQL expression, without comments, `;`, `$` and escapes (E'…')")
    depth = 0
    for character in bare:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
    if depth:
        raise ValueError("must be one SQL expression: its parentheses do not match")
    return text


def _distinct(columns: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(columns)) < len(columns):
        raise ValueError("names a column twice")
    return columns


_Column = Annotated[str, Field(min_length=1, max_length=63)]


class TableLimit(Part):
    """`columns`: names as PostgreSQL stores them. `where`: a row filter."""

    columns: Annotated[tuple[_Column, ...], Field(min_length=1), AfterValidator(_distinct)] | None = None
    where: Annotated[str, AfterValidator(_one_expression)] | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> TableLimit:
        if self.columns is None and self.where is None:
            raise ValueError("needs `columns`, `where` or both")
        return self

    @property
    def limit(self) -> Limit:
        return Limit(self.columns, self.where)
