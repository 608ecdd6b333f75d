"""SQL that PostgreSQL wrote, with another name for something: texts and bodies of functions stay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_KEPT: Final = r"""'(?:[^']|'')*'(?!::regclass)|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|"(?:[^"]|"")*\""""
AS_QUALIFIER: Final = r"(?=\.)"
"""A schema's name is one only before a dot."""
AS_RELATION: Final = r"(?![\w$\"])"


def with_names(text: str, names: Mapping[str, str], place: str) -> str:
    """`names`: each form in which the name is written, with what stands there instead. `place`: what follows
    on it, AS_QUALIFIER or AS_RELATION."""
    forms = "|".join(map(re.escape, names))
    pattern = rf'(?P<name>(?<![\w$."])(?:{forms}){place})|{_KEPT}'
    return re.sub(pattern, lambda found: names.get(found["name"], found[0]), text, flags=re.DOTALL)
