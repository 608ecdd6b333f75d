"""Which columns are mentioned in SQL that PostgreSQL printed: of a constraint, an index or an expression.

PostgreSQL prints keywords in capitals, and quotes each name that has more than small letters, digits and `_`,
or is a keyword where a column may stand. It never qualifies a column in such SQL. So a column is what is a
name, and no literal's piece, type, function, argument, option, collation, schema or (behind another operand,
but not behind `OPERATOR(schema.=)`) operator class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from schemas.identifiers import unquoted

_NAME: Final = r'(?:[a-z_][a-z0-9_]*|"(?:[^"]|"")*")'
_TOKEN: Final = re.compile(
    rf"""'(?:[^']|'')*'
       | CREATE\ (?:UNIQUE\ )?INDEX\ {_NAME}\ ON\ (?:ONLY\ )?(?:{_NAME}\.)?{_NAME}
       | (?:USING|COLLATE|AS|RETURNING|NAME)\ (?:{_NAME}\.)?{_NAME}
       | EXTRACT\({_NAME}\ FROM
       | ::(?:{_NAME}\.)?{_NAME}(?:\([0-9,]+\))?(?:\ [a-z]+)*
       | (?:true|false)\b
       | (?P<row>\.?{_NAME}\.\*)
       | \.?{_NAME}(?=[.(])
       | \.{_NAME}
       | {_NAME}(?:\ =>|(?=='))
       | (?<=[a-z0-9_")]\ )(?<![-+*/<>=~!@#%^&|`?]\)\ ){_NAME}
       | (?P<column>{_NAME})
       | [A-Z0-9][\w.]*
       | .""",
    re.VERBOSE | re.DOTALL,
)


def mentions_any(definition: str, columns: Iterable[str]) -> bool:
    """Whether it depends on one of these columns of its table: by its name, or with the whole row."""
    asked = frozenset(columns)
    return bool(asked) and any(
        token["row"] is not None or (token["column"] is not None and unquoted(token["column"]) in asked)
        for token in _TOKEN.finditer(definition)
    )
