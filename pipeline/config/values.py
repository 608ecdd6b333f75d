"""The kinds of value a configuration holds: secrets, connection strings, durations, table patterns.

A `Secret` shows itself to nobody: `repr`, `str`, a pydantic dump and an f-string give `***`; only
`reveal()` gives the text. A `ConnectionString` shows everything but its passwords.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from schemas.errors import ConfigError

HIDDEN = "***"


class Secret:
    """A text that must not be shown. Compares by content."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one call that needs it."""
        return self._text

    def __str__(self) -> str:
        return HIDDEN

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def parse(cls, value: object) -> Self:
        """From the file's value. A bare number is a legal password and Kafka setting."""
        if isinstance(value, cls):
            return value
        if isinstance(value, bool):
            return cls("true" if value else "false")
        if isinstance(value, (str, int, float)):
            return cls(str(value))
        raise ValueError("must be a text")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


class ConnectionString(Secret):
    """A libpq connection string, URI or keywords, kept exactly as it was written."""

    def __str__(self) -> str:
        return hide_passwords(self._text)

    @classmethod
    def parse(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str) or not value.strip():
            raise ValueError("must be a libpq connection string, such as postgresql://user@host/database")
        _refuse_malformed(value)
        return cls(value)


_URI_PASSWORD = re.compile(r"(?P<before>^\s*postgres(?:ql)?://[^:/?#@]*:).*(?=@)", re.DOTALL)
_URI_PARAMETER = re.compile(r"(?P<before>[?&](?:ssl)?password=)[^&#]*")
_KEYWORD_PASSWORD = re.compile(
    r"(?P<before>\b(?:ssl)?password\s*=\s*)(?:'(?:[^'\\]|\\.)*'?|(?:[^\s\\]|\\.)+)", re.DOTALL
)


def hide_passwords(conninfo: str) -> str:
    """The connection string as messages may show it."""
    if is_uri(conninfo):
        hidden = _URI_PASSWORD.sub(rf"\g<before>{HIDDEN}", conninfo)
        return _URI_PARAMETER.sub(rf"\g<before>{HIDDEN}", hidden)
    return _KEYWORD_PASSWORD.sub(rf"\g<before>{HIDDEN}", conninfo)


def is_uri(conninfo: str) -> bool:
    return conninfo.startswith(("postgresql://", "postgres://"))


def _refuse_malformed(conninfo: str) -> None:
    """Raise ValueError if libpq cannot read it, or would take a piece of its password for the host."""
    # 100 ms that `--help` need not wait for
    from connectors.postgres.session import describe, unknown_keyword

    try:
        describe(conninfo)
    except ConfigError:
        unknown = unknown_keyword(conninfo)
        raise ValueError(f"has {unknown}" if unknown else _UNREADABLE) from None


_UNREADABLE = (
    "cannot be read by libpq: write postgresql://user@host:5432/database with :/?#[]@% in user and "
    "password percent-encoded (%40 for @), or key=value pairs"
)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(value: object) -> timedelta:
    """`7d`, `5m`, `1h30m`, `500ms` → timedelta. A bare number has no unit and is refused."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip()
    if value == 0 or text == "0":
        return timedelta()
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError("must be a duration with its unit: 500ms, 30s, 5m, 2h, 7d, 1w")
    try:
        return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in parts))
    except OverflowError:
        raise ValueError("must be a duration of less than a billion days") from None


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


@dataclass(frozen=True)
class TablePattern:
    """`schema.table`, where `*` stands for any run of characters.

    Names are matched as PostgreSQL stores them, without folding to lower case. A name that holds
    a dot, a star or a quote is written in double quotes: `crm."odd.name"`.
    """

    text: str

    @classmethod
    def parse(cls, value: object) -> TablePattern:
        if isinstance(value, TablePattern):
            return value
        if not isinstance(value, str) or not _PATTERN.fullmatch(value):
            raise ValueError(_NO_PATTERN)
        return cls(value)

    @classmethod
    def naming(cls, schema: str, table: str) -> TablePattern:
        """The pattern that names exactly this table."""
        return cls(f"{_quoted_part(schema)}.{_quoted_part(table)}")

    def matches(self, schema: str, table: str) -> bool:
        in_schema, named = self._compiled
        return in_schema.fullmatch(schema) is not None and named.fullmatch(table) is not None

    @cached_property
    def name(self) -> tuple[str, str] | None:
        """Schema and name, if it names one table."""
        match = _PATTERN.fullmatch(self.text)
        assert match is not None
        schema, table = _named_part(match["schema"]), _named_part(match["table"])
        return None if schema is None or table is None else (schema, table)

    @cached_property
    def regexes(self) -> tuple[str, str]:
        """For the schema and for the table; they mean the same to Python and to PostgreSQL."""
        match = _PATTERN.fullmatch(self.text)
        assert match is not None
        return f"^{_part_regex(match['schema'])}$", f"^{_part_regex(match['table'])}$"

    @cached_property
    def _compiled(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        schema, table = self.regexes
        return re.compile(schema, re.DOTALL), re.compile(table, re.DOTALL)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


_NO_PATTERN = (
    "must be a pattern schema.table, such as public.* or crm.audit_*; a name with a dot, a star, a quote or a"
    ' blank stands in double quotes, each quote in it twice: crm."a ""b"" c"'
)
_PART = r'(?:"(?:[^"]|"")+"|[^".\s]+)'
_PATTERN = re.compile(rf"(?P<schema>{_PART})\.(?P<table>{_PART})")


def in_yaml(text: str) -> str:
    """Between quotes, as it may stand in the file, also as a key. A log's line escapes double ones."""
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)


def _named_part(part: str) -> str | None:
    """The name that it stands for; None with a `*`."""
    if part.startswith('"'):
        return part[1:-1].replace('""', '"')
    return None if "*" in part else part


def _part_regex(part: str) -> str:
    if part.startswith('"'):
        return _literal_regex(part[1:-1].replace('""', '"'))
    return ".*".join(_literal_regex(piece) for piece in part.split("*"))


def _literal_regex(text: str) -> str:
    return "".join(c if c.isalnum() or c == "_" or ord(c) > 127 else f"\\{c}" for c in text)


def _quoted_part(name: str) -> str:
    if re.fullmatch(r"[^\".*\s]+", name):
        return name
    return '"' + name.replace('"', '""') + '"'
