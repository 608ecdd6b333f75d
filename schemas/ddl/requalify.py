"""A change that names a schema as it was called when its command ran, with its name at its place in the log.

ALTER SCHEMA … RENAME waits for nobody: a transaction that made or altered something in the schema may be
committed behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from schemas.ddl.message import ObjectChange, State
from schemas.ddl.renaming import AS_QUALIFIER, with_names

_TEXTS: Final = frozenset(
    {
        "arguments",
        "base",
        "collation",
        "def",
        "default",
        "of_type",
        "partition_bound",
        "partition_key",
        "returns",
        "type",
    }
)
"""Keys of SQL."""
_NAMES: Final = frozenset(
    {"references", "partition_of", "parent_name", "function", "owned_by", "sequence", "inherits"}
)
"""Keys of [schema, name], or of a list of these."""
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_$]*")


def requalified(change: ObjectChange, names: Mapping[int, str]) -> ObjectChange:
    """`names`: of schemas that were renamed, by their OIDs."""
    for state in (change.before, change.after):
        if state is None or change.class_ == "schema":
            continue
        old, new = state.get("schema"), names.get(state.get("schema_oid", 0))
        if new is not None and old not in (None, new):
            change = replace(
                change, before=_state(change.before, str(old), new), after=_state(change.after, str(old), new)
            )
    return change


def _state(state: State | None, old: str, new: str) -> State | None:
    return None if state is None else _in(state, "", old, new)


def _in(value: Any, key: str, old: str, new: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _in(held, name, old, new) for name, held in value.items()}
    if isinstance(value, list):
        if key in _NAMES and value and value[0] == old:
            return [new, *value[1:]]
        return [_in(each, key, old, new) for each in value]
    if not isinstance(value, str):
        return value
    if key == "schema":
        return new if value == old else value
    return _text(value, old, new) if key in _TEXTS else value


def _text(text: str, old: str, new: str) -> str:
    quoted = ['"' + name.replace('"', '""') + '"' for name in (old, new)]
    forms = [quoted[0], old] if _PLAIN.fullmatch(old) else quoted[:1]
    return with_names(text, dict.fromkeys(forms, quoted[1]), AS_QUALIFIER)
