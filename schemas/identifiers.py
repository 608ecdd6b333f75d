"""Names as PostgreSQL prints them in SQL, in double quotes unless they are plain, and as we tell them."""

from __future__ import annotations

import re
from typing import Final

_PART: Final = re.compile(r'"(?:[^"]|"")*"|[^.]+')


def unquoted(printed: str) -> str:
    """The name that it stands for."""
    return printed[1:-1].replace('""', '"') if printed.startswith('"') else printed


def qualified(*names: str) -> str:
    """`schema.name`, for people and for what is compared: no two objects have the same one. A name with a dot
    in it, or a double quote in front, is quoted as the configuration quotes it, and no other. Not SQL."""
    return ".".join(_quoted(name) if "." in name or name.startswith('"') else name for name in names)


def as_sql(told: str) -> str:
    """SQL for a name that `qualified` told."""
    return ".".join(_quoted(unquoted(part)) for part in _PART.findall(told))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
