"""Text that a terminal shows and never obeys: names and messages of databases may hold anything.

Control characters (C0, DEL, C1) are written out as `\\x1b`. A name that holds a backslash stays as it is.
What machines read says the same as before: JSON and SQL have escapes of their own.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_LINE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_SPELLED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_SQL_TOKEN = re.compile(
    r"""(?P<comment> --[^\n]* )
      | \bE'(?P<escaped> (?: '' | \\. | [^'\\] )* )'
      | '(?P<literal> (?: '' | [^'] )* )'
      | "(?P<name> (?: "" | [^"] )* )"
      | (?P<other> . )""",
    re.VERBOSE | re.DOTALL,
)


def printable(text: str) -> str:
    """As one line, or one cell of a table: line breaks are written out, too."""
    return _CONTROL.sub(_spell, text)


def printable_lines(text: str) -> str:
    """The same for text of several lines."""
    return _CONTROL_IN_LINE.sub(_spell, text)


def printable_json(text: str) -> str:
    """The same JSON. Inside of strings `json.dumps` escapes C0 alone."""
    return _CONTROL_IN_LINE.sub(_spell_in_json, text)


def printable_sql(text: str) -> str:
    r"""SQL that does the same: a name or literal with control characters is written with escapes, `U&"…"`
    or `E'…'`. So what is copied from the screen, or piped into psql, names exactly what was meant."""
    return _SQL_TOKEN.sub(_spell_in_sql, text)


def _spell(match: re.Match[str]) -> str:
    return _SPELLED.get(match[0]) or f"\\x{ord(match[0]):02x}"


def _spell_in_json(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _spell_in_sql(token: re.Match[str]) -> str:
    if not _CONTROL.search(token[0]):
        return token[0]
    if token["name"] is not None:
        doubled = token["name"].replace("\\", r"\\")
        return f'U&"{_CONTROL.sub(_spell_in_name, doubled)}"'
    if token["literal"] is not None:
        doubled = token["literal"].replace("\\", r"\\")
        return f"E'{_CONTROL.sub(_spell_in_json, doubled)}'"
    if token["escaped"] is not None:
        return f"E'{_CONTROL.sub(_spell_in_json, token['escaped'])}'"
    return printable_lines(token[0])


def _spell_in_name(match: re.Match[str]) -> str:
    return f"\\{ord(match[0]):04x}"
