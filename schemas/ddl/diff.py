"""From what a command changed on the source to the steps that do the same on a replica.

They are in an order that PostgreSQL takes: renames first, dependants dropped before what they depend on, and
made after it; constraints before the foreign keys that use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from schemas.ddl import objects
from schemas.ddl.command import Command
from schemas.ddl.message import ObjectChange, SchemaMessage
from schemas.ddl.rights import default_acl_steps
from schemas.ddl.step import Step
from schemas.ddl.tables import table_steps
from schemas.ddl.types import type_steps

_BY_CLASS: Final[dict[str, Callable[[ObjectChange, Command], Iterator[Step]]]] = {
    "table": table_steps,
    "enum": type_steps,
    "domain": type_steps,
    "composite": type_steps,
    "range": type_steps,
    "schema": objects.schema_steps,
    "sequence": objects.sequence_steps,
    "view": objects.view_steps,
    "matview": objects.view_steps,
    "function": objects.function_steps,
    "extension": objects.extension_steps,
    "default_acl": default_acl_steps,
}
NEWEST: Final = 99
_FIRST: Final = ("schema", "extension")
_LAST_DROPPED: Final = ("schema", "extension")


def steps(message: SchemaMessage, version: int = NEWEST) -> tuple[Step, ...]:
    """All steps of one message, in their order; none where a replica has nothing to do. `version`: of the
    replica's server, such as 18."""
    command = Command(message.changes)
    ordered = sorted(message.changes, key=lambda change: _rank(change, message.changes))
    found = [step for change in ordered for step in _of_change(change, command)]
    return tuple(step.on(version) for step in sorted(found, key=lambda step: step.phase))


def _of_change(change: ObjectChange, command: Command) -> Iterator[Step]:
    found = _BY_CLASS.get(change.class_, objects.other_steps)(change, command)
    if change.unlisted:
        found = (replace(step, unlisted=change.unlisted) for step in found)
    if not change.whole:
        return found
    bound = (change.before or {}).get("partition_bound") or ""
    return (replace(step, whole=change.whole, bound=bound) for step in found)


def _rank(change: ObjectChange, changes: tuple[ObjectChange, ...]) -> tuple[object, ...]:
    """Parents before their children, older objects before newer ones; what goes, the other way round."""
    if change.after is None:
        return (1, change.class_ in _LAST_DROPPED, -change.oid)
    return (0, change.class_ not in _FIRST, _depth(change, changes), change.oid)


def _depth(change: ObjectChange, changes: tuple[ObjectChange, ...], limit: int = 50) -> int:
    """How many generations of its parents changed, too."""
    state = change.after or {}
    parents = [state["partition_of"]] if state.get("partition_of") else state.get("inherits") or []
    if not parents or not limit:
        return 0
    above = [
        other
        for other in changes
        if other.after is not None
        and other.class_ == "table"
        and [other.after["schema"], other.after["name"]] in parents
    ]
    return max((1 + _depth(other, changes, limit - 1) for other in above), default=0)
