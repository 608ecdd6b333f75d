"""Text that a terminal shows and never obeys: names and messages of databases may hold anything.

Control characters (C0, DEL, C1) are written out as `\\x1b`, and so are characters that nobody sees and that
change the order or the look of the others (Unicode's category Cf and its line breaks): a name with U+202E
would show the rest of its line backwards. A name that holds a backslash stays as it is.
What machines read says the same as before: JSON and SQL have escapes of their own.
"""

from __future__ import annotations

import json
import re

_UNSEEN = (
    "\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
)
_CONTROL = re.compile(rf"[\x00-\x1f{_UNSEEN}]")
_CONTROL_IN_LINE = re.compile(rf"[\x00-\x09\x0b-\x1f{_UNSEEN}]")
_BYTE, _PLANE = 0xFF, 0xFFFF
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
    code = ord(match[0])
    return _SPELLED.get(match[0]) or (f"\\x{code:02x}" if code <= _BYTE else _spell_code(code))


def _spell_in_json(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1] if ord(match[0]) > _PLANE else _spell_code(ord(match[0]))


def _spell_in_literal(match: re.Match[str]) -> str:
    return _spell_code(ord(match[0]))


def _spell_code(code: int) -> str:
    return f"\\u{code:04x}" if code <= _PLANE else f"\\U{code:08x}"


def _spell_in_sql(token: re.Match[str]) -> str:
    if not _CONTROL.search(token[0]):
        return token[0]
    if token["name"] is not None:
        doubled = token["name"].replace("\\", r"\\")
        return f'U&"{_CONTROL.sub(_spell_in_name, doubled)}"'
    if token["literal"] is not None:
        doubled = token["literal"].replace("\\", r"\\")
        return f"E'{_CONTROL.sub(_spell_in_literal, doubled)}'"
    if token["escaped"] is not None:
        return f"E'{_CONTROL.sub(_spell_in_literal, token['escaped'])}'"
    return printable_lines(token[0])


def _spell_in_name(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\{code:04x}" if code <= _PLANE else f"\\+{code:06x}"
